"""Shared by all launchers: every job is a separate process, and if one dies, the others continue.

Hydra's published launchers end the whole sweep if one of their workers is killed.
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
from near.common.text import plural

log = logging.getLogger("near")


class Outcome(TypedDict, total=False):
    """How a job ended: exactly one of the two keys."""

    value: int | float | str | None  # the return value
    error: str  # the error line


@dataclass
class SweepJob:
    """One job of a sweep, to be called in a separate process; its output goes to the file `printed`."""

    config: DictConfig  # composed, including Hydra's part
    task: TaskFunction
    callbacks: object
    cwd: str
    argv: list[str]  # of the process that started the sweep
    command: Command  # how that process was started
    version: str  # version_base of Hydra
    name: str
    printed: str  # a file
    label: str = ""  # the overrides that distinguish it from the others
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
    """Append the output of this process and its children to the file at `path`."""
    originals = [os.dup(1), os.dup(2)]
    with open(path, "ab") as file:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream, number, original in ((sys.stdout, 1, originals[0]), (sys.stderr, 2, originals[1])):
            stream.flush()
            os.dup2(original, number)
            os.close(original)


class ProcessLauncher(Launcher):
    """Runs the jobs of a sweep in separate processes; its subclasses start these."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job for each list of overrides. The results have the same order; the result of a job that failed or
        died raises UserError when it is read."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [self._job(list(words), initial_job_idx + i) for i, words in enumerate(job_overrides)]
        names = labels({job.name: raw_words(job.config.hydra.overrides.task) for job in jobs})
        for job in jobs:
            job.label = names[job.name]
        folder = Path(jobs[0].printed).parent
        folder.mkdir(parents=True, exist_ok=True)
        log.info(f"{plural(len(jobs), 'job')}; output in {folder}/<job>.log")
        outcomes = self.run(jobs)
        return [_returned(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]

    @abstractmethod
    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        """Call each job in a process; outcomes in the same order, from `died` for a job whose process died."""

    def _job(self, overrides: list[str], number: int) -> SweepJob:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # the resolvers of the folder's name read it
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
    return {"error": f"{job.label}: its process died ({how}); start the sweep again to resume it"}


def ended(job: SweepJob, outcome: Outcome) -> Outcome:
    """Log the outcome and return it."""
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
