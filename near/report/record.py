"""report.json: the comparison for programs."""

import statistics
from dataclasses import asdict

from near.report import verdict
from near.report.compare import (
    LEAST,
    Difference,
    Group,
    baseline_of,
    beside_base,
    beside_random,
    contaminated,
    groups_of,
)
from near.report.runs import Run
from near.report.stages import stage_rows


def record(runs: list[Run]) -> dict:
    """The answer, and for each selection its differences with intervals, verdicts, and what could have been shown."""
    groups = groups_of(runs)
    return {
        "schema_version": 1,
        "answer": verdict.answer(runs),
        "selections": [_selection(group, groups) for group in groups],
    }


def _selection(group: Group, groups: list[Group]) -> dict:
    other, without = baseline_of(group, groups), contaminated(group, groups)
    compared = other not in (None, group)
    return {
        "selection": group.label,
        "seeds": list(group.runs),
        "runs": [run.folder.name for run in group.runs.values()],  # the names of their folders
        "target_loss": statistics.mean(run.metrics.target_loss for run in group.runs.values()),
        "kept_round": [run.kept_round for run in group.runs.values()],  # by seed; null without validation rows
        "vs_random": _difference(beside_random(group, other)) if compared else None,
        "vs_base": _difference(beside_base(group)),
        "fidelity": verdict.fidelities(group),
        "stages": [asdict(row) for row in stage_rows([group])],
        "contaminated_rows": sorted(without),
        "vs_random_without_them": _difference(beside_random(group, other, without)) if compared and without else None,
    }


def _difference(difference: Difference | None) -> dict | None:
    """A difference of target losses. `smallest`: that these seeds and examples would show with a power of 80%;
    `seeds_needed`, `examples_needed`: to show the one that was seen; null if they are unknown or too many."""
    if difference is None:
        return None
    design, mean = difference.design, difference.mean
    known = design is not None and (design.seeds > 1 or design.examples is not None)
    return {
        "mean": mean,
        "over_seeds": difference.seeds,
        "over_examples": difference.examples,
        "verdict": difference.verdict,
        "smallest": design.smallest() if known else None,
        "seeds_needed": design.seeds_for(mean, LEAST) if known and mean else None,
        "examples_needed": design.examples_for(mean) if known and mean else None,
    }
