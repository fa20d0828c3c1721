"""The manifest of a run: digests of all its files, and what the report of its sweep says of it."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from near.common.errors import UserError
from near.common.files import file_digest, provenance, read_json
from near.common.outputs import claim, results
from near.common.records import RowsRecord, SelectionManifest
from near.data.row_keys import content_digest
from near.selection.verifying.checks import Check, failed, passed
from near.selection.verifying.folder import MANIFEST, SelectionFolder

log = logging.getLogger(__name__)

REPORT = "report.json"


def verdict_of(run: Path) -> dict | None:
    """What report.json of the sweep, in the folder above the run, says of the run's selection; None without one."""
    path = run.resolve().parent / REPORT
    report = read_json(path) if path.is_file() else {}
    selections: Sequence[dict] = report.get("selections") or ()
    mine = [one for one in selections if run.resolve().name in (one.get("runs") or ())]
    return {**mine[0], "answer": report.get("answer")} if mine else None


def describe(folder: SelectionFolder) -> SelectionManifest:
    """Write manifest.json of a run: digests of its files, its data, the content of its rows, and the verdict.

    Raises:
        UserError: the folder is no finished run, or has a selection of select.py, too.
    """
    if not folder.is_run or not folder.run.is_evaluated:
        raise UserError(f"{folder.path} is no finished run of train.py; a folder of select.py has its manifest already")
    if folder.manifest is None and (folder.path / MANIFEST).is_file():
        raise UserError(f"{folder.path / MANIFEST} is of a selection by select.py; move that to another folder")
    training, subset, keys = folder.run.training, folder.subset(), folder.keys("candidates")
    prints = training.identity.fingerprints
    rows = None if keys is None else len(keys)
    content = {} if keys is None else {"content": content_digest(keys, subset)}
    manifest = SelectionManifest(
        candidates=RowsRecord(fingerprint=prints.get("candidates"), rows=rows),
        queries=RowsRecord(fingerprint=prints["queries"]) if "queries" in prints else None,
        sha256={name: file_digest(folder.path / name) for name in results(folder.path)},
        subset={"selector": training.selector, "rows": len(subset), **content},
        verdict=verdict_of(folder.path),
        **provenance(),
    )
    manifest = dataclasses.replace(manifest, versions=training.versions, commit=training.commit)  # that trained it
    claim(folder.path, "train", [MANIFEST])
    manifest.write(folder.path / MANIFEST)
    return manifest


def check_verdict(folder: SelectionFolder) -> Check | None:
    """Whether the verdict in a run's manifest is that of report.json above it; None without a verdict."""
    verdict = None if folder.manifest is None else folder.manifest.verdict
    if verdict is None:
        return None
    shown = _shown(verdict)
    if not (folder.path.resolve().parent / REPORT).is_file():
        return Check("verdict", "not checked", f"{shown}; the sweep's {REPORT} is not in the folder above")
    if verdict_of(folder.path) != verdict:
        return failed(
            "verdict", f"the manifest says {shown}, and {REPORT} of the sweep another; run near manifest again"
        )
    return passed("verdict", f"{shown}, as in {REPORT} of the sweep; the other runs are not checked")


def _shown(verdict: dict) -> str:
    difference = verdict.get("vs_random") or {}
    mean, interval = difference.get("mean"), difference.get("over_seeds") or difference.get("over_examples")
    if mean is None:
        return f"target loss {verdict.get('target_loss')}"
    ends = "" if not interval else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    return f"{mean:+.4f}{ends} against random rows ({difference.get('verdict')})"
