"""All steps on the built-in data, each as a user would type it; finished steps are not repeated.

    python bench/demo.py [runs/demo]

It ends with the table of report.py, the seconds of each step and the peak memory of the largest process.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import resource
import subprocess

from bench import common


def steps(runs: str) -> list[list[str]]:
    """Script and overrides of each step."""
    return [
        ["select.py", f"output_dir={runs}/select"],
        ["train.py", "-m", "selector=near,random", f"output_dir={runs}/train"],
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
