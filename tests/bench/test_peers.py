"""bench/peers.py without a package index: near's part runs, and each peer is a row with the reason."""

import json
import logging

import numpy as np
import pytest
import torch

from bench import common, peers

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def logs_and_threads_again():
    threads = torch.get_num_threads()
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


@pytest.fixture()
def no_index(monkeypatch):
    for name, value in {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)


def test_near_is_measured_and_missing_peers_are_rows(monkeypatch, no_index, real_cache, small_data, tmp_path, capsys):
    monkeypatch.setenv("NEAR_CACHE", str(real_cache))
    monkeypatch.setattr(common, "apart", lambda worker, *args, **_: worker(*json.loads(json.dumps(args))))
    sizes = {"rows": 6, "side": 8, "turns": 1, "threads": 1, "model": "tiny", "device": "cpu"}
    peers.main(*small_data, **sizes, env=str(tmp_path / "env"), out=str(tmp_path / "peers.json"))
    shown, result = capsys.readouterr().out, json.loads((tmp_path / "peers.json").read_text())
    near = result["near"]
    assert near["rows"] == 6 and near["dims"] == result["dim"] > 0 and near["relative"] == 1
    assert near["seconds"] > 0 and near["peak_gb"] > 0 and near["error"] < 0.2
    assert shown.count("not measured") == 3
    for name, packages in peers.INSTALLED.items():
        assert result[name].keys() == {"reason"} and packages[0] in result[name]["reason"], result[name]
        assert f"\n{name} " in shown


def test_cosines_of_projections_that_keep_everything_are_exact():
    features = torch.tensor([[3.0, 4.0], [4.0, -3.0], [6.0, 8.0]])
    assert np.allclose(peers.cosines(features), [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("option", [{"peers": ["bergsen"]}, {"rows": 1}, {"side": 0}, {"turns": 0}])
def test_wrong_options(option):
    with pytest.raises(common.UserError, match=next(iter(option))):
        peers.main(**option)
