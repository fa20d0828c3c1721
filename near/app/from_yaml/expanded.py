"""`from_yaml=FILE`: a DataFlex or LLaMA-Factory file in place of overrides, translated before Hydra composes."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from near.app.from_yaml.file import File, Word, read
from near.app.from_yaml.offline import select
from near.app.from_yaml.translate import merge, train
from near.common.command_line import Command
from near.common.config import CONF
from near.common.errors import UserError
from near.common.files import expanded_user
from near.common.processes import is_main

KEY = "from_yaml"
SCRIPTS: dict[str, Callable[[File], None]] = {
    "train": train,
    "merge": merge,
    "select": select,
}
SHOWS = ("--cfg", "-c", "--info", "-i", "--help", "-h")  # Hydra prints what these ask for to stdout


def expanded(command: Command, options: list[str]) -> list[str]:
    """Translate `from_yaml=FILE` in the options of a command, and print the result with what is not honoured.

    Args:
        command: that is running.
        options: as they were typed.

    Returns:
        The overrides that the file becomes, in front of the other options; `options` where they name no file.

    Raises:
        UserError: the file can't be read, or asks for what near does not have.
    """
    files = [word for word in options if word.lstrip("+").partition("=")[0] == KEY]
    if not files:
        return options
    typed = [word for word in options if word not in files]
    path = files[0].partition("=")[2].strip("'\"")
    if command.script not in SCRIPTS:
        raise UserError(
            f"{KEY} is for {', '.join(f'{name}.py' for name in SCRIPTS)}, not for {command.script}.py; leave it out"
        )
    if len(files) > 1 or not path:
        raise UserError(f"{KEY} takes one file; write {KEY}=near.yaml")
    overrides = [word for word in typed if word.startswith("~") or "=" in word and not word.startswith("-")]
    flags = [word for word in typed if word not in overrides]  # and their values; Hydra needs overrides in one block
    file = translated(command.script, expanded_user(path, KEY), overrides)
    remaining = left(file.words, overrides)
    words = [*map(str, remaining), *_naming(remaining, typed), *overrides, *flags]
    if is_main():
        out = sys.stderr if any(word.split("=")[0] in SHOWS for word in typed) else sys.stdout
        print(report(file, shlex.join([*command.start, *words])), file=out, flush=True)
    return words


def translated(script: str, path: Path, typed: list[str]) -> File:
    """The file, translated for `script`; the overrides `typed` take precedence."""
    file = File(path, read(path), typed)
    SCRIPTS[script](file)
    return file


def left(words: list[Word], typed: list[str]) -> list[Word]:
    """`words` without those that typed overrides replace: the same key, an option of a typed group, or a source whose
    path is typed."""
    keys = set()
    for word in typed:
        key, _, value = word.partition("=")
        keys.add(key)
        if key == "sweeps":
            keys |= _swept(value)
    return [word for word in words if not _replaced(word, keys)]


def _naming(words: list[Word], typed: list[str]) -> list[str]:
    """In a sweep, an override that keeps the file's keys, which all jobs share, out of the names of their folders."""
    if not any(word in ("-m", "--multirun") or word.startswith("sweeps=") for word in typed):
        return []
    key = "hydra.job.config.override_dirname.exclude_keys"
    keys = [*OmegaConf.select(OmegaConf.load(CONF / "base.yaml"), key), *(word.key for word in words)]
    return [f"{key}=[{','.join(dict.fromkeys(keys))}]"]


def _replaced(word: Word, keys: set[str]) -> bool:
    plain = {key.lstrip("+") for key in keys}
    if word.key in plain:
        return not word.added or word.key not in keys  # `key=` of an added one comes after it
    group = (word.key.partition("@")[2] or word.key).partition(".")[0]  # stage@plan.draw is of the plan
    if group in plain and word.key != group:
        return not word.key.startswith("trainer.args.")
    source = word.key.rpartition(".")[0]
    return source.startswith("data.") and f"{source}.path" in plain


def _swept(name: str) -> set[str]:
    path = CONF / "sweeps" / f"{name}.yaml"
    if not path.is_file():
        return set()
    return set(OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params", default=None) or {})


def report(file: File, command: str) -> str:
    """The command that the file becomes, the notes on it, and what is not honoured."""
    lines = [f"{KEY}={file.path} becomes", command]
    if file.notes:
        lines += ["notes:", *(f"  {line}" for line in file.notes)]
    if file.skipped:
        lines += ["not honoured:", *(f"  {key}: {why}" for key, why in file.skipped.items())]
    return "\n".join(lines)
