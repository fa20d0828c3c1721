"""Hydra's composition, once per process for each set of choices from conf/: a command's values are set on a copy.

Reading and merging some 25 YAML files takes Hydra 0.4 s; most tests compose the same choices with other values.
"""

import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import omegaconf.base
from hydra._internal import config_loader_impl as loader
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig

from near.common.config import CONF


def current() -> tuple[Callable, Callable, Callable]:
    """The steps that Hydra composes with: reading a file, the list of files, and merging them."""
    merge = loader.ConfigLoaderImpl._compose_config_from_defaults_list
    return ConfigRepository.load_config, loader.create_defaults_list, merge


STEPS = current()  # Hydra's


def copied(config: Any) -> Any:
    """A deep copy of a configuration: seven times as fast as OmegaConf's."""
    return pickle.loads(pickle.dumps(config))


def install() -> None:
    """Replace the steps of Hydra's composition that depend on choices alone; other folders' files are read anew."""
    files: dict[tuple, bytes] = {}
    lists: dict[tuple, DefaultsList] = {}
    merged: dict[int, bytes] = {}  # by the id of a list's defaults
    load, create, merge = STEPS

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        if not _fixed(self.sources):
            return load(self, config_path)
        key = (*_names(self.sources), config_path)
        if key not in files:
            files[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(files[key])

    def create_defaults_list(
        repo: IConfigRepository, config_name: str | None, overrides_list: list[Override], **how: bool
    ) -> DefaultsList:
        sources = repo.get_sources()
        if not _fixed(sources):
            return create(repo, config_name, overrides_list, **how)
        overrides = Overrides(repo, overrides_list)  # sorts values from choices
        values = {id(override) for override in overrides.config_overrides}
        choices = [override.input_line for override in overrides_list if id(override) not in values]
        key = (*_names(sources), config_name, *sorted(how.items()), *choices)
        if key not in lists:
            lists[key] = create(repo, config_name, overrides_list, **how)
        cached = lists[key]
        return DefaultsList(cached.defaults, cached.defaults_tree, overrides.config_overrides, cached.overrides)

    def compose(self: loader.ConfigLoaderImpl, defaults: list, repo: IConfigRepository) -> DictConfig:
        if not _fixed(repo.get_sources()):
            return merge(self, defaults, repo)
        if id(defaults) not in merged:
            merged[id(defaults)] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(merged[id(defaults)])

    omegaconf.base.parse = functools.lru_cache(4096)(omegaconf.base.parse)  # references: a tree that nobody changes
    use(load_config, create_defaults_list, compose)


def use(load_config: Callable, create_defaults_list: Callable, compose: Callable) -> None:
    """Let Hydra compose with these steps."""
    ConfigRepository.load_config = load_config
    loader.create_defaults_list = create_defaults_list
    loader.ConfigLoaderImpl._compose_config_from_defaults_list = compose


def _names(sources: Sequence[ConfigSource]) -> list[str]:
    return [source.full_path() for source in sources]


def _fixed(sources: Sequence[ConfigSource]) -> bool:
    """Whether all files are near's or a package's, which no test changes."""
    return all(source.scheme() != "file" or source.path == str(CONF) for source in sources)
