"""Training on rows that similarity=bm25 found."""

import numpy as np
import pytest

from near.data.loading import load
from near.searching.bm25 import Bm25
from near.searching.find import find_neighbours
from near.searching.settings import SearchSettings
from near.selection.select import select
from near.training.train import train
from tests.conftest import configured

pytestmark = pytest.mark.model


@pytest.mark.parametrize("words_", [["selector=near"], ["selector=less_shortlist", "selector.shortlist.size=8"]])
def test_train(tmp_path, tiny, words_, monkeypatch):
    monkeypatch.setattr(Bm25, "texts", texts := Counted(Bm25.texts))
    words_ = [*(word for word in tiny if not word.startswith("cache_dir")), *words_, f"cache_dir={tmp_path}/cache"]
    words_ += ["similarity=bm25", "similarity.embed=both", "evaluation.answers=false"]
    train(configured("train", *words_, f"output_dir={tmp_path}/run"), tmp_path / "run")
    assert texts.calls == 2  # queries and pool, once
    train(configured("train", *words_, "seed=3", f"output_dir={tmp_path}/other"), tmp_path / "other")
    assert texts.calls == 2
    cfg = configured("train", *words_)
    pool, queries = (
        load(cfg.data, part, cfg.cache_dir, answer=part == "queries") for part in ("candidates", "queries")
    )
    near_ = find_neighbours(SearchSettings.of(cfg, cfg.cache_dir), pool, queries)
    picked = [np.load(path) for path in sorted((tmp_path / "run" / "rounds").glob("*_order.npy"))[1:]]
    assert picked and set(np.concatenate(picked)) <= set(near_.ids.ravel())


def test_a_matrix_of_select_is_trained_on(small_data, tmp_path, tiny):
    """With its scales, as selectors need them."""
    shape = [word for word in tiny if word.startswith(("model", "finetuning", "+trainer", "trainer", "evaluation"))]
    data = [*small_data, f"cache_dir={tmp_path}", "similarity=bm25", "max_K=9"]
    select(configured("select", *data), tmp_path / "out")
    words_ = [*data, *shape, "selector=uot", f"indices_path={tmp_path}/out/top_indices.npy"]
    train(configured("train", *words_, f"output_dir={tmp_path}/run"), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").is_file()


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __get__(self, instance, owner):
        def call(*args):
            self.calls += 1
            return self.function(instance, *args)

        return call
