"""Entry scripts: compose, check, call, and answer faults with one line and a status of 1."""

import contextlib
import errno
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from near import jobs
from near.check import check, check_sources, elsewhere
from near.config import CONF, flat_keys, raw_words, register_resolvers
from near.disk import full_line, read_only_line, watch
from near.errors import UserError, did_you_mean, missing_choice, one_line, user_error, visible
from near.files import FULL, NO_SPACE
from near.outputs import REMOVED, removable, remove_folder
from near.outputs import check as check_outputs
from near.secrets import check_words, faults, scrub
from near.signature import keywords
from near.sweep import in_sweep

register_resolvers()
# Hydra then raises instead of printing its own report, and `run` says it in one line.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


def run(main: Callable[[], object]) -> None:
    """Call a Hydra main function; end the process with one line and status 1 when the fault is one a user can mend."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without a row's script is no fault
    try:
        check_words(sys.argv[1:])
        if any("from_yaml" in word for word in sys.argv):
            from near.from_yaml import expanded

            sys.argv = expanded(sys.argv)
            check_words(sys.argv[1:])
        _with_table(main)
    except KeyboardInterrupt:
        jobs.ended()
        sys.exit(130)
    except Exception as error:
        _stop(error)
    except BaseException as error:  # of a library in Rust: such as a tokenizer's pattern that never ends
        if type(error).__name__ != "PanicException":
            raise
        _stop(UserError(f"a tokenizer or its library failed ({one_line(error)}); use another model or text"))


def _with_table(main: Callable[[], object]) -> None:
    """Call `main`; after a sweep print its jobs and what they show, UserError where some did not end well."""
    fault = None
    try:
        main()
    except Exception as error:
        fault = error
    lost, folder = jobs.ended(), jobs.Sweeps.folder
    if folder is not None and len(list(folder.glob("*/train_metrics.json"))) > 1:
        from near import runs, verdict

        verdict.show(runs.collect(folder)[0])
    if lost:
        first = lost[0].get("error", "it was killed")
        raise UserError(f"{len(lost)} of the sweep's jobs did not end well; the first: {first}") from fault
    if fault is not None:
        raise fault


def _stop(error: Exception) -> None:
    """Print the line for `error` and end with status 1; raise it where it is a bug, or NEAR_TRACEBACK is set."""
    fault = fault_line(error)
    if fault is None or os.environ.get("NEAR_TRACEBACK"):
        sys.excepthook = _scrubbed_traceback
        raise error
    print(f"error: {visible(fault)}", file=sys.stderr)
    sys.exit(1)


def _scrubbed_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(scrub("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def fault_line(error: BaseException) -> str | None:
    """The line to show for `error`, without secrets, or None when it is ours and the traceback is what helps."""
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
        if NO_SPACE.search(str(link)):  # of a writer with a kind of error of its own
            return full_line(OSError())
        if isinstance(link, OSError) and (line := read_only_line(link)):
            return line
        if isinstance(link, OSError) and link.filename and link.errno in _PATHS:
            reason = (link.strerror or "not usable").lower()
            return f"{link.filename}: {reason}; name another file, output_dir or cache_dir"
        if unknown := re.fullmatch(r"Unknown plugin class : '(.+)'", str(link)):
            return f"{unknown.group(1)} is not installed; pip install -r requirements-sweeps.txt"
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
    return None


def _hydra_line(error: Exception) -> str:
    line = one_line(error)
    match = re.search(r"Could not (?:override|append to config.*?key|delete.*?)\s*'([^']+)'", line) or re.search(
        r"Key '([^']+)' is not in struct", str(error)
    )
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", line):
        return f"{ambiguous.group(1)} holds a comma: for a sweep add -m, for a list write key=[a,b]"
    cfg = _defaults()
    removed = [word for word in sys.argv[1:] if word.startswith("~") and word[1:].split("=")[0] in flat_keys(cfg)]
    if removed and (match or isinstance(error, InterpolationKeyError)):
        return f"{removed[0]} takes away an option that the script needs; leave {removed[0]} out, or set another value"
    if not match:
        return line
    key = match.group(1).split("=")[0].split("@")[0]
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else None
    if node is not None and OmegaConf.is_dict(node) and "_target_" in node:
        taken = keywords(node._target_)
        if taken is None or leaf in taken:
            return f"{key} is not in the configuration yet: write +{key}=..."
        return f"{key} is not an option of {_choice(parent, node)}{elsewhere(key, taken)}"
    known = [k for k in flat_keys(cfg) if k.rpartition(".")[0] == parent] if node is not None else flat_keys(cfg)
    return f"{key} is not in the configuration{did_you_mean(key, known if parent else [*known, 'from_yaml'])}"


def _choice(group: str, node: DictConfig) -> str:
    """What was typed for `group`, such as trainer=static; the class where nothing was."""
    return next((word for word in _typed_choices() if word.startswith(f"{group}=")), node._target_.rpartition(".")[2])


def _typed_choices() -> list[str]:
    """Of the command's words those that name a choice of a group."""
    words = [word for word in sys.argv[1:] if re.fullmatch(r"\w+=\w+", word)]
    return [word for word in words if (CONF / word.replace("=", "/")).with_suffix(".yaml").is_file()]


def _defaults() -> DictConfig:
    """The configuration of the running script with no more than the choices that were typed, for near misses."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            return compose(Path(sys.argv[0]).stem, overrides=_typed_choices())
        return compose(Path(sys.argv[0]).stem)


_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
}


def output_dir() -> Path:
    """The folder of the running job, made by Hydra."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_new(folder: Path) -> bool:
    """Whether nothing is in a job's folder but what Hydra has just written: its notes, and a log without a line."""
    log = folder / f"{HydraConfig.get().job.name}.log"
    only_notes = folder != Path.cwd() and folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra", log.name}
    return only_notes and not (log.is_file() and log.stat().st_size)


def drop_empty_output(new: bool = True) -> None:
    """Take back a job's folder that was `new` when nothing but Hydra's own notes went into it."""
    folder, log = output_dir(), f"{HydraConfig.get().job.name}.log"
    if new and folder != Path.cwd() and folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra", log}:
        remove_folder(folder, (log, ".hydra/*.yaml"))


def _take_back() -> None:
    """Remove what Hydra wrote of a configuration that holds a secret, before the job could refuse it."""
    written = [*(output_dir() / ".hydra").glob("*.yaml")]
    if in_sweep():
        written.append(Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir, "multirun.yaml"))
    for path in written:
        path.unlink(missing_ok=True)


def _ours_first() -> None:
    """Published plugins bring schemas for launchers and sweepers of the same names; ours are other classes."""
    Plugins.instance()  # finds them
    for path in CONF.glob("hydra/*/*.yaml"):
        group = ConfigStore.instance().repo.get("hydra", {}).get(path.parent.name, {})
        group.pop(path.name, None)


def _let_go(error: BaseException | None) -> None:
    """Free what a failed job held, its model among it: Hydra keeps the error, and so its frames, to the sweep's end."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def script(name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], object]]:
    """Decorator for an entry script's function: composed from conf/<name>.yaml and checked before it is called.

    A job that is refused for a fault leaves no folder behind.
    """

    def decorate(work: Callable[[DictConfig], object]) -> Callable[[], object]:
        @functools.wraps(work)
        def job(cfg: DictConfig) -> object:
            new = is_new(output_dir())
            folder = output_dir() if name in ("select", "train") else Path(cfg.output_dir)
            try:
                watch(cfg, folder)
                with jobs.told(fault_line, bool(cfg.get("dry_run"))):
                    check(cfg, raw_words(HydraConfig.get().overrides.task))
                    check_sources(cfg)
                    check_outputs(folder, name)
                    if name == "train" and cfg.overwrite:
                        removable(folder, *REMOVED)
                    result = work(cfg)
                if cfg.get("dry_run"):
                    drop_empty_output(new)
                return result
            except KeyboardInterrupt:
                drop_empty_output(new)
                raise
            except Exception as error:
                fault = fault_line(error)
                if faults(cfg):
                    _take_back()
                if in_sweep():
                    _let_go(error)
                if fault is None:
                    raise
                drop_empty_output(new)
                if in_sweep():  # the other jobs go on; Hydra raises it again at the end
                    raise UserError(fault) from error
                _stop(error)

        _ours_first()
        return hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)

    return decorate
