"""How a folder that was handed on is checked, and the outcome of one check."""

from dataclasses import asdict, dataclass
from typing import Literal

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, one_line, user_error
from near.common.extras import missing_module

FAULTS = (UserError, OSError, HydraException, OmegaConfBaseException)  # of a folder or the data here
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


@dataclass(frozen=True)
class Settings:
    """How a folder is checked.

    Attributes:
        cache_dir: of the data and the embeddings.
        signers: an allowed_signers file; None: any signer.
        limit: seconds for recomputing scores; None: no limit.
        tolerance: of scores; None: by the dtype of the vectors.
        download: whether a model may be downloaded.
        seed: of the order in which queries are taken.
    """

    cache_dir: str
    signers: str | None = None
    limit: float | None = 60
    tolerance: float | None = None
    download: bool = False
    seed: int = 42


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


def reason(error: BaseException) -> str:
    """A fault in one line."""
    if isinstance(error, ModuleNotFoundError):
        return missing_module(error) or one_line(error)
    return one_line(user_error(error) or error)
