"""The settings of a comparison: where the selections differ, versions, data, and the commands that repeat the runs."""

import shlex
from dataclasses import dataclass, field

from near.report.compare import Group
from near.report.runs import Run

LONG = 120  # characters of a value


@dataclass
class Compared:
    """Rows of the page's tables.

    Attributes:
        differing: setting, then its value in every group.
        alike: setting and value, of those that all groups have in common.
        facts: versions and fingerprints: name, value, and of how many runs.
        commands: a run's name and the command that repeats it.
    """

    differing: list[list[str]] = field(default_factory=list)
    alike: list[list[str]] = field(default_factory=list)
    facts: list[list[str]] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)


def compared(groups: list[Group]) -> Compared:
    """The settings of all runs of `groups`."""
    of = [group.one.settings for group in groups]
    result = Compared()
    for key in sorted(set().union(*of)):
        values = [_short(s.get(key, "-")) for s in of]
        if len(set(values)) > 1:
            result.differing.append([key, *values])
        else:
            result.alike.append([key, values[0]])
    runs = [run for group in groups for run in group.runs.values()]
    result.facts = _facts(runs)
    result.commands = [[run.folder.name, command] for run in runs if (command := _command(run))]
    return result


def _facts(runs: list[Run]) -> list[list[str]]:
    """Versions and fingerprints: one line where all runs have the same, else a line for each value."""
    seen: dict[str, dict[str, int]] = {}
    for run in runs:
        facts = {f"{name} version": v for name, v in run.training.versions.items()}
        prints = run.training.identity.fingerprints
        facts |= {f"{name} fingerprint": v for name, v in prints.items()}
        for name, value in facts.items():
            counts = seen.setdefault(name, {})
            counts[str(value)] = counts.get(str(value), 0) + 1
    return [
        [name, value, "all runs" if len(counts) == 1 and count == len(runs) else f"{count} of {len(runs)} runs"]
        for name, counts in seen.items()
        for value, count in counts.items()
    ]


def _command(run: Run) -> str | None:
    """The command that repeats the run, from the overrides that Hydra recorded."""
    if not (words := run.files.overrides):
        return None
    return shlex.join(["python", "train.py", *(word for word in words if not word.startswith("sweeps="))])


def _short(value: str) -> str:
    return value if len(value) <= LONG else value[: LONG - 1] + "…"
