"""hydra/launcher=...: every launcher ends with the numbers of Hydra's own, and a killed job takes no other with it."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from hydra_plugins.near_launchers.gpus import Gpus
from hydra_plugins.near_launchers.joblib import JoblibLauncher
from near.common.processes import is_main
from tests.conftest import ROOT, configured, process, run_script
from tests.launched import Ends, Reports
from tests.slurm import stand_in
from tests.training.test_twins import outcomes, with_checkpoint

pytestmark = pytest.mark.model

# what one job of a process leaves behind would change the next: precision, seeds, what a tracker has open
JOBS = ["++trainer.args.bf16=true,false", "selector=random,near", "tracker=tensorboard", "trainer.args.save_steps=2"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # sums of several threads differ in their last bits


def script(tiny, folder, *words) -> list[str]:
    words = ["-m", *tiny, *words, "trainer.update_step=20", f"output_dir={folder}"]
    return [str(ROOT / "train.py"), *words]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("launchers")


@pytest.fixture()
def plain(tiny, shared) -> dict[str, tuple]:
    """What Hydra's own launcher comes to, one job after another in one process; made once."""
    folder = shared / "plain"
    if not (folder / "multirun.yaml").is_file():
        done = run_script(*script(tiny, folder, *JOBS), cwd=shared, env=ONE_THREAD)
        assert done.returncode == 0, done.stderr[-2000:]
    return outcomes(folder)


def killed_midway(script: list[str], folder, env, by=signal.SIGKILL) -> tuple[subprocess.CompletedProcess, str]:
    """Run a sweep and kill the process of the first of its jobs that has a checkpoint; what the sweep said, and the
    job's name."""
    command = [sys.executable, *script]
    env = {**os.environ, **ONE_THREAD, **env}
    running = subprocess.Popen(
        command, cwd=folder.parent, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    name = None
    while name is None:
        for job in with_checkpoint(folder):
            said = json.loads((folder / ".jobs" / f"{job}.json").read_text())
            if said["state"] == "running" and name is None:
                name = job
                os.kill(said["pid"], by)
        assert running.poll() is None, f"it ended before a job could be killed: {running.communicate()[0][-3000:]}"
        time.sleep(0.01)
    output, _ = running.communicate(timeout=600)
    return subprocess.CompletedProcess(command, running.returncode, output), name


def loses_only_the_killed(tiny, plain, tmp_path, launcher: list[str], env: dict) -> str:
    """Kill a job midway, look at what the sweep says, start it again, compare; what it said the first time."""
    folder = tmp_path / "sweep"
    words = script(tiny, folder, *JOBS, *launcher)
    done, name = killed_midway(words, folder, env)
    assert done.returncode == 1, done.stdout[-3000:]
    assert {p.parent.name for p in folder.glob("*/metrics.json")} == set(plain) - {name}
    assert done.stdout.count(" not finished ") == 1 and done.stdout.count(": done\n") == 3
    assert "its process died" in done.stdout and "start the sweep again" in done.stdout
    again = process(*words, cwd=tmp_path, env={**ONE_THREAD, **env})
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count(" done before ") == 3
    assert "resuming from" in (folder / ".jobs" / f"{name}.log").read_text()
    assert outcomes(folder) == plain
    return done.stdout


def test_joblib_tells_how_a_process_ended():
    """One after another and together: none of them ends the others."""
    hows = ["killed", "exits", "well", "badly"]
    end = "start the sweep again to resume it"
    assert JoblibLauncher(n_jobs=2).run([Ends(how) for how in hows]) == [
        {"error": f"seed=1: its process died (SIGKILL, out of memory?); {end}"},
        {"error": f"seed=1: its process died (status 3); {end}"},
        {"value": 1.5},
        {"error": "no such file"},
    ]


@pytest.mark.parametrize("earlier", [0, 2])
def test_a_job_ends_with_its_launcher(tmp_path, earlier):
    """A launcher that is killed leaves no job running, whether it is the first of its process or a later one."""
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    lines = ["from hydra_plugins.near_launchers.joblib import JoblibLauncher", "class Job:", "    environment = {}"]
    lines += ["    def __call__(self):", f"        exec({code!r})", "from tests.launched import Ends"]
    lines += [f"JoblibLauncher(1).run([Ends('well')] * {earlier} + [Job()])"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, env=env)
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert launcher.poll() is None
        time.sleep(0.01)
    job = psutil.Process(int((tmp_path / "pid").read_text()))
    launcher.kill()
    launcher.wait()
    job.wait(timeout=60)


def test_each_job_has_a_gpu_to_itself(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for visible, names in ((None, ["0", "1"]), ("3,GPU-7", ["3", "GPU-7"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        gpus, first, second = Gpus(8), Ends("well"), Ends("well")
        assert gpus.at_once == 2
        first.environment, second.environment = {}, {}
        with gpus.lent_to(first), gpus.lent_to(second):
            assert [job.environment["CUDA_VISIBLE_DEVICES"] for job in (first, second)] == names
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert (Gpus(None).at_once, Gpus(3).at_once) == (2, 3)


def values(launcher: JoblibLauncher, *expressions: str) -> list[str]:
    return [outcome["value"] for outcome in launcher.run([Reports(expression) for expression in expressions])]


# a module that nobody else imports
IMPORTS, IMPORTED = (
    "__import__('wave') and os.getpid()",
    "'wave' in sys.modules and os.getpid()",
)


def test_a_process_takes_the_next_job_with_what_the_last_one_imported():
    launcher = JoblibLauncher(n_jobs=1)
    first = values(launcher, IMPORTS)
    assert values(launcher, IMPORTED, IMPORTED) == first * 2, "a later batch, as of an optimising sweeper"
    (outcome,) = launcher.run([Ends("badly")])
    assert "error" in outcome and values(launcher, IMPORTED) == ["False"], "a new process after a failed job"


def test_without_reuse_each_job_has_a_new_process():
    assert values(JoblibLauncher(n_jobs=1, reuse=False), IMPORTS, IMPORTED)[1] == "False"


def test_a_process_that_died_idle_or_has_other_threads_is_replaced(monkeypatch):
    launcher = JoblibLauncher(n_jobs=1)
    (pid,) = values(launcher, IMPORTS)
    os.kill(int(pid), signal.SIGKILL)
    psutil.wait_procs([psutil.Process(int(pid))] if psutil.pid_exists(int(pid)) else [], timeout=60)
    assert values(launcher, IMPORTED) == ["False"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert values(launcher, "os.environ['OMP_NUM_THREADS']") == ["7"]


def test_processes_end_with_the_launcher_object():
    launcher = JoblibLauncher(n_jobs=2)
    pids = values(launcher, *["os.getpid()"] * 4)
    del launcher
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)


def test_what_is_printed_is_no_outcome():
    assert JoblibLauncher(n_jobs=1).run([Ends("noisy"), Ends("noisy")]) == [{"value": 1.5}] * 2


THREADS = {"OMP_NUM_THREADS": None, "RAYON_NUM_THREADS": None}


@pytest.mark.parametrize(
    ("environment", "jobs", "processes", "threads"),
    [
        ({}, 4, 1, {"OMP_NUM_THREADS": "4", "RAYON_NUM_THREADS": "4"}),
        ({}, 1, 1, {"OMP_NUM_THREADS": "8", "RAYON_NUM_THREADS": "8"}),  # nothing to share with
        ({}, 4, 3, {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}),
        ({}, 4, 99, {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}),
        ({"OMP_NUM_THREADS": "3"}, 4, 2, {"RAYON_NUM_THREADS": "3"}),
        ({"OMP_NUM_THREADS": "3,1"}, 4, 1, {"RAYON_NUM_THREADS": "3"}),  # of nested loops
        ({"OMP_NUM_THREADS": "0"}, 4, 1, {"OMP_NUM_THREADS": "4", "RAYON_NUM_THREADS": "4"}),
        ({"OMP_NUM_THREADS": ""}, 4, 1, {"OMP_NUM_THREADS": "4", "RAYON_NUM_THREADS": "4"}),
        ({"RAYON_NUM_THREADS": "2"}, 4, 1, {"OMP_NUM_THREADS": "4"}),
    ],
)
def test_jobs_share_the_cores(monkeypatch, caplog, environment, jobs, processes, threads):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    caplog.set_level("INFO", "near")
    assert Gpus(2, jobs, processes).threads() == threads
    assert len(caplog.messages) == 1 and "at once, each process with " in caplog.messages[0]


def test_a_job_and_the_processes_it_starts_have_their_share_of_threads(monkeypatch):
    """Two on two cores, where work is done: torch, FAISS, near's pools, processes of a grader or an engine."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    inherited = "__import__('subprocess').getoutput('echo $OMP_NUM_THREADS $RAYON_NUM_THREADS')"
    seen = [
        "__import__('torch').get_num_threads()",  # never more than the machine has
        "__import__('faiss').omp_get_max_threads()",
        "__import__('near.common.threads').common.threads.threads_to_use()",
        inherited,
    ]
    assert values(JoblibLauncher(n_jobs=2), *seen) == ["1", "1", "1", "1 1"]


@pytest.mark.slow
def test_joblib(tiny, plain, tmp_path):
    """Two processes come to the numbers of one, and so does a fresh one after a kill: nothing leaks from job to job."""
    said = loses_only_the_killed(tiny, plain, tmp_path, ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], {})
    assert "SIGKILL, out of memory?" in said
    events = list((tmp_path / "sweep").glob("*/tensorboard/*tfevents*"))
    assert {p.parent.parent.name for p in events} == set(plain)


@pytest.mark.extras
def test_submitit_local(tiny, plain, tmp_path):
    loses_only_the_killed(tiny, plain, tmp_path, ["hydra/launcher=submitit_local"], {})


@pytest.mark.extras
def test_submitit_slurm(tiny, plain, tmp_path):
    env = stand_in(tmp_path / "bin")
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.slurm_partition=gpu", "hydra.launcher.timeout_min=30"]
    loses_only_the_killed(tiny, plain, tmp_path, words, env)
    submitted = (tmp_path / "bin" / "script_900").read_text()
    for line in ("--partition=gpu", "--time=30", "--gpus-per-node=1", "--cpus-per-task=4"):
        assert f"#SBATCH {line}" in submitted
    assert "#SBATCH --array=0-3%4" in submitted
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}\nexport RAYON" in submitted


@pytest.mark.extras
def test_submitit_sends_a_job_that_must_stop_back(tiny, plain, tmp_path):
    """The signal that stands for a time limit or a preemption: submitit starts the job again, which goes on."""
    folder = tmp_path / "sweep"
    words = script(tiny, folder, *JOBS, "hydra/launcher=submitit_local")
    done, name = killed_midway(words, folder, {}, by=signal.SIGUSR2)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming from" in (folder / ".jobs" / f"{name}.log").read_text()
    assert outcomes(folder) == plain


@pytest.mark.extras
def test_two_processes_a_job(tiny, tmp_path):
    """As torchrun would start them; the result is of both together."""
    words = script(tiny, tmp_path / "sweep", "selector=near,random", "hydra/launcher=submitit_local")
    words += ["hydra.launcher.tasks_per_node=2", "hydra.launcher.n_jobs=1", "+trainer.args.use_cpu=true"]
    done = process(*words, cwd=tmp_path, env=ONE_THREAD)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for path in (tmp_path / "sweep").glob("*/rounds/001_order.npy"):
        assert len(np.load(path)) == 20 * 2 * 2, "steps, rows a device, devices"
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 2
    assert len(list((tmp_path / "sweep" / ".jobs").glob("*.log.1"))) == 2


@pytest.mark.ray
def test_ray(tiny, plain, tmp_path):
    words = ["hydra/launcher=ray", "hydra.launcher.max_retries=0"]
    loses_only_the_killed(tiny, plain, tmp_path, words, {})


@pytest.mark.ray
def test_ray_starts_a_lost_job_again(tiny, plain, tmp_path):
    folder = tmp_path / "sweep"
    done, name = killed_midway(script(tiny, folder, *JOBS, "hydra/launcher=ray"), folder, {})
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming from" in (folder / ".jobs" / f"{name}.log").read_text()
    assert outcomes(folder) == plain


@pytest.mark.ray
def test_ray_does_not_wait_for_what_the_cluster_has_not(tiny, tmp_path):
    words = script(tiny, tmp_path / "sweep", "seed=1,2", "hydra/launcher=ray", "hydra.launcher.num_gpus=1")
    done = process(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: hydra.launcher.num_gpus=1: the cluster has 0, and a job would wait for ever"
    )


@pytest.mark.parametrize(("launcher", "needs"), [("submitit_local", "sweeps"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_is_reported(tiny, tmp_path, launcher, needs):
    hide = tmp_path / "hide"
    hide.mkdir()
    code = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: n not in ('submitit', 'ray') "
    (hide / "sitecustomize.py").write_text(code + "and f(n, *a) or None\n")
    words = script(tiny, tmp_path / "sweep", "seed=1,2", f"hydra/launcher={launcher}")
    done = process(*words, cwd=tmp_path, env={"PYTHONPATH": str(hide)})
    assert done.returncode == 1
    assert re.fullmatch(rf'error: .*not installed; pip install "near\[{needs}\]"', done.stderr.splitlines()[-1])


def test_a_job_leaves_no_model_behind(tiny, tmp_path, monkeypatch):
    """Not even one that fails after its model was loaded, whose error Hydra keeps."""
    from transformers import PreTrainedModel

    from near.app import scripts as app
    from near.training import train as training

    def models() -> int:
        return sum(isinstance(x, PreTrainedModel) for x in gc.get_objects())

    cfg = configured("train", *tiny)
    gc.collect()
    before = models()
    monkeypatch.setattr(app, "in_sweep", lambda: True)
    monkeypatch.setattr(app, "output_dir", lambda: tmp_path / "good")
    app.script("train")(lambda cfg: training.train(cfg, tmp_path / "good")).__wrapped__(cfg)
    assert models() == before

    def fails(*args):
        raise KeyError("ours")

    monkeypatch.setattr(app, "output_dir", lambda: tmp_path / "bad")
    monkeypatch.setattr(training, "write_outcome", fails)
    errors = []
    try:
        app.script("train")(lambda cfg: training.train(cfg, tmp_path / "bad")).__wrapped__(cfg)
    except KeyError as error:
        errors.append(error)
    assert errors and is_main() and models() == before
