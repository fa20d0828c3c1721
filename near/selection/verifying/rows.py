"""Whether data are the rows that a selection was made from, by their content."""

import hashlib
from dataclasses import dataclass

import numpy as np

from near.common.records import RowsRecord
from near.common.text import plural
from near.data.rows import Rows
from near.selection.verifying.checks import Check, failed, impossible, passed

SHOWN = 5  # rows that a line names


@dataclass(frozen=True)
class Matched:
    """Rows there and here with the same content; of equal rows the first with the first, and so on.

    Attributes:
        here: int64 (n_there,), the id here of each row there; -1: none.
        rows: how many rows are here.
    """

    here: np.ndarray
    rows: int

    @classmethod
    def unchanged(cls, rows: int) -> "Matched":
        return cls(np.arange(rows), rows)

    @property
    def missing(self) -> np.ndarray:
        """Rows there that are not here, int64 ascending."""
        return np.flatnonzero(self.here < 0)

    @property
    def there(self) -> np.ndarray:
        """The id there of each row here, int64 (rows,); -1: none."""
        there = np.full(self.rows, -1, dtype=np.int64)
        is_here = self.here >= 0
        there[self.here[is_here]] = np.flatnonzero(is_here)
        return there

    @property
    def moved(self) -> int:
        """How many rows are here at another position."""
        return int(np.count_nonzero((self.here >= 0) & (self.here != np.arange(len(self.here)))))

    @property
    def is_same(self) -> bool:
        return not self.moved and not len(self.missing) and len(self.here) == self.rows


def match(there: np.ndarray, here: np.ndarray) -> Matched:
    """Match rows by their keys, uint64 (n, 2) and (m, 2)."""
    if there.shape == here.shape and np.array_equal(there, here):
        return Matched.unchanged(len(here))
    keys = np.concatenate([there, here])
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal keys those there come first, in their order
    keys = keys[order]
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    group, is_there = np.cumsum(begins) - 1, order < len(there)
    start = np.flatnonzero(begins)  # (n_groups,)
    count_there = np.add.reduceat(is_there.astype(np.int64), start) if len(start) else start
    size = np.diff(np.append(start, len(keys)))
    at = np.flatnonzero(is_there)
    number = at - start[group[at]]  # which of the equal rows
    has_partner = number < (size - count_there)[group[at]]
    partner = (start + count_there)[group[at]] + number
    result = np.full(len(there), -1, dtype=np.int64)
    result[order[at[has_partner]]] = order[partner[has_partner]] - len(there)
    return Matched(result, len(here))


def check_rows(
    name: str, option: str, record: RowsRecord | None, keys: np.ndarray | None, rows: Rows, named: np.ndarray | None
) -> tuple[Check, Matched | None]:
    """Compare data with what a folder says of them.

    Args:
        name: of the check.
        option: of the data.
        record, keys: of the folder.
        rows: the data as they are here.
        named: rows that the folder's files name; None: all.

    Returns:
        the check, and how the rows match; None where that is unknown.
    """
    if record is None or record.fingerprint is None:
        return impossible(name, "the folder does not say which rows these were"), None
    shown = f"{plural(len(rows), 'row')} (fingerprint {rows.fingerprint[:12]})"
    if record.fingerprint == rows.fingerprint:
        return passed(name, f"the same {shown}"), Matched.unchanged(len(rows))
    if keys is None:
        count = "" if record.rows is None else f" of {plural(record.rows, 'row')}"
        fix = f"name the right ones with {option}.path=FILE"
        line = f"other rows: {shown} instead of {record.fingerprint[:12]}{count}; which ones is unknown; {fix}"
        return failed(name, line), None
    matched = match(keys, rows.content_keys())
    if matched.is_same:
        return passed(name, f"the same {plural(len(rows), 'row')}, from other files"), matched
    new = matched.there < 0
    if not len(matched.missing) and not new.any():
        line = f"the same {plural(len(rows), 'row')} in another order ({matched.moved} moved)"
        return passed(name, f"{line}; ids are translated by content"), matched
    return failed(name, _differing(matched, np.flatnonzero(new), named, option)), matched


def _differing(matched: Matched, new: np.ndarray, named: np.ndarray | None, option: str) -> str:
    missing = matched.missing
    parts = [f"{plural(len(missing), 'row')} of {len(matched.here)} {'is' if len(missing) == 1 else 'are'} not here"]
    parts[0] += f" ({shown_ids(missing)})" if len(missing) else ""
    parts.append(
        f"{plural(len(new), 'row here is', 'rows here are')} not there" + (f" ({shown_ids(new)})" if len(new) else "")
    )
    if matched.moved:
        parts.append(f"{plural(matched.moved, 'row is', 'rows are')} at another position")
    if named is not None:
        absent = np.intersect1d(named, missing)
        where = f" ({shown_ids(absent)})" if len(absent) else ""
        parts.append(
            f"of the {plural(len(named), 'row')} that the folder names {len(absent) or 'none'} is missing{where}"
        )
    return f"{'; '.join(parts)}; restore them, or name other data with {option}.path=FILE"


def shown_ids(ids: np.ndarray) -> str:
    """The first ids of several.

    >>> shown_ids(np.array([3, 7]))
    'row 3, 7'
    """
    return f"row {', '.join(map(str, ids[:SHOWN].tolist()))}" + (", ..." if len(ids) > SHOWN else "")


def check_inside(named: np.ndarray, matched: Matched) -> list[Check]:
    """A failed check if a row that the folder names, int64 ascending, is none of its pool."""
    outside = named[np.searchsorted(named, len(matched.here)) :]
    if not len(outside):
        return []
    return [failed("ids", f"{plural(len(outside), 'row')} outside the {len(matched.here)} of the pool: {outside[0]}")]


def check_eligible(record: RowsRecord, digest: str | None, rows: Rows, matched: Matched) -> Check:
    """Whether the same rows of the pool may be selected. record, digest: of the manifest."""
    here = rows.eligible()
    there = np.sort(matched.there[here])
    unknown = int((there < 0).sum())
    counts = f"{len(here)} of {len(rows)} may be selected"
    if digest is None:
        return impossible("eligible rows", "the manifest does not say which rows could be selected")
    if not unknown and hashlib.sha256(there).hexdigest()[:32] == digest:
        return passed("eligible rows", f"the same: {counts}")
    if unknown or len(matched.missing):
        return failed("eligible rows", f"{counts}, there {record.eligible}, as rows of the pool differ")
    return failed(
        "eligible rows",
        f"{counts}, there {record.eligible}: other rows were left out; compare data.queries, data.eval, data.leakage, "
        "data.dedup and data.decontaminate",
    )
