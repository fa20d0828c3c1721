"""Fine-tune on a subset that is re-picked while training runs: python train.py selector=near."""

from near.app.scripts import output_dir, run, script


@script("train")
def main(cfg):
    from near.training.train import train

    return train(cfg, output_dir())


if __name__ == "__main__":
    run(main)
