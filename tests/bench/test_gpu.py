"""bench/gpu.py on a CPU, with small sizes, its parts in this process."""

import json

import pytest

from bench import common, gpu

pytestmark = pytest.mark.real


def test_every_part_is_measured_beside_its_peer(monkeypatch, real_cache, small_data, tmp_path, capsys):
    monkeypatch.setenv("NEAR_CACHE", str(real_cache))
    monkeypatch.setattr(common, "apart", lambda worker, *args: worker(*json.loads(json.dumps(args))))
    sizes = {"texts": 12, "searched": [500], "queries": 20, "K": 5, "steps": 8, "rows": 6, "dim": 256}
    gpu.main(
        *("embedder=hashing", *small_data),
        **{
            **sizes,
            "device": "cpu",
            "model": "tiny",
            "width": "tiny",
            "demo": False,
            "out": str(tmp_path / "gpu.json"),
        },
    )
    shown, result = capsys.readouterr().out, json.loads((tmp_path / "gpu.json").read_text())
    for name in ("embedding, MiniLM", "embedding, tiny shape"):
        assert set(result[name]["texts_per_s"]) == {"near", "encode", "bare"} and name in shown
        assert all(rate > 0 for rate in result[name]["tokens_per_s"].values())
    assert result["search, 500 rows"]["same_ids"] is True and "same ids" in shown
    assert result["step, plain Trainer"]["relative"] == 1
    assert all(result[f"step, {kind}"]["ms"] > 0 for kind in ("padded", "padding-free"))
    assert result["LESS features"]["relative"] > 0
    assert result["device"] == "CPU" and "torch" in result["head"]


@pytest.mark.parametrize("option", [{"steps": 10}, {"width": "none"}])
def test_wrong_options(option):
    with pytest.raises(common.UserError, match=str(next(iter(option)))):
        gpu.main(**option)
