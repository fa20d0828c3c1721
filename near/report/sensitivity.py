"""Will this be enough to see it? What a comparison with random rows could have shown (near/evaluation/design.py)."""

from near.common.text import plural
from near.evaluation.power import POWER
from near.report.compare import LEAST, Difference, Group, baseline_of, beside_random

ROUNDING = 1e-6  # nats: smaller differences and spreads are rounding


def powers(groups: list[Group]) -> list[str]:
    """For each selection, the smallest difference to random rows that its seeds and examples would show, and how many
    would show the one that was seen if none is shown."""
    lines = []
    for group in groups:
        other = baseline_of(group, groups)
        difference = None if other in (None, group) else beside_random(group, other)
        if difference is not None and (line := power_of(difference)):
            lines.append(f"{group.label}: {line}")
    return lines


def power_of(difference: Difference) -> str | None:
    """The power of a comparison in a sentence; None if its variances are unknown, or zero."""
    design, few = difference.design, ""
    if design is None or (design.seeds < 2 and design.examples is None):
        return None
    if design.seeds < LEAST:
        few = f"{plural(design.seeds, 'seed')} can't give a verdict; "
        design = design.with_more(seeds=LEAST if design.seeds > 1 else 1)
    if (smallest := design.smallest()) < ROUNDING:
        return None
    counts = [plural(design.seeds, "seed")] + ([] if design.examples is None else [plural(design.examples, "example")])
    line = f"{few}{' and '.join(counts)} would show a difference of {smallest:.4f} ({POWER:.0%} power, two-sided 5%)"
    if design.seeds == 1:
        return f"{line} of that seed, whatever others give."
    if difference.verdict in ("better", "worse") or round(difference.mean, 4) == 0:
        return f"{line}."
    seeds, examples = design.seeds_for(difference.mean, LEAST), design.examples_for(difference.mean)
    enough = [f"about {plural(count, name)}" for count, name in ((seeds, "seed"), (examples, "example")) if count]
    needed = " or ".join(enough) or "both more seeds and more examples"
    return f"{line}; the {difference.mean:+.4f} seen would take {needed}."
