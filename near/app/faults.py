"""The line to show for an error, with near misses of a mistyped key."""

import contextlib
import errno
import re
import sys

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from near.app.check.check import elsewhere
from near.app.user_code import failed_class, failure_line
from near.common.command_line import current
from near.common.config import CONF, flat_keys
from near.common.disk import full_line, read_only_line
from near.common.errors import UserError, did_you_mean, missing_choice, one_line, user_error
from near.common.extras import install, missing_module
from near.common.files import FULL, NO_SPACE
from near.common.moved import moved_module
from near.common.secrets import scrub
from near.common.signature import keywords


def fault_line(error: BaseException) -> str | None:
    """The line to show for `error`, without secrets; None where it is a bug, for which a traceback helps."""
    line = _fault_line(error)
    return None if line is None else scrub(line)


def _fault_line(error: BaseException) -> str | None:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, OSError) and link.errno in FULL:
            return full_line(link)
        if NO_SPACE.search(str(link)):  # a library's writer raises its own kind of error
            return full_line(OSError())
        if isinstance(link, OSError) and (line := read_only_line(link)):
            return line
        if isinstance(link, OSError) and link.filename and link.errno in _PATHS:
            reason = (link.strerror or "not usable").lower()
            return f"{link.filename}: {reason}; name another file, output_dir or cache_dir"
        if unknown := re.fullmatch(r"Unknown plugin class : '(.+)'", str(link)):
            return f"{unknown.group(1)} is not installed; {install('sweeps')}"
        if isinstance(link, ModuleNotFoundError) and (line := missing_module(link) or moved_module(link)):
            return line
        if isinstance(link, MemoryError):
            return f"out of memory ({one_line(link)}); use smaller batches, blocks or dimensions"
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        target = re.search(r"target '([^']+)'", str(error))
        return f"{target.group(1) if target else 'a _target_'} refuses its options: {one_line(error.__cause__)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} can't be read as key=value; put quotes around the value: 'key=\"...\"'"
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        return "a group takes one of its choices, not null; for example tracker=none, finetuning=full"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return missing_choice(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        if (refused := user_error(error)) is not None:
            return str(refused)
        return _hydra_line(error)
    if (where := failed_class(error)) is not None:
        return failure_line(where, error)
    return None


def _hydra_line(error: Exception) -> str:
    line = one_line(error)
    if placed := re.search(r"In '(\w+)/(\w+)': Could not override '(\w+)@([\w.]+)\.\3'", line):
        group, choice, other, place = placed.groups()
        return (
            f"{group}@{place}={choice}: {choice} sets {other}, too, and can't be placed in {place}; name another "
            f"{group}, or use it as {group}={choice}"
        )
    match = re.search(r"Could not (?:override|append to config.*?key|delete.*?)\s*'([^']+)'", line) or re.search(
        r"Key '([^']+)' is not in struct", str(error)
    )
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", line):
        return f"{ambiguous.group(1)} contains a comma: for a sweep add -m, for a list write key=[a,b]"
    cfg = _defaults()
    removed = [word for word in sys.argv[1:] if word.startswith("~") and word[1:].split("=")[0] in flat_keys(cfg)]
    if removed and (match or isinstance(error, InterpolationKeyError)):
        return f"{removed[0]} removes an option that the script needs; leave {removed[0]} out, or set another value"
    if not match:
        return line
    key = match.group(1).split("=")[0].split("@")[0]
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else None
    if node is not None and OmegaConf.is_dict(node) and "_target_" in node:
        accepted = keywords(node._target_)
        if accepted is None or leaf in accepted:
            return f"{key} is not in the configuration yet: write +{key}=..."
        return f"{key} is not an option of {_choice(parent, node)}{elsewhere(key, accepted, node._target_)}"
    known = [k for k in flat_keys(cfg) if k.rpartition(".")[0] == parent] if node is not None else flat_keys(cfg)
    return f"{key} is not in the configuration{did_you_mean(key, known if parent else [*known, 'from_yaml'])}"


def _choice(group: str, node: DictConfig) -> str:
    """The word that was typed for `group`, such as trainer=static; its class where none was."""
    return next((word for word in _typed_choices() if word.startswith(f"{group}=")), node._target_.rpartition(".")[2])


def _typed_choices() -> list[str]:
    """The words of the command that choose for a group."""
    words = [word for word in sys.argv[1:] if re.fullmatch(r"\w+=\w+", word)]
    return [word for word in words if (CONF / word.replace("=", "/")).with_suffix(".yaml").is_file()]


def _defaults() -> DictConfig:
    """The configuration of the running script with only the choices that were typed, for near misses."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            return compose(current().script, overrides=_typed_choices())
        return compose(current().script)


_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
}
