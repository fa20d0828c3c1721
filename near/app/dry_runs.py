"""The dry runs of a sweep's jobs as one sum: what is done already, and what jobs share, takes nothing; and their
forecasts as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from near.common.cost import Cost, StageCost, duration
from near.common.run_folder import DRY_RUN
from near.evaluation.forecast import VerdictForecast

HEADS = ("job", "time", "from", "to", "")
FORECAST_HEADS = ("job", "beats random rows", "gain", "earlier ones came true", "rows")


def files(folder: Path, name: str = DRY_RUN) -> list[Path]:
    """The jobs' files of that name in a sweep's folder."""
    return sorted(folder.glob(f"*/{name}"))


def summed(jobs: Sequence[Cost], names: Sequence[str]) -> Cost:
    """The cost of a sweep, one job after the other. jobs: in the order in which they run; names: their labels."""
    stages: dict[str, StageCost] = {}
    paid: set[str] = set()
    done = [(job.training_key, name) for job, name in zip(jobs, names, strict=True) if job.done]
    trained = dict(reversed(done))  # job by training key; finished jobs are adopted by those before them, too
    lines = []
    for job, name in zip(jobs, names, strict=True):
        todo, note = dict(job.stages), ""
        if job.done:
            todo, note = {}, "done already"
        elif job.training_key is not None and job.training_key in trained:
            todo, note = {}, f"same rows as {trained[job.training_key]}: not trained again"
        elif job.training_key is not None:
            trained[job.training_key] = name
        shared = [part for part, stage in todo.items() if stage.key in paid]
        todo = {part: stage for part, stage in todo.items() if part not in shared}
        paid |= {stage.key for stage in todo.values() if stage.key is not None}
        if shared:
            note = f"shared with a job before: {', '.join(shared)}"
        for part, stage in todo.items():
            stages[part] = _added(stages[part], stage) if part in stages else replace(stage, note="", key=None)
        own = replace(job, stages=todo).summed()
        lines.append({"job": name, "seconds": own.seconds, "low": own.low, "high": own.high, "note": note})
    unique = {
        part: list(dict.fromkeys(one for job in jobs for one in getattr(job, part)))
        for part in ("downloads", "not_counted")
    }
    timed, processes = all(job.timed for job in jobs), max(job.processes for job in jobs)
    return Cost(script="train", timed=timed, processes=processes, stages=stages, jobs=lines, **unique).summed()


def _added(one: StageCost, other: StageCost) -> StageCost:
    """The sum of a stage over two jobs; their memory is not needed at once."""

    def added(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + b

    names = ("rows", "tokens", "seconds", "low", "high", "disk")
    memory = max((part.memory for part in (one, other) if part.memory is not None), default=None)
    return StageCost(memory=memory, **{name: added(getattr(one, name), getattr(other, name)) for name in names})


def show(folder: Path, jobs: Sequence[Cost], names: Sequence[str]) -> None:
    """Print the jobs and their sum, and write dry_run.json into the sweep's folder."""
    from near.common.tables import console, table

    cost = summed(jobs, names)
    cells = []
    for line in cost.jobs:
        times = (line[key] for key in ("seconds", "low", "high"))
        cells.append([line["job"], *("-" if value is None else duration(value) for value in times), line["note"]])
    console().print(table(HEADS, cells, breaking=(4,)))
    cost.report(folder)


def show_forecasts(forecasts: Mapping[str, VerdictForecast]) -> None:
    """Print forecasts by the label of their job, the most likely first."""
    from near.common.tables import console, table

    cells = [
        [
            label,
            f"{forecast.probability:.0%}",
            f"{forecast.gain:+.2f} ± {forecast.error:.2f}",
            f"{forecast.came_true} of {forecast.like}",
            str(forecast.rows),
        ]
        for label, forecast in sorted(forecasts.items(), key=lambda pair: -pair[1].gain)
    ]
    console().print(table(FORECAST_HEADS, cells))
