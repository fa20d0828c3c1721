"""The outcome of one check of a folder that was handed on."""

from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "not possible", "not checked"]


@dataclass(frozen=True)
class Check:
    """A line of the table.

    Attributes:
        name: of what was checked.
        outcome: "not possible": something that the check needs is not here, such as the model; "not checked": `near
            verify` never does it, such as training.
        detail: what was compared, or the reason.
    """

    name: str
    outcome: Outcome
    detail: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def passed(name: str, detail: str) -> Check:
    return Check(name, "passed", detail)


def failed(name: str, detail: str) -> Check:
    return Check(name, "failed", detail)


def impossible(name: str, detail: object) -> Check:
    return Check(name, "not possible", str(detail))


def status(checks: list[Check]) -> int:
    """The exit status: 1 if a check failed, else 3 if one was not possible, else 0."""
    outcomes = {check.outcome for check in checks}
    return 1 if "failed" in outcomes else 3 if "not possible" in outcomes else 0
