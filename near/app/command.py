"""The command `near`, also `python -m near`: the scripts, as in `near train selector=near`, and other commands."""

import importlib
import os
import sys

from near import __version__
from near.common.errors import UserError, did_you_mean, visible

SCRIPTS = {
    "select": "finds every query's nearest candidates, and picks rows",
    "train": "fine-tunes on a subset that is re-picked while training runs",
    "merge": "merges an adapter into its base model",
    "eval": "measures target loss and answers of a model or a run",
    "report": "puts runs side by side, in the terminal and in one HTML file",
}

COMMANDS = {
    "verify": ("near.app.verify", "checks a selection that was handed on: same rows, same scores?"),
    "diff": ("near.app.diff", "compares two selections: what they share, by label, and the rows that differ most"),
    "manifest": ("near.app.manifest", "writes the manifest of a run, to hand it on and to sign it"),
    "cache": ("near.app.cache", "lists and prunes the cache: embeddings, indexes, scores"),
    "assets": ("near.data.builtin.assets", "fetches the built-in model, embedder and data into the cache"),
    "bundle": ("near.app.bundle.bundle", "writes a folder that installs near on machines without a network"),
    "workspace": ("near.training.trackers.workspace", "saves a W&B workspace that compares a sweep's runs"),
    "options": ("near.app.options", "writes docs/options.md, in the repository"),
    "keys": ("near.app.from_yaml.page", "writes the tables of docs/from_dataflex.md, in the repository"),
}


def main() -> None:
    """Run the command that is typed; without one, list them. For a fault that a user can fix: one line and status 1."""
    name, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in SCRIPTS:
        from near.app.entry import start

        del sys.argv[1]
        return start(name, *_typed(), name)
    if name in ("", "-h", "--help"):
        return print(_help())
    if name == "--version":
        return print(f"near {__version__}")
    try:
        if name not in COMMANDS:
            raise UserError(
                f"{name} is not a command{did_you_mean(name, [*SCRIPTS, *COMMANDS])}; near --help lists them"
            )
        importlib.import_module(COMMANDS[name][0]).main(words)
    except UserError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(1)


def _typed() -> tuple[str, ...]:
    """The words that were typed in front of the command's name."""
    return ("python", "-m", "near") if os.path.basename(sys.argv[0]) == "__main__.py" else ("near",)


def _help() -> str:
    scripts = [f"{name:<12}{summary}" for name, summary in SCRIPTS.items()]
    others = [f"{name:<12}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        ["near SCRIPT [GROUP=CHOICE] [OPTION=VALUE] (near SCRIPT --help)", *scripts, "", "near COMMAND", *others]
    )
