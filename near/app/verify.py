"""The command `near verify FOLDER`: the same rows, the same scores?

Exit status: 0 if every check passed; 1 if one failed, or the command is wrong; 3 if none failed and one was not
possible, such as scores without the embedder's model.
"""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from near.app.handed_on import config_of, configured, one_line_faults
from near.common.errors import visible
from near.common.files import provenance, write_json
from near.common.tables import console, table

USAGE = "near verify FOLDER [NAME=VALUE ...]"
GROUPS = ("data", "embedder", "similarity", "index")
ENDS = {0: "verified", 1: "not verified", 3: "incomplete"}


def main(words: Sequence[str]) -> None:
    with one_line_faults():
        cfg, typed = configured("verify", words, ["folder"], USAGE)
        from near.report.published import check_verdict
        from near.selection.verifying.checks import Settings, status
        from near.selection.verifying.folder import SelectionFolder
        from near.selection.verifying.signature import check_signers
        from near.selection.verifying.verify import verify

        check_signers(cfg.signers)
        folder = SelectionFolder.of(Path(cfg.folder))
        options = {name: cfg[name] for name in ("cache_dir", "signers", "limit", "tolerance", "download", "seed")}
        verdict = check_verdict(folder)
        if not any(word.startswith("seed=") for word in typed):
            options["seed"] = secrets.randbelow(1 << 32)  # an author who knew the sample could spare the others
        checks = verify(folder, config_of(folder, cfg, typed, GROUPS), Settings(**options))
        checks += [] if verdict is None else [verdict]
        code = status(checks)
        _show(checks, code, options["seed"])
        if cfg.json is not None:
            content = {
                "schema_version": 1,
                "folder": cfg.folder,
                "outcome": ENDS[code],
                "status": code,
                "seed": options["seed"],
            }
            write_json(cfg.json, {**content, "checks": [one.to_json() for one in checks], **provenance()})
    sys.exit(code)


def _show(checks: list, code: int, seed: int) -> None:
    out = console()
    out.print(table(["check", "outcome", "what"], [[c.name, c.outcome, c.detail] for c in checks], breaking={2}))
    counts = [
        f"{sum(c.outcome == outcome for c in checks)} {outcome}" for outcome in dict.fromkeys(c.outcome for c in checks)
    ]
    unchecked = [c.name for c in checks if c.outcome == "not checked"]
    end = f"{ENDS[code]}, {len(unchecked)} not checked: {', '.join(unchecked)}" if unchecked else ENDS[code]
    out.print(f"{end} ({', '.join(counts)})", markup=False)
    if any(c.name == "scores" for c in checks):
        out.print(f"queries were drawn with seed={seed}", markup=False)
    for check in checks:
        if check.outcome == "failed":
            print(f"failed: {visible(check.name)}: {visible(check.detail)}", file=sys.stderr)
