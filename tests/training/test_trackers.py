"""Every tracker keeps the contract; the records of W&B and TensorBoard are read back."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

from near.common.errors import UserError
from near.common.records import ModelMetrics, Score, SetMetrics
from near.selection.round import Subset
from near.training.trackers.base import LogOptions, Tracker, TrackerRun
from near.training.trackers.log import log_metrics, table
from near.training.train import train
from tests.app.test_configs import choices
from tests.conftest import ROOT, configured, process
from tests.tracked import folders, history, of_type, records, tables

pytestmark = pytest.mark.model
EXTRAS = ("swanlab", "mlflow", "trackio")


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every metric that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def as_if_killed(folder: Path) -> None:
    """After the checkpoint at step 8."""
    for name in ("metrics.json", "train_metrics.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-10")


@pytest.mark.parametrize("name", [name for name in choices("tracker") if name not in EXTRAS])
def test_contract(name, tmp_path):
    keeps_the_contract(name, tmp_path)


def keeps_the_contract(name: str, folder: Path) -> None:
    cfg = configured("train", f"tracker={name}", "selector=random")
    tracker = instantiate(cfg.tracker)
    assert isinstance(tracker, Tracker)
    tracker.check()
    with tracker.run(cfg, folder / "job", True) as run:
        run.log({"train/loss": 1.5}, 1)
        run.table(0, 0, [{"place": 1, "row": 7, "similarity": None, "source": "a"}])
    with tracker.run(cfg, folder / "job", True, resumed_at=1) as run:
        run.log({"train/loss": 0.5}, 2)
    with tracker.run(cfg, folder / "other", False) as run:
        run.log({"train/loss": 1.5}, 1)
    assert not (folder / "other").exists()  # only the main process writes


def test_without_a_tracker_only_the_runs_files_are_written(tiny, tmp_path):
    train(configured("train", *tiny), tmp_path / "none")
    train(configured("train", *tiny, "tracker=tensorboard"), tmp_path / "some")
    files = {name: {p.name for p in (tmp_path / name).iterdir()} for name in ("none", "some")}
    assert files["some"] - files["none"] == {"tensorboard"}
    assert files["none"] - files["some"] == set()
    assert {p.name for p in tmp_path.iterdir()} == {"none", "some"}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_package_is_reported_before_loading(name, tiny, packages):
    packages(**{name: False})
    with pytest.raises(UserError, match=rf'tracker={name}: .*; pip install "near\[trackers\]"'):
        instantiate(configured("train", *tiny, f"tracker={name}").tracker).check()


def test_a_round_as_a_table():
    class Pool:
        def sources(self, ids):
            return np.array(["maths", "law"])[ids % 2]

        def texts(self, ids, embed):
            return [f"question\n{row}" for row in ids]

    subset = Subset(np.array([5, 2, 8]), np.array([0.75, np.nan, 0.25], dtype=np.float32))
    assert table(subset, Pool(), 2, 0) == [
        {"place": 1, "row": 5, "similarity": 0.75, "source": "law"},
        {"place": 2, "row": 2, "similarity": None, "source": "maths"},
    ]
    assert [row["prompt"] for row in table(subset, Pool(), 9, 20)] == ["question 5", "question 2", "question 8"]
    assert [row["similarity"] for row in table(Subset(subset.ids), Pool(), 9, 0)] == [None, None, None]


def test_wandb_is_offline_without_a_key_and_one_run_a_job(tmp_path, caplog):
    caplog.set_level("INFO", "near")
    cfg = configured("train", "tracker=wandb", "sweep_name=mysweep")
    for job, value in (("a", 1.25), ("b", 2.5)):
        with instantiate(cfg.tracker).run(cfg, tmp_path / job, True) as run:
            run.log({"train/loss": value}, 3)
    for job, value in (("a", 1.25), ("b", 2.5)):
        (folder,) = folders(tmp_path / job)
        assert history(records(folder), "train/loss") == [(3, value)]
        assert f"wandb: offline; wandb sync {folder}" in caplog.messages


def test_wandb_accepts_late_steps(tmp_path):
    cfg = configured("train", "tracker=wandb")
    with instantiate(cfg.tracker).run(cfg, tmp_path, True) as run:
        run.log({"train/loss": 1.0}, 10)
        run.log({"selection/rows": 5}, 8)
    logged = records(folders(tmp_path)[0])
    assert history(logged, "selection/rows") == [(8, 5)]
    metrics = {m.get("name") or m.get("glob_name"): m for m in of_type(logged, "metric")}
    assert metrics["*"]["step_metric"] == "step"
    assert metrics["step"]["options"]["hidden"]


def test_a_whole_run_in_wandb(tiny, tmp_path):
    words = ["tracker=wandb", "tracker.log_indices=true", "tracker.log_adapter=true", "tracker.table_rows=3"]
    train(configured("train", *tiny, *words), tmp_path / "run")
    (folder,) = folders(tmp_path / "run")
    logged = records(folder)
    (run,) = of_type(logged, "run")
    config = run["config"]["update"]
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert {k: v for k, v in config.items() if k not in ("_wandb", "choices")} == saved
    assert (config["choices"]["selector"], config["choices"]["tracker"]) == ("near", "wandb")
    assert history(logged, "selection/rows") == [(0, 4), (2, 8), (6, 8)]
    assert history(logged, "selection/overlap")[1] == (6, 1)
    assert [step for step, _ in history(logged, "train/loss")]
    assert [step for step, _ in history(logged, "target/target_loss")] == [0, 2, 6, 10]
    loss = json.loads((tmp_path / "run" / "metrics.json").read_text())["target_loss"]
    assert history(logged, "target/target_loss")[-1][1] == pytest.approx(loss)
    shown = tables(folder)
    assert sorted(shown) == ["rows/round_000", "rows/round_001", "rows/round_002"]
    assert shown["rows/round_001"]["columns"] == ["place", "row", "similarity", "source"]
    picked = np.load(tmp_path / "run" / "rounds" / "001.npy")
    data = shown["rows/round_001"]["data"]
    assert [row[1] for row in data] == picked[:3].tolist()
    assert all(row[3] == "sum" and 0 < row[2] <= 1.001 for row in data)
    assert all(row[2] is None for row in shown["rows/round_000"]["data"]), "random rows have no similarity"
    artifacts = {a["type"]: {c["path"] for c in a["manifest"]["contents"]} for a in of_type(logged, "artifact")}
    assert {"top_indices.npy", "top_scores.npy", "rounds/000.npy", "rounds/rounds.jsonl"} <= artifacts["indices"]
    assert "adapter/adapter_model.safetensors" in artifacts["adapter"]


def test_wandb_logs_no_artifact_by_default(tiny, tmp_path):
    train(configured("train", *tiny, "tracker=wandb", "tracker.table_rows=0"), tmp_path)
    logged = records(folders(tmp_path)[0])
    assert of_type(logged, "artifact") == []


def test_a_resumed_job_goes_on_in_its_run(tiny, tmp_path):
    words = [*tiny, "tracker=wandb", "trainer.args.save_steps=4"]
    whole = train(configured("train", *words), tmp_path / "run")
    as_if_killed(tmp_path / "run")
    assert train(configured("train", *words), tmp_path / "run") == whole
    before, after = folders(tmp_path / "run")
    first, second = records(before), records(after)
    assert of_type(first, "run")[0]["run_id"] == of_type(second, "run")[0]["run_id"]
    assert of_type(second, "run")[0]["resume"]
    for metric in ("train/loss", "train/learning_rate", "selection/rows", "selection/overlap", "target/target_loss"):
        assert history(second, metric) == history(first, metric), f"{metric}: the last file has all"
    assert tables(after)["rows/round_001"] == tables(before)["rows/round_001"]
    train(configured("train", *words, "overwrite=true"), tmp_path / "run")
    ids = {of_type(records(folder), "run")[0]["run_id"] for folder in folders(tmp_path / "run")}
    assert len(ids) == 2, "another run than before"


def test_the_logged_sync_command_works(tmp_path, caplog):
    import subprocess

    from tests.tracked import WANDB

    caplog.set_level("INFO", "near")
    cfg = configured("train", "tracker=wandb")
    with instantiate(cfg.tracker).run(cfg, tmp_path / "a job", True) as run:
        run.log({"train/loss": 1.0}, 1)
    line = caplog.messages[-1].removeprefix("wandb: offline; wandb ")
    done = subprocess.run(["bash", "-c", f'"$0" -c "$1" {line} --dry-run', *WANDB[::2]], capture_output=True, text=True)
    for folder in folders(tmp_path / "a job"):
        assert folder.name in done.stdout + done.stderr, done


def test_wandb_is_closed_when_a_job_fails(tmp_path):
    import wandb

    cfg = configured("train", "tracker=wandb")
    with pytest.raises(RuntimeError), instantiate(cfg.tracker).run(cfg, tmp_path, True):
        raise RuntimeError("the job failed")
    assert wandb.run is None
    assert of_type(records(folders(tmp_path)[0]), "exit")[0]["exit_code"] == 1


def test_a_mode_that_is_none_of_wandbs():
    with pytest.raises(UserError, match="tracker.mode=of is not one of online, offline, disabled"):
        configured("train", "tracker=wandb", "tracker.mode=of")


@pytest.mark.slow
@pytest.mark.process
def test_every_job_of_a_sweep_has_a_run_twins_too(tiny, tmp_path):
    words = ["-m", *tiny, "selector=near,near_repeat,random", "max_K=15,61", "tracker=wandb", "sweep_name=mine"]
    done = process(str(ROOT / "train.py"), *words, f"output_dir={tmp_path}/sweep", cwd=tmp_path)
    assert "max_K=61 is more than the 60 candidates" in done.stderr
    by_job = {}
    for job in sorted((tmp_path / "sweep").glob("*/metrics.json")):
        (folder,) = folders(job.parent)
        by_job[job.parent.name] = records(folder)
    assert len(by_job) == 4, "near and near_repeat by max_K=15, random by both"
    runs = {name: of_type(lines, "run")[0] for name, lines in by_job.items()}
    assert len({run["run_id"] for run in runs.values()}) == 4
    assert all((run["run_group"], run["tags"]) == ("mine", ["mine"]) for run in runs.values())
    assert {name: run["display_name"] for name, run in runs.items()} == {name: name for name in runs}
    by_selector = {run["config"]["update"]["choices"]["selector"]: name for name, run in runs.items()}
    near, twin = by_job[by_selector["near"]], by_job[by_selector["near_repeat"]]
    for metric in ("selection/rows", "selection/mean_score", "train/loss", "target/target_loss", "target/perplexity"):
        assert history(near, metric) and history(twin, metric) == history(near, metric), metric
    (folder,) = folders(tmp_path / "sweep" / by_selector["near_repeat"])
    assert all(row[2] is not None for row in tables(folder)["rows/round_001"]["data"])
    assert re.findall(r"wandb: offline; wandb sync \S+offline-run", done.stdout)


def test_an_agents_job_is_the_agents_run(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "byagent1")
    parameters = tmp_path / "config.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, "selector": {"value": "near"}, "seed": {"value": 7}}))
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    cfg = configured("train", "tracker=wandb", "seed=7", "sweep_name=selectors")
    wandb.teardown()  # it reads the environment once
    try:
        with instantiate(cfg.tracker).run(cfg, tmp_path / "run", True) as run:
            run.log({"train/loss": 1.0}, 1)
    finally:
        wandb.teardown()
    (folder,) = folders(tmp_path / "run")
    (started,) = of_type(records(folder), "run")
    assert (started["run_id"], started["sweep_id"]) == ("byagent1", "sweep123")
    assert (started["run_group"], started["tags"]) == ("selectors-sweep123", ["selectors", "sweep123"])
    config = started["config"]["update"]
    assert (config["selector"], config["seed"], config["selector_options"]["policy"]) == ("near", 7, "repeat")
    assert json.loads((tmp_path / "run" / "tracker.json").read_text())["wandb"]["id"] == "byagent1"


def test_disabled_wandb_keeps_nothing(tmp_path):
    cfg = configured("train", "tracker=wandb", "tracker.mode=disabled")
    with instantiate(cfg.tracker).run(cfg, tmp_path / "job", True) as run:
        run.log({"train/loss": 1.0}, 1)
        run.table(0, 0, [{"place": 1, "row": 7}])
    assert folders(tmp_path / "job") == []


def test_no_secret_goes_to_a_tracker(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_HUB_TOKEN", "sesame-9134")
    cfg = configured("train", "tracker=wandb", "+trainer.args.hub_token='${oc.env:MY_HUB_TOKEN}'")
    with instantiate(cfg.tracker).run(cfg, tmp_path, True):
        pass
    text = json.dumps(records(folders(tmp_path)[0]))
    assert "MY_HUB_TOKEN" in text and "sesame-9134" not in text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sesame-9134" not in path.read_bytes(), path


def test_tensorboard_records_are_read_back(tmp_path):
    cfg = configured("train", "tracker=tensorboard")
    with instantiate(cfg.tracker).run(cfg, tmp_path, True) as run:
        for step, value in ((1, 1.5), (2, 0.5), (3, 9.0)):
            run.log({"train/loss": value}, step)
    assert scalars(tmp_path) == {"train/loss": [(1, 1.5), (2, 0.5), (3, 9.0)]}
    with instantiate(cfg.tracker).run(cfg, tmp_path, True) as run:  # started anew, or logged in full again
        run.log({"train/loss": 4.0}, 1)
    assert scalars(tmp_path) == {"train/loss": [(1, 4.0)]}


def test_every_round_is_tracked_at_its_step(tiny, tmp_path):
    train(configured("train", *tiny, "tracker=tensorboard"), tmp_path)
    metrics = scalars(tmp_path)
    assert metrics["selection/rows"] == [(0, 4), (2, 8), (6, 8)]
    assert metrics["selection/overlap"][1] == (6, 1)
    assert {step for step, _ in metrics["selection/mean_score"]} == {2, 6}, "random rows have no similarity"
    assert {name.split("/")[0] for name in metrics} == {"train", "selection", "target"}


def test_a_resumed_job_is_whole_in_tensorboard(tiny, tmp_path):
    words = [*tiny, "tracker=tensorboard", "trainer.args.save_steps=4"]
    train(configured("train", *words), tmp_path)
    before = scalars(tmp_path)
    as_if_killed(tmp_path)
    train(configured("train", *words), tmp_path)
    after = scalars(tmp_path)
    for metric in ("train/loss", "selection/rows", "selection/mean_score", "target/target_loss"):
        assert after[metric] == before[metric]


def test_metrics_of_an_evaluation():
    class Logged(TrackerRun):
        def log(self, metrics, step):
            self.logged = metrics, step

    shared = {"rows": 9, "tokens": 90, "answers_right": None, "eval_fingerprint": "e"}
    scores = {"final_number": Score(mean=0.25), "judge": Score(mean=None)}
    more = {"law": SetMetrics(target_loss=2.0, **shared)}
    metrics = ModelMetrics(target_loss=0.5, perplexity=1.6, scores=scores, more=more, **shared)
    log_metrics(run := Logged(), metrics, 7)
    expected = {"target/target_loss": 0.5, "target/perplexity": 1.6, "target/final_number": 0.25, "more/law_loss": 2.0}
    assert run.logged == (expected, 7)


def test_the_null_run_logs_nothing():
    assert TrackerRun().options == LogOptions(table_rows=0, table_chars=0, log_indices=False, log_adapter=False)
