"""Whether a manifest and the lines of rounds have values of the types that the checks read: a stranger wrote them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from near.common.errors import UserError, printable
from near.common.records import RoundRecord, SelectionManifest


def check_manifest(path: Path, manifest: SelectionManifest) -> None:
    """UserError for the first value of another type. `path`: of the file."""
    for part in ("candidates", "queries"):
        rows = getattr(manifest, part)
        if rows is not None:
            _check(path, f"{part}.fingerprint", rows.fingerprint, "a text", _is_text(rows.fingerprint))
            for name in ("rows", "eligible"):
                _check(path, f"{part}.{name}", getattr(rows, name), "a number of rows", _is_count(getattr(rows, name)))
    _check(path, "eligible_digest", manifest.eligible_digest, "a text", _is_text(manifest.eligible_digest))
    _check_digests(path, manifest.sha256)
    if _check_object(path, "subset", manifest.subset):
        content, rows = manifest.subset.get("content"), manifest.subset.get("rows")
        _check(path, "subset.content", content, "a text", _is_text(content))
        _check(path, "subset.rows", rows, "a number of rows", _is_count(rows))
    if _check_object(path, "verdict", manifest.verdict):
        _check_verdict(path, manifest.verdict)


def check_rounds(path: Path, rounds: Iterable[RoundRecord]) -> None:
    """UserError for the first value of another type. `path`: of rounds.jsonl."""
    for line in rounds:
        for name in ("round", "rows"):
            value = getattr(line, name)
            _check(path, name, value, "a number", value is not None and _is_count(value))
        _check(path, "draws", line.draws, "a number", _is_count(line.draws))
        _check(path, "selector", line.selector, "a text", _is_text(line.selector))
        _check_digests(path, line.sha256)


def _check_verdict(path: Path, verdict: dict) -> None:
    loss = verdict.get("target_loss")
    _check(path, "verdict.target_loss", loss, "a number", loss is None or _is_number(loss))
    difference = verdict.get("vs_random")
    if not _check_object(path, "verdict.vs_random", difference):
        return
    mean = difference.get("mean")
    _check(path, "verdict.vs_random.mean", mean, "a number", mean is None or _is_number(mean))
    for name in ("over_seeds", "over_examples"):
        ends = difference.get(name)
        is_interval = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
        _check(path, f"verdict.vs_random.{name}", ends, "two numbers", ends is None or is_interval)


def _check_digests(path: Path, digests: Any) -> None:
    if _check_object(path, "sha256", digests):
        for name, digest in digests.items():
            is_name = name.isprintable() and all(0 < len(part.encode()) < 256 for part in name.split("/"))
            _check(path, "sha256", name, "a file's name", is_name)
            _check(path, f"sha256.{name}", digest, "a text", isinstance(digest, str))


def _check_object(path: Path, name: str, value: Any) -> bool:
    """Whether there is a value. UserError if it is no object."""
    _check(path, name, value, "an object", value is None or isinstance(value, dict))
    return value is not None


def _check(path: Path, name: str, value: Any, kind: str, is_right: bool) -> None:
    if not is_right:
        raise UserError(
            f"{path} is damaged: {printable(name, 60)} is {printable(repr(value), 60)}, not {kind}; "
            "name a folder that is whole"
        )


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return value is None or isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
