"""Fine-tune on a subset that is re-picked while training runs: python train.py selector=near."""

from near.app.entry import start

if __name__ == "__main__":
    start("train")
