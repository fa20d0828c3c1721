"""All steps on data that is made on the spot, each as a user would type it; finished steps are not repeated.

    python bench/demo.py [runs/demo]

It ends with the table of report.py, the seconds of each step and the peak memory of the largest process.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import resource
import subprocess

from bench import common

TARGET = "longest-7"  # a skill and a wording of data=crossed; random, near and oracle differ on it (docs/evidence.md)
DATA = ["data=crossed", f"data.target={TARGET}", "data.rows=500", "data.query_rows=16", "data.eval_rows=32"]


def steps(runs: str) -> list[list[str]]:
    """Script and overrides of each step."""
    trained = ["selector=random,near,oracle", "seed=1,2,3", f"output_dir={runs}/train"]
    return [
        ["select.py", *DATA, "selector=near", "n=48", "page=true", f"output_dir={runs}/select"],
        ["train.py", "sweeps=targets", f"data.target={TARGET}", *trained],
        [
            "merge.py",
            f"adapter_name_or_path={runs}/train/data.target-{TARGET}_selector-near_seed-1/adapter",
            f"export_dir={runs}/merged",
            f"output_dir={runs}/merge",
        ],
        ["eval.py", *DATA, f"model.name_or_path={runs}/merged", "evaluation=crossed", f"output_dir={runs}/evaluated"],
        ["report.py", f"runs={runs}/train"],
    ]


def step(*words: str) -> None:
    """Print the command and run it in the repository's root; exit if it fails."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, *words], cwd=common.ROOT).returncode:
        sys.exit(abs(status))


def main(runs: str = "runs/demo") -> None:
    seconds = {}
    for words in steps(runs):
        if words[0] == "merge.py" and (common.ROOT / runs / "merged" / "config.json").is_file():
            print(f"\n{runs}/merged exists already")
            continue
        seconds[words[0]], _ = common.timed(lambda words=words: step(*words))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kilobytes on Linux
    each = ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items())
    print(f"\nThe demo took {sum(seconds.values()):.0f} seconds ({each}); the largest process used {peak:.1f} GB.")


if __name__ == "__main__":
    common.script(main)
