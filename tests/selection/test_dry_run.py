"""dry_run=true of select.py for selectors that need the model."""

import pytest

from near.common.cost import Cost
from near.selection.select import select
from tests.conftest import configured

pytestmark = pytest.mark.model


@pytest.fixture()
def run(tiny, tmp_path):
    words = [w for w in tiny if w.startswith(("data", "embedder", "model"))] + [f"cache_dir={tmp_path}/c"]

    def selected(*more, out="out"):
        select(configured("select", *words, *more), tmp_path / out)
        path = tmp_path / out / "dry_run.json"
        return Cost.read(path) if path.is_file() else None

    return selected


@pytest.mark.parametrize(
    ("words", "rows", "row_bytes"),
    [
        (["selector=loss"], 60, 4),
        (["selector=loss", "selector.shortlist={selector: random, size: 20}"], 20, 4),
        (["selector=less", "scoring.modules=[q_proj]", "scoring.adam=false", "scoring.dim=32"], 64, 68),
    ],
    ids=["loss", "shortlist", "less"],
)
def test_rows_by_hand_and_what_is_stored(words, rows, row_bytes, run, tmp_path):
    cost = run(*words, "n=5", "dry_run=true")
    assert list(cost.stages) == ["tokenising", "loading the model", "scoring"]
    scoring = cost.stages["scoring"]
    assert scoring.rows == rows and scoring.disk == rows * row_bytes and scoring.seconds > 0
    assert not (tmp_path / "c" / "scores").exists() and not (tmp_path / "c" / "tokens").exists()
    if "shortlist" in words[-1]:
        return
    run(*words, "n=5", out="done")
    again = run(*words, "n=5", "dry_run=true").stages["scoring"]
    assert again.rows == rows - 60 and again.note.endswith("; 60 rows stored already")


def test_a_plan_counts_without_a_model(run, monkeypatch):
    monkeypatch.setattr("near.selection.offline.load_base", lambda *_: pytest.fail("a model"))
    cost = run("selector=loss", "n=5", "dry_run=count")
    assert cost.stages["scoring"].rows == 60 and cost.seconds is None
