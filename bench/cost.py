"""What `dry_run=true` estimates, beside what then happened: seconds of each stage, tokens, memory.

    python bench/cost.py                                            # a part of the demo: minutes
    python bench/cost.py data=crossed data.rows=10000 small=false   # 10,000 rows, LESS on all of them: hours on a CPU
    python bench/cost.py commands=less model=tiny embedder=hashing

commands: near, less, delta_loss, shortlist and select, of which each starts with an empty cache (but for models and
data that are downloaded once). small=false leaves out the words that make the work short. All other words are options
of the commands; select.py gets those that it has. The factor is that between the two numbers, the larger by the
smaller; of less than a second it says little. `rest` is what no stage counts: starting Python, reading rows, writing
files.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import os
import resource
import shutil
import subprocess
import time

from bench import common
from near.common.cost import Cost, size
from near.common.records import EvalMetrics, ModelMetrics, SelectionManifest
from near.common.run_folder import DRY_RUN, RunFolder

COMMANDS = {
    "near": ["train.py", "selector=near"],
    "less": ["train.py", "selector=less"],
    "delta_loss": ["train.py", "selector=delta_loss"],
    "shortlist": ["train.py", "selector=less_shortlist"],
    "select": ["select.py"],
}
SMALL = {  # words that make a command short, by script
    "train.py": ["data.candidates.limit=400", "data.eval.limit=24", "trainer.warmup_step=2", "trainer.update_step=4"],
    "select.py": ["data.candidates.limit=2000"],
}
SLOW = {"less": ["data.candidates.limit=120"], "delta_loss": ["data.candidates.limit=200"]}
TRAINING = ("trainer", "finetuning", "evaluation", "data.eval")  # options that select.py does not have or need
SAME = 1.5  # the factor that is promised
LEAST = 1.0  # seconds of a stage for which it is


def main(
    *overrides: str,
    commands: list[str] = ["near", "less", "delta_loss", "select"],  # noqa: B006
    small: bool = True,
    out: str = "runs/cost",
) -> None:
    worst: dict[str, float] = {}
    for name in commands:
        script, *words = COMMANDS[name]
        words += overrides
        if small:
            words += [word for word in SMALL[script] if not _names(word, SLOW.get(name, []))] + SLOW.get(name, [])
        if script == "select.py":
            words = [word for word in words if not word.lstrip("+").startswith(TRAINING)]
        folder = common.ROOT / out / name
        if folder.exists():
            shutil.rmtree(folder)
        words += [f"cache_dir={_cache(folder)}", f"output_dir={folder / 'run'}", "hydra/job_logging=disabled"]
        print(f"\n$ python {script} {' '.join(words)}", flush=True)
        dry, _ = _run([script, *words, "dry_run=true"])
        estimated = Cost.read(folder / "run" / DRY_RUN)
        whole, memory = _run([script, *words])
        worst |= {f"{name}: {stage}": factor for stage, factor in _compared(estimated, folder / "run", whole).items()}
        print(f"peak memory: {size(estimated.memory or 0)} estimated, {size(memory)} of the whole process")
        print(f"the dry run took {dry:.0f} s", flush=True)
    beyond = [f"{stage} ({factor:.2f})" for stage, factor in worst.items() if factor > SAME]
    print(f"\n{len(worst) - len(beyond)} of {len(worst)} numbers within a factor of {SAME}; beyond: {beyond or 'none'}")


def _names(word: str, others: list[str]) -> bool:
    return any(word.split("=")[0] == other.split("=")[0] for other in others)


def _cache(folder: Path) -> Path:
    """An empty cache with the models and data that are downloaded once."""
    cache, shared = folder / "cache", Path(os.environ["NEAR_CACHE"]).resolve() / "assets"
    cache.mkdir(parents=True)
    shared.mkdir(parents=True, exist_ok=True)
    (cache / "assets").symlink_to(shared)
    return cache


def _run(words: list[str]) -> tuple[float, int]:
    """Run a script; returns its seconds and its peak memory, in bytes. Exit if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=common.ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output = process.communicate()
    if process.returncode:
        sys.exit(output[1].decode()[-2000:])
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _compared(estimated: Cost, folder: Path, whole: float) -> dict[str, float]:
    """Print the table of a command; returns the factors that count, by name."""
    happened = _selected(folder) if estimated.script == "select" else _trained(folder)
    print(f"{'':24}{'estimated':>12}{'from':>10}{'to':>10}{'happened':>12}{'factor':>9}")
    factors, sums = {}, [0.0, 0.0, 0.0, 0.0]
    for name, (parts, seconds) in happened.items():
        stages = [stage for part in parts if (stage := estimated.stages.get(part)) is not None]
        if not stages:
            continue
        guess, low, high = (sum(getattr(stage, field) for stage in stages) for field in ("seconds", "low", "high"))
        sums = [total + value for total, value in zip(sums, (guess, low, high, seconds), strict=True)]
        factor = _line(name, guess, low, high, seconds)
        if max(guess, seconds) >= LEAST:
            factors[name] = factor
    guess, low, high, all_happened = sums
    factors["all"] = _line("all", guess, low, high, all_happened)
    print(f"{'rest':24}{'':32}{whole - all_happened:12.1f}")
    if estimated.script == "train":
        tokens = sum(estimated.stages[name].tokens for name in ("warm-up", "training") if name in estimated.stages)
        trained = RunFolder(folder).training.tokens_trained
        print(f"{'tokens trained':24}{tokens:12,}{'':20}{trained:12,}{_factor(tokens, trained):9.2f}")
    return factors


def _line(name: str, seconds: float, low: float, high: float, happened: float) -> float:
    factor = _factor(seconds, happened)
    print(f"{name:24}{seconds:12.1f}{low:10.1f}{high:10.1f}{happened:12.1f}{factor:9.2f}", flush=True)
    return factor


def _factor(one: float, other: float) -> float:
    few, many = sorted((max(one, 1e-9), max(other, 1e-9)))
    return many / few


def _selected(folder: Path) -> dict[str, tuple[list[str], float]]:
    """By line: its stages, and their seconds."""
    figures = SelectionManifest.read(folder / "manifest.json").figures
    return {
        "embedding": (["embedding"], figures["embed_seconds"]),
        "search": (["search"], figures["search_seconds"]),
    }


def _trained(folder: Path) -> dict[str, tuple[list[str], float]]:
    files = RunFolder(folder)
    training, metrics, rounds = files.training, files.metrics, files.rounds
    at_rounds = sum(line.evaluate_seconds or 0.0 for line in rounds)
    return {
        "embedding": (["embedding"], training.embed_seconds or 0.0),
        "search": (["search"], training.search_seconds or 0.0),
        "evaluation of the base": (["evaluation of the base"], _seconds(metrics.base)),
        "scoring": (["scoring"], sum(line.select_seconds for line in rounds if line.selector != "warm-up")),
        "training and saving": (["warm-up", "training", "saving"], training.train_seconds or 0.0),
        "evaluation": (["evaluation"], at_rounds + _seconds(metrics)),
    }


def _seconds(metrics: ModelMetrics | EvalMetrics | None) -> float:
    """Seconds of an evaluation on all sets."""
    if metrics is None:
        return 0.0
    return sum(part.evaluation_seconds or 0.0 for part in (metrics, *metrics.more.values()))


if __name__ == "__main__":
    common.script(main)
