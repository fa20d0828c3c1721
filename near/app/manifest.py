"""The command `near manifest RUN`: writes manifest.json of a run, to hand it on, and says how to sign it."""

from collections.abc import Sequence
from pathlib import Path

from near.app.handed_on import one_line_faults
from near.common.errors import UserError
from near.common.text import plural

USAGE = "near manifest RUN"


def main(words: Sequence[str]) -> None:
    with one_line_faults():
        if len(words) != 1 or words[0].startswith("-"):
            raise UserError(f"{len(words)} words were given; {USAGE}")
        from near.report.published import describe
        from near.selection.verifying.folder import MANIFEST, SelectionFolder
        from near.selection.verifying.signature import sign_command

        folder = SelectionFolder.of(Path(words[0]))
        if folder.is_run:
            manifest = describe(folder)
            verdict = (
                "with its verdict" if manifest.verdict else "without a verdict: no report.json of its sweep above it"
            )
            print(f"wrote {folder.path / MANIFEST}: {plural(len(manifest.sha256), 'file')}, {verdict}")
        else:
            print(f"{folder.path / MANIFEST}: select.py wrote it, {plural(len(folder.manifest.sha256 or {}), 'file')}")
        print(f"to sign it: {sign_command(folder.path / MANIFEST)}")
