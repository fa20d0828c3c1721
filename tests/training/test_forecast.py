"""dry_run=forecast of train.py: the rows that the run would train, their gradients after its warm-up, by hand; nothing
of it is kept."""

import logging

import numpy as np
import pytest

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.evaluation import forecast as statistics
from near.evaluation.forecast import VerdictForecast
from near.training import forecast as module
from near.training.forecast import agreement
from near.training.train import train
from tests.conftest import RANKS, configured, process, run_script
from tests.scored import FakeScorer, round_for

pytestmark = pytest.mark.model


@pytest.fixture()
def forecast(tiny, tmp_path, caplog):
    def run(*words, out="out"):
        caplog.clear()
        caplog.set_level(logging.INFO, "near")
        cfg = configured("train", *tiny, f"cache_dir={tmp_path}/c", "dry_run=forecast", *words)
        assert np.isnan(train(cfg, tmp_path / out))
        return VerdictForecast.read(tmp_path / out / "forecast.json")

    return run


def test_agreement_is_the_mean_cosine_with_all_queries():
    """Two tasks of one and two queries: each query counts as much."""
    queries = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    pool = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    sources = type("Q", (), {"sources": lambda self, ids: np.array(["a", "b", "b"], dtype=object)})()
    round = round_for(FakeScorer(pool=[pool], queries=[queries]), queries=sources, eligible=np.arange(3))
    assert agreement(round, np.arange(3)).tolist() == pytest.approx([1 / 3, 2 / 3, -1 / 3])


@pytest.mark.parametrize("selector", ["near", "loss", "less", "random"])
def test_a_forecast(forecast, selector, tmp_path, caplog, monkeypatch):
    scored = []
    monkeypatch.setattr(module, "agreement", lambda round, ids: scored.append(ids) or agreement(round, ids))
    made = forecast(f"selector={selector}", "seed=1")
    random, chosen = scored
    assert (made.selection, made.rows, made.random_rows) == (selector, len(chosen), len(random)) and len(chosen) == 8
    assert made.gain * (made.selected - made.random) > 0 and made.error > 0
    assert made.probability == statistics.probabilities(statistics.earlier(), [made.gain])[0]
    assert (made.like, made.came_true) in statistics.calibration(statistics.earlier())
    assert made.step == 2
    assert str(made) in "\n".join(caplog.messages)
    assert caplog.messages[-1] == "nothing was kept of the warm-up; leave out dry_run to train"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"forecast.json", ".near-files.json"}


def test_its_rows_are_those_of_the_run(forecast, tiny, tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(module, "agreement", lambda round, ids: scored.append(ids) or agreement(round, ids))
    words = ["selector=near", "seed=3"]
    first = forecast(*words)
    train(configured("train", *tiny, f"cache_dir={tmp_path}/c", *words), tmp_path / "run")
    assert set(scored[1].tolist()) == set(RunFolder(tmp_path / "run").round_ids(1).tolist())
    again = forecast(*words, out="run")  # beside a finished run, which stays
    assert again.gain == first.gain and RunFolder(tmp_path / "run").metrics.target_loss > 0
    forecast(*words, "selector=random")
    assert np.array_equal(scored[0], scored[2]) and np.array_equal(scored[0], scored[4])  # random rows are the same


def test_gradients_are_those_of_the_run(forecast, tiny, tmp_path):
    """Those by which less selects after the same warm-up, in Adam's direction; without a warm-up the first weights'."""
    for words in ([], ["trainer.warmup_step=0"], ["scoring.adam=false"]):
        words = ["selector=less", "seed=2", *words]
        made = forecast(*words)
        folder = tmp_path / "-".join(words)
        train(configured("train", *tiny, f"cache_dir={tmp_path}/other", *words), folder)
        scores = np.load(folder / "rounds" / f"{0 if made.step == 0 else 1:03d}_scores.npy")
        assert made.rows == len(scores) and made.selected == pytest.approx(scores.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["selector=queries"], "dry_run=forecast compares gradients with the queries', which are trained here"),
        (["trainer=static"], "dry_run=forecast is for rounds of selected rows; use trainer=dynamic_select"),
        (["data.queries.path=null", "selector=loss"], "data.queries.path is missing: the target whose gradients"),
        (["trainer.update_times=0"], "dry_run=forecast: no round follows the warm-up"),
        (["scoring.precondition=fisher"], "scoring.precondition=fisher and dry_run=forecast exclude each other"),
    ],
)
def test_no_forecast(words, error, tiny, tmp_path):
    kept = [w for w in tiny if "static" not in words[0] or not w.startswith(("trainer.w", "trainer.u"))]
    cfg = configured("train", *kept, f"cache_dir={tmp_path}/c", "dry_run=forecast", *words)
    with pytest.raises(UserError, match=error):
        train(cfg, tmp_path / "out")


def test_a_sweep_ends_with_a_table(tiny, tmp_path):
    words = [*tiny, "selector=near,random", "dry_run=forecast", f"output_dir={tmp_path}/s", "sweep_name=s"]
    result = run_script("train.py", "-m", *words)
    assert result.returncode == 0, result.stderr
    assert "beats random rows" in result.stdout and "selector=near" in result.stdout
    made = [VerdictForecast.read(path) for path in tmp_path.rglob("forecast.json")]
    assert sorted(one.selection for one in made) == ["near", "random"] and len({one.random for one in made}) == 1
    assert (result.stdout + result.stderr).count("it is not trained again") == 1


def test_beside_a_run_of_other_options_there_is_no_forecast(forecast, tiny, tmp_path):
    train(configured("train", *tiny, f"cache_dir={tmp_path}/c", "selector=near"), tmp_path / "run")
    with pytest.raises(UserError, match="holds a finished run with another configuration .*; set another output_dir"):
        forecast("selector=near", "max_K=7", out="run")
    assert not (tmp_path / "run" / "forecast.json").exists()
    assert forecast("selector=near", out="run").rows == 8


def test_nothing_is_evaluated_at_the_start(forecast):
    assert forecast("selector=near", "+trainer.args.eval_on_start=true", "+trainer.args.eval_strategy=steps").rows == 8


@pytest.mark.process
def test_two_processes_forecast_once(forecast, tiny, tmp_path):
    """Half a batch on each is the batch of one process: the same warm-up, the same forecast."""
    alone = forecast("selector=less", "seed=1", "trainer.args.per_device_train_batch_size=2")
    words = [*tiny, f"cache_dir={tmp_path}/other", "selector=less", "seed=1", "dry_run=forecast"]
    words += ["trainer.args.per_device_train_batch_size=1", f"output_dir={tmp_path}/two"]
    done = process(*RANKS, "train.py", *words, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    both = VerdictForecast.read(tmp_path / "two" / "forecast.json")
    assert (both.step, both.rows, both.queries) == (alone.step, alone.rows, alone.queries)
    assert both.gain == pytest.approx(alone.gain, rel=1e-3)
