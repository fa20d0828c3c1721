"""Commands beside the scripts: python -m near cache|assets|workspace|options|keys."""

import importlib
import sys

from near.common.errors import UserError, did_you_mean, visible

COMMANDS = {
    "cache": ("near.app.cache", "lists and prunes what the cache holds: embeddings, indexes, scores"),
    "assets": ("near.data.builtin.assets", "fetches the built-in model, embedder and data into the cache"),
    "workspace": ("near.training.trackers.workspace", "saves a W&B workspace that compares a sweep's runs"),
    "options": ("near.app.options", "writes docs/options.md"),
    "keys": ("near.app.from_yaml.page", "writes the tables of docs/from_dataflex.md"),
}


def main() -> None:
    """Run the command that is typed; with none, list them. One line and status 1 for a fault a user can mend."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("python -m near COMMAND\n" + "".join(f"\n{name:<12}{what}" for name, (_, what) in COMMANDS.items()))
        return
    try:
        if words[0] not in COMMANDS:
            raise UserError(f"{words[0]} is not a command{did_you_mean(words[0], COMMANDS)}; python -m near lists them")
        importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
    except UserError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(1)
