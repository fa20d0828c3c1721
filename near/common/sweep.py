"""The multirun of the running job, which Hydra saves in multirun.yaml."""

import contextlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from near.common.config import raw_words


def in_sweep() -> bool:
    """Whether the running job is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def of_job() -> dict[str, Any]:
    """The overrides and the number of the running job; {} outside a sweep."""
    if not in_sweep():
        return {}
    return {"overrides": raw_words(HydraConfig.get().overrides.task), "number": HydraConfig.get().job.num}


def swept(key: str) -> list:
    """All values of `key` in the running sweep; [] outside a sweep, or if they are unknown."""
    if not in_sweep():
        return []
    path = Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir, "multirun.yaml")
    with contextlib.suppress(OSError, ValueError, HydraException, OmegaConfBaseException):
        config: Any = OmegaConf.load(path).hydra
        config = OmegaConf.to_container(config, resolve=False)
        params = [f"{k}={v}" for k, v in (config["sweeper"].get("params") or {}).items() if v is not None]
        for override in reversed(OverridesParser.create().parse_overrides([*params, *config["overrides"]["task"]])):
            if override.key_or_group == key:  # the last one counts: typed overrides follow those of a sweep's file
                return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return []
