"""What `near verify` and `near diff` share: folders and options as typed, and a folder's configuration with them."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from near.app.check.check import check, elsewhere, sources_of
from near.app.faults import fault_line
from near.common.command_line import Command, set_command
from near.common.config import CONF, refusal, register_resolvers
from near.common.errors import UserError, printable
from near.common.secrets import Formatter, check_words
from near.common.signature import keywords
from near.data.sources.paths import absence
from near.models.start import is_hub_id
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
        known = compose(script)
        of_folder = [word for word in typed if "embedder" in known and _key(word).split(".")[0] == "embedder"]
        rest = [word for word in typed if word not in of_folder]
        cfg = compose(script, overrides=rest)
        for name, folder in zip(missing, folders, strict=True):
            cfg[name] = folder
        check(cfg, rest)
        if any(_key(word) == "embedder" for word in of_folder):
            cfg.embedder = compose(script, overrides=of_folder).embedder  # it may refer to the folder's model
    if not cfg.get("download") and not any(map(_may_be_of_hub, typed)):
        os.environ["HF_HUB_OFFLINE"] = "1"  # also no request whether files in the cache are the newest
    return cfg, typed


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _may_be_of_hub(word: str) -> bool:
    value = word.partition("=")[2]
    named = _key(word).startswith("data.") or _key(word) == "embedder.adapter"
    return named and "/" in value and not Path(value).expanduser().exists()


def _log_warnings() -> None:
    """Warnings go to standard error, without secrets; the table goes to standard output."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def config_of(
    folder: SelectionFolder, cfg: DictConfig, typed: Sequence[str], parts: Sequence[str]
) -> Callable[[], DictConfig]:
    """A function that returns the folder's configuration, checked, with the cache of `cfg` and what was typed for the
    groups `parts`. UserError for a typed option that the folder's embedder does not have."""
    if "embedder" in parts:
        _check_options(folder, cfg, typed)

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
        if not cfg.get("download"):
            refuse_hub(config, typed)
        check(config)
        return config

    return read


def _check_options(folder: SelectionFolder, cfg: DictConfig, typed: Sequence[str]) -> None:
    names = [_key(word).split(".")[1] for word in typed if _key(word).startswith("embedder.")]
    if not names:
        return
    if any(_key(word) == "embedder" for word in typed):
        target = cfg.embedder._target_
    else:
        try:
            target = folder.config(cfg.allow_targets).embedder._target_
        except (UserError, OSError, OmegaConfBaseException):
            return  # the checks say so
    accepted = keywords(target) if isinstance(target, str) else None
    for name in names:
        if accepted is not None and name not in accepted:
            cls = target.rpartition(".")[2]
            raise UserError(
                f"embedder.{name} is not an option of {cls}{elsewhere(f'embedder.{name}', accepted, target)}"
            )


def refuse_hub(config: DictConfig, typed: Sequence[str]) -> None:
    """Refuse data sets and adapters of a hub that the folder names and the command does not: a folder from elsewhere
    causes no request. The embedder's model is checked where it is loaded."""
    from near.data.dataset_info import from_dataset_info

    keys = [_key(word) for word in typed]

    def refuse(option: str, name: str) -> None:
        if not any(option == key or option.startswith(f"{key}.") for key in keys):
            line = f"{option}={name} is the folder's, and on a hub; type it to load it from there, or name your copy"
            OmegaConf.update(config, option, refusal(name, printable(line, 300)))

    for option, source in sources_of(config):
        if source is None:
            continue
        with contextlib.suppress(UserError, OSError, ValueError, RuntimeError, OmegaConfBaseException):  # loading fails
            of_info = source.get("dataset_info") is not None
            for one in from_dataset_info(source, option) if of_info else [source]:
                if hub := next(filter(_is_of_hub, _paths(one.path)), None):
                    is_named = isinstance(OmegaConf.select(config, option), DictConfig)
                    refuse(f"{option}.dataset_info" if of_info else f"{option}.path" if is_named else option, hub)
                    break
    for group in ("model", "embedder"):
        node = config.get(group)
        name = node._get_node("adapter")._value() if isinstance(node, DictConfig) and "adapter" in node else None
        if isinstance(name, str) and not name.startswith("${") and is_hub_id(name) and not Path(name).is_dir():
            refuse(f"{group}.adapter", name)


def _paths(path: object) -> list[object]:
    if isinstance(path, DictConfig):
        return list(path.values())
    return list(path) if isinstance(path, ListConfig) else [path]


def _is_of_hub(path: object) -> bool:
    if not isinstance(path, str) or path.startswith("builtin:") or any(c in path for c in "*?["):
        return False
    return "/" in path and not Path(path).expanduser().exists() and absence(path) is None


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
