"""SwanLab, MLflow and Trackio: they keep the contract, stay on this machine, and record what TensorBoard does."""

import json
import os
import socket
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from near.common.errors import UserError
from near.training.train import train
from tests.conftest import configured
from tests.training.test_trackers import EXTRAS, as_if_killed, keeps_the_contract, no_key, scalars  # noqa: F401

pytestmark = [pytest.mark.model, pytest.mark.extras]


@pytest.fixture(scope="session", autouse=True)
def trackio_dir(tmp_path_factory):
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))  # read once, when it is imported


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing may leave this machine."""

    def refused(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")  # whose owner Trackio would request from the hub


def words(name: str, folder: Path) -> list[str]:
    """A Trackio project or MLflow store of one test."""
    options = {"trackio": [f"tracker.project=p{abs(hash(str(folder)))}"], "mlflow": [], "swanlab": []}
    return [f"tracker={name}", *options[name]]


def read(name: str, cfg, folder: Path) -> tuple[dict, dict[str, list[tuple[int, float]]]]:
    """The configuration, and (step, value) by metric, of the one run that `folder` reported to."""
    return {"swanlab": _swanlab, "mlflow": _mlflow, "trackio": _trackio}[name](cfg, folder)


def _swanlab(cfg, folder):
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    metrics, ids = {}, set()
    for path in sorted((folder / "swanlog").glob("run-*/*.swanlab")):
        reader = DataStoreReader()
        reader.open(path)
        for data in reader:
            record = Record()
            record.ParseFromString(data)
            if record.HasField("scalar"):
                metrics.setdefault(record.scalar.key, []).append((record.scalar.step, record.scalar.value.number))
            if record.HasField("start"):
                ids.add(record.start.id)
        reader.close()
        config = yaml.safe_load((path.parent / "files" / "config.yaml").read_text())
    assert len(ids) == 1
    return {k: v["value"] or None for k, v in config.items()}, metrics


def _mlflow_client():
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlruns/mlflow.db")


def _mlflow(cfg, folder):
    client = _mlflow_client()
    experiment = client.get_experiment_by_name("near")
    (run,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == folder.name]
    metrics = {k: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)] for k in run.data.metrics}
    path = Path(client.download_artifacts(run.info.run_id, "config.yaml"))
    assert run.data.params["seed"] == "42" and run.data.params["choices.tracker"] == "mlflow"
    return yaml.safe_load(path.read_text()), metrics


def _trackio(cfg, folder):
    from trackio.sqlite_storage import SQLiteStorage

    project = cfg.tracker.project
    (name,) = [n for n in SQLiteStorage.get_runs(project) if n.startswith(folder.name)]
    metrics = {}
    for line in SQLiteStorage.get_logs(project, name):
        for key, value in line.items():
            if isinstance(value, int | float) and key != "step":
                metrics.setdefault(key, []).append((line["step"], value))
    config = SQLiteStorage.get_run_config(project, name)
    return {k: v for k, v in config.items() if not k.startswith("_")}, metrics


@pytest.mark.parametrize("name", EXTRAS)
def test_contract(name, tmp_path):
    keeps_the_contract(name, tmp_path)


@pytest.mark.parametrize("name", EXTRAS)
def test_a_whole_run_logs_the_same_as_to_tensorboard(name, tiny, tmp_path):
    cfg = configured("train", *tiny, *words(name, tmp_path), "seed=42")
    train(cfg, tmp_path / "run")
    train(configured("train", *tiny, "tracker=tensorboard"), tmp_path / "other")
    config, metrics = read(name, cfg, tmp_path / "run")
    other = scalars(tmp_path / "other")
    assert set(metrics) == set(other)
    timed = ("second", "runtime", "flos")
    for metric, values in other.items():
        assert sorted(dict(metrics[metric])) == sorted(dict(values)), metric  # of two at one step SwanLab keeps one
        if not any(word in metric for word in timed):
            assert dict(metrics[metric]) == pytest.approx(dict(values), rel=1e-6), metric
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert {k: v for k, v in config.items() if v} == {
        k: v for k, v in {**saved, "choices": config["choices"]}.items() if v
    }
    assert config["choices"]["selector"] == "near"


@pytest.mark.parametrize("name", EXTRAS)
def test_a_resumed_job_goes_on_in_its_run(name, tmp_path):
    cfg = configured("train", *words(name, tmp_path))
    with pytest.raises(RuntimeError), instantiate(cfg.tracker).run(cfg, tmp_path / "job", True) as run:
        run.log({"train/loss": 1.0, "target/target_loss": 3.0}, 1)
        raise RuntimeError("killed")
    with instantiate(cfg.tracker).run(cfg, tmp_path / "job", True, resumed_at=1) as run:
        run.log({"train/loss": 0.5}, 2)
    with instantiate(cfg.tracker).run(cfg, tmp_path / "next", True) as run:
        run.log({"train/loss": 9.0}, 5)
    assert read(name, cfg, tmp_path / "job")[1] == {
        "train/loss": [(1, 1.0), (2, 0.5)],
        "target/target_loss": [(1, 3.0)],
    }
    assert read(name, cfg, tmp_path / "next")[1] == {"train/loss": [(5, 9.0)]}
    ids = [json.loads((tmp_path / job / "tracker.json").read_text())[name]["id"] for job in ("job", "next")]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_resumed_job_is_whole(name, tiny, tmp_path):
    settings = [*tiny, *words(name, tmp_path), "trainer.args.save_steps=4"]
    for _ in range(2):
        cfg = configured("train", *settings)
        train(cfg, tmp_path / "run")
        metrics = read(name, cfg, tmp_path / "run")[1]
        assert sorted(dict(metrics["train/loss"])) == list(range(1, 11))
        assert sorted(dict(metrics["selection/rows"])) == [0, 2, 6]
        if (tmp_path / "run" / "checkpoints" / "checkpoint-10").is_dir():
            as_if_killed(tmp_path / "run")


def test_mlflow_keeps_tables_files_and_how_it_ended(tiny, tmp_path):
    options = ["tracker=mlflow", "tracker.log_indices=true", "tracker.log_adapter=true", "tracker.table_rows=2"]
    train(configured("train", *tiny, *options), tmp_path / "run")
    cfg = configured("train", "tracker=mlflow")
    with pytest.raises(RuntimeError), instantiate(cfg.tracker).run(cfg, tmp_path / "failed", True):
        raise RuntimeError("the job failed")
    client = _mlflow_client()
    entities = client.search_runs([client.get_experiment_by_name("near").experiment_id])
    runs = {run.info.run_name: run.info for run in entities}
    assert {name: run.status for name, run in runs.items()} == {"run": "FINISHED", "failed": "FAILED"}
    artifacts = Path(client.download_artifacts(runs["run"].run_id, ""))
    assert (artifacts / "adapter" / "adapter" / "adapter_model.safetensors").is_file()
    assert (artifacts / "indices" / "top_indices.npy").is_file() and (
        artifacts / "indices" / "rounds" / "001.npy"
    ).is_file()
    table = json.loads((artifacts / "rows" / "round_001.json").read_text())
    assert table["columns"] == ["place", "row", "similarity", "source"] and len(table["data"]) == 2
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()


@pytest.mark.parametrize(
    "name, option, message",
    [
        ("swanlab", "tracker.mode=online", "tracker=swanlab: .*; tracker.mode=offline needs no server"),
        ("mlflow", "tracker.tracking_uri=nowhere://x", "tracker=mlflow: nowhere://x can't be used: "),
    ],
)
def test_an_unreachable_server_is_one_line(name, option, message, tmp_path):
    cfg = configured("train", f"tracker={name}", option)
    with pytest.raises(UserError, match=message), instantiate(cfg.tracker).run(cfg, tmp_path, True):
        pass
