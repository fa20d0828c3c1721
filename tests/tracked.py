"""Records of W&B, read from the folders that it writes without a server."""

import json
import subprocess
import sys
from pathlib import Path

WANDB = [sys.executable, "-c", "from wandb.cli.cli import cli; cli()"]


def records(folder: Path) -> list[dict]:
    done = subprocess.run([*WANDB, "leet", "inspect", "--json", str(folder)], capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def of_type(lines: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in lines if record["type"] == kind]


def history(lines: list[dict], metric: str) -> list[tuple[int, float]]:
    """(optimizer step, value) of a metric, as logged."""
    items = [record["item"] for record in of_type(lines, "history")]
    return [(item["step"], item[metric]) for item in items if metric in item]


def folders(job: Path) -> list[Path]:
    return sorted((job / "wandb").glob("offline-run-*"))


def tables(folder: Path) -> dict[str, dict]:
    """Columns and data of every table, by the name it was logged under."""
    logged = {}
    for path in (folder / "files" / "media" / "table").rglob("*.table.json"):
        logged[f"{path.parent.name}/{path.name.rsplit('_', 2)[0]}"] = json.loads(path.read_text())
    return logged
