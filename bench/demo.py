"""The whole job on the built-in data, each step as a user would type it; what is done already is not done again.

    python bench/demo.py [runs/demo]

Ends with the table of report.py, the seconds it took and the largest process's peak memory.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def step(*words: str) -> None:
    """Show the command and run it from the repository's root; stop where it fails."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def main(runs: str) -> None:
    begun = time.perf_counter()
    step("select.py", f"output_dir={runs}/select")
    step("train.py", "-m", "selector=near,random", f"output_dir={runs}/train")
    if (ROOT / runs / "merged" / "config.json").is_file():
        print(f"\n{runs}/merged is there already")
    else:
        adapter = f"adapter_name_or_path={runs}/train/selector-near/adapter"
        step("merge.py", adapter, f"export_dir={runs}/merged", f"output_dir={runs}/merge")
    step("eval.py", f"output_dir={runs}/base")
    step("report.py", f"runs={runs}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kilobytes on Linux
    print(f"\nThe demo took {time.perf_counter() - begun:.0f} seconds; the largest process held {peak:.1f} GB.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
