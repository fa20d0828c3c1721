"""What launchers share: every job is a process of its own, and one that dies takes no other with it.

Hydra's published launchers end the whole sweep when one of their workers is killed.
"""

import contextlib
import logging
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from near.app.jobs import labels
from near.common.command_line import Command, current, set_command
from near.common.config import raw_words
from near.common.errors import UserError, one_line, printable
from near.common.secrets import scrub

log = logging.getLogger("near")


class Outcome(TypedDict, total=False):
    """How a job ended: one of both."""

    value: int | float | str | None  # what it returned
    error: str  # its line


@dataclass
class SweepJob:
    """One job of a sweep: called in a process of its own, it leaves what it prints in `printed`."""

    config: DictConfig  # composed, Hydra's own part included
    task: TaskFunction
    callbacks: object
    cwd: str
    argv: list[str]  # of the process that started the sweep
    command: Command  # how that was started
    version: str  # of Hydra's ways
    name: str
    printed: str  # a file
    label: str = ""  # what sets it apart from the others
    environment: dict[str, str] = field(default_factory=dict)  # set before anything is computed

    def __call__(self) -> Outcome:
        from near.common.config import register_resolvers

        register_resolvers()
        setup_globals()
        version.setbase(self.version)
        os.environ.update(self.environment)
        os.chdir(self.cwd)
        sys.argv = list(self.argv)
        set_command(self.command)
        JobRuntime.instance().set("name", self.config.hydra.job.name)
        context = HydraContext(config_loader=None, callbacks=self.callbacks)
        with _into(self.printed):
            done = run_job(self.task, self.config, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context=context)
        if done.status == JobStatus.COMPLETED:
            value = done.return_value
            return {"value": value if isinstance(value, int | float | str | type(None)) else None}
        error = done._return_value
        return {
            "error": str(error) if isinstance(error, UserError) else scrub(f"{type(error).__name__}: {one_line(error)}")
        }


@contextlib.contextmanager
def _into(path: str) -> Iterator[None]:
    """Write what this process and its children print to the end of the file at `path`."""
    kept = [os.dup(1), os.dup(2)]
    with open(path, "ab") as file:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream, number, before in ((sys.stdout, 1, kept[0]), (sys.stderr, 2, kept[1])):
            stream.flush()
            os.dup2(before, number)
            os.close(before)


class ProcessLauncher(Launcher):
    """Calls the jobs of a sweep in processes of their own; how these are started is for its children to say."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job for each list of overrides. The results stand in their order; of a job that failed or died, the
        result raises UserError when it is looked at."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [self._job(list(words), initial_job_idx + i) for i, words in enumerate(job_overrides)]
        shown = labels({job.name: raw_words(job.config.hydra.overrides.task) for job in jobs})
        for job in jobs:
            job.label = shown[job.name]
        folder = Path(jobs[0].printed).parent
        folder.mkdir(parents=True, exist_ok=True)
        log.info(f"{len(jobs)} jobs; what each of them prints is in {folder}/<job>.log")
        outcomes = self.run(jobs)
        return [_returned(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]

    @abstractmethod
    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        """Call them, each in a process; their outcomes in the same order, `died` for what came to no end."""

    def _job(self, overrides: list[str], number: int) -> SweepJob:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # what the folder's name is made of
        folder, name = Path(config.hydra.sweep.dir).resolve(), str(config.hydra.sweep.subdir)
        HydraConfig.instance().cfg = before
        printed = folder / ".jobs" / f"{name}.log"
        return SweepJob(
            config=config,
            task=self.task,
            callbacks=self.context.callbacks,
            cwd=os.getcwd(),
            argv=sys.argv,
            command=current(),
            version=str(version.getbase()),
            name=name,
            printed=str(printed),
        )


def died(job: SweepJob, how: str) -> Outcome:
    """The outcome of a job whose process ended before the job did."""
    return {"error": f"{job.label}: its process died ({how}); start the sweep again, it goes on where it was"}


def ended(job: SweepJob, outcome: Outcome) -> Outcome:
    """Say how it went, and hand it on."""
    log.info(f"{job.label}: {printable(str(outcome['error']), 200) if 'error' in outcome else 'done'}")
    return outcome


def _returned(job: SweepJob, outcome: Outcome) -> JobReturn:
    failed = "error" in outcome
    hydra = OmegaConf.create({"hydra": job.config.hydra})
    cfg = OmegaConf.create({k: v for k, v in OmegaConf.to_container(job.config).items() if k != "hydra"})
    return JobReturn(
        overrides=raw_words(job.config.hydra.overrides.task),
        cfg=cfg,
        hydra_cfg=hydra,
        working_dir=job.cwd,
        task_name=job.config.hydra.job.name,
        status=JobStatus.FAILED if failed else JobStatus.COMPLETED,
        _return_value=UserError(outcome["error"]) if failed else outcome["value"],
    )
