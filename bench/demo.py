"""The whole job on the built-in data, each step as a user would type it; what is done already is not done again.

    python bench/demo.py [runs/demo]

Ends with the table of report.py, the seconds of each step and the largest process's peak memory. Each step is a process
of its own, forked from this one, which has imported the libraries: typed, each of them would import them again. Rows go
through the model one by one, eight to a step, as padding them to each other's length is work on a CPU.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in place of this folder, whose select.py hides another

import importlib
import multiprocessing
import os
import resource
import runpy

from bench import common

LIBRARIES = ("faiss", "datasets", "peft", "sentence_transformers", "transformers.trainer")


def steps(runs: str) -> list[list[str]]:
    """Script and overrides of each step."""
    unpadded = ["trainer.args.per_device_train_batch_size=1", "trainer.args.gradient_accumulation_steps=8"]
    return [
        ["select.py", f"output_dir={runs}/select"],
        ["train.py", "-m", "selector=near,random", *unpadded, f"output_dir={runs}/train"],
        [
            "merge.py",
            f"adapter_name_or_path={runs}/train/selector-near/adapter",
            f"export_dir={runs}/merged",
            f"output_dir={runs}/merge",
        ],
        ["eval.py", f"output_dir={runs}/base"],
        ["report.py", f"runs={runs}"],
    ]


def step(*words: str) -> None:
    """Show the command and run it from the repository's root; stop where it fails."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    process = multiprocessing.get_context("fork").Process(target=run, args=words)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(abs(process.exitcode))


def run(*words: str) -> None:
    """What `python WORDS` does."""
    os.chdir(common.ROOT)
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")


def main(runs: str = "runs/demo") -> None:
    imports = common.timed(lambda: [importlib.import_module(name) for name in LIBRARIES])[0]
    seconds = {"imports": imports}
    for words in steps(runs):
        if words[0] == "merge.py" and (common.ROOT / runs / "merged" / "config.json").is_file():
            print(f"\n{runs}/merged is there already")
            continue
        seconds[words[0]], _ = common.timed(lambda words=words: step(*words))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kilobytes on Linux
    each = ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items())
    print(f"\nThe demo took {sum(seconds.values()):.0f} seconds ({each}); the largest process held {peak:.1f} GB.")


if __name__ == "__main__":
    common.script(main)
