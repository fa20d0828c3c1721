"""What `near verify` and `near diff` share: folders and options as typed, and a folder's configuration with them."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from near.app.check.check import check
from near.app.faults import fault_line
from near.common.command_line import Command, set_command
from near.common.config import CONF, refusal, register_resolvers
from near.common.errors import UserError, printable
from near.common.secrets import Formatter, check_words
from near.selection.verifying.folder import SelectionFolder


@contextlib.contextmanager
def one_line_faults() -> Iterator[None]:
    """Convert every error that a user can fix into a UserError."""
    try:
        yield
    except Exception as error:
        if (line := fault_line(error)) is None or isinstance(error, UserError):
            raise
        raise UserError(line) from error


def configured(script: str, words: Sequence[str], names: Sequence[str], usage: str) -> tuple[DictConfig, list[str]]:
    """The configuration of a command, checked, and the overrides that were typed.

    Args:
        script: of conf/.
        words: as typed: folders, and options as NAME=VALUE.
        names: the options that the folders are, in turn.
        usage: the line for too few or too many folders.
    """
    register_resolvers()
    set_command(Command(script, ("near", script)))
    _log_warnings()
    check_words(words)
    typed = [word for word in words if "=" in word]
    folders = [word for word in words if "=" not in word]
    missing = [name for name in names if not any(word.startswith(f"{name}=") for word in typed)]
    if odd := [word for word in folders if word.startswith("-")]:
        raise UserError(f"{odd[0]} is not an option; write options as NAME=VALUE: {usage}")
    if len(folders) != len(missing):
        raise UserError(f"{len(folders)} folders were given; {usage}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(script, overrides=typed)
    for name, folder in zip(missing, folders, strict=True):
        cfg[name] = folder
    check(cfg, typed)
    return cfg, typed


def _log_warnings() -> None:
    """Warnings go to standard error, without secrets; the table goes to standard output."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def config_of(
    folder: SelectionFolder, cfg: DictConfig, typed: Sequence[str], parts: Sequence[str]
) -> Callable[[], DictConfig]:
    """A function that returns the folder's configuration, checked, with the cache of `cfg` and what was typed for the
    groups `parts`."""

    def read() -> DictConfig:
        config = folder.config(cfg.allow_targets)
        config.cache_dir = cfg.cache_dir
        for_this_machine(config, typed)
        overrides = OverridesParser.create().parse_overrides(list(typed))
        for part in parts:
            if any(override.key_or_group == part for override in overrides):
                config[part] = cfg[part]
                continue
            for override in overrides:
                if override.key_or_group.startswith(f"{part}."):
                    OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
        check(config)
        return config

    return read


# options of an embedder that are of the author's machine, and what they are here unless they are typed
OF_A_MACHINE = {"device": None, "launcher": None, "workers": None, "batch_size": "auto", "batch_tokens": "auto"}


def for_this_machine(config: DictConfig, typed: Sequence[str]) -> None:
    """Reset options that are of the author's machine. The address of a server is refused: texts would be sent to it."""
    embedder = config.get("embedder")
    if not isinstance(embedder, DictConfig):
        return
    for name in OF_A_MACHINE.keys() & embedder.keys():
        embedder[name] = OF_A_MACHINE[name]
    url = OmegaConf.select(embedder, "server.url")
    if url is not None and not any(word.startswith(("embedder=", "embedder.server.url=")) for word in typed):
        line = f"embedder.server.url={url} is the folder's, and texts would be sent there; type that of your server"
        embedder.server.url = refusal(str(url), printable(line, 300))
