"""The pages of docs/ that are made from the code; only the repository has them."""

from pathlib import Path

from near.common.config import CONF
from near.common.errors import UserError

DOCS = CONF.parent / "docs"


def page_to_write(name: str) -> Path:
    """The page `name` of docs/. UserError where near is installed without its repository."""
    if not (DOCS / name).is_file():
        raise UserError(f"{DOCS / name} does not exist; run this in a clone of near's repository")
    return DOCS / name
