"""hydra/sweeper=race: a sweep whose jobs are trained in stages, in each of which some stop (near/app/race.py)."""

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf


class Race(BasicSweeper):
    """Hydra's sweeper over the same jobs; with dry_run the whole sweep, since nobody knows who will stop."""

    def sweep(self, arguments: list[str]) -> object:
        if self.config.dry_run:
            return super().sweep(arguments)
        from near.app.race import race

        params = [f"{key}={value}" for key, value in self.params.items() if value is not None]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (jobs,) = self.split_arguments(parser.parse_overrides([*params, *arguments]), None)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return race(self.config.race, folder, jobs, self._composed, self._launched)

    def _composed(self, words: Sequence[str]) -> tuple[DictConfig, str]:
        """A job's configuration, and the name of its folder."""
        cfg, before = (
            self.hydra_context.config_loader.load_sweep_config(self.config, list(words)),
            HydraConfig.instance().cfg,
        )
        HydraConfig.instance().set_config(cfg)  # the resolvers of the folder's name read it
        name, HydraConfig.instance().cfg = str(cfg.hydra.sweep.subdir), before
        return cfg, name

    def _launched(self, jobs: Sequence[Sequence[str]], first: int) -> list[Exception | None]:
        """Run jobs; the error of each, None for one that is done. first: the number of the first in the sweep."""
        errors = []
        for done in self.launcher.launch(jobs, initial_job_idx=first):
            try:
                errors.append(done.return_value and None)
            except Exception as error:
                errors.append(error)
        return errors
