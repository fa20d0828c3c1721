"""hydra/sweeper=optuna: searches over max_K, policy and temperature by the target loss."""

import json

import pytest
import yaml

from tests.conftest import ROOT, process

pytestmark = [pytest.mark.model, pytest.mark.extras]


def test_the_best_trial(tiny, tmp_path):
    """Started again, it proposes the same jobs, which are done already."""
    words = [w for w in tiny if not w.startswith("max_K=")]
    words += ["sweeps=optuna", "hydra.sweeper.params.max_K='choice(5,10,15)'", "hydra.sweeper.n_trials=4"]
    words = [str(ROOT / "train.py"), *words, f"output_dir={tmp_path}/sweep", f"cache_dir={tmp_path}/cache"]
    done = process(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = {p.parent: json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("*/metrics.json")}
    assert len(runs) == 4
    results = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert set(results["best_params"]) == {"max_K", "selector.policy", "selector.temperature"}
    assert results["best_value"] == min(m["target_loss"] for m in runs.values())
    again = process(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("is done already") == 4 and again.stdout.count(" done before ") == 4
