"""selector=oracle: rows with the label of the queries."""

import dataclasses

import numpy as np
import pytest
from hydra.utils import instantiate

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.selection.round import Round
from near.selection.select import select
from near.selection.selectors.oracle import Oracle
from near.training.train import train
from tests.conftest import configured, write_rows
from tests.scored import Queries

POOL = ["sort", "up", "sort", None, "sort", 3, "up", "sort"]
ELIGIBLE = np.array([0, 1, 2, 3, 4, 5, 6])


def round_of(size: int = 8, queries: tuple = ("sort", None, "sort"), **changed) -> Round:
    given = {"columns": {"skill": POOL}, "query_columns": {"skill": list(queries)}}
    given |= {"pool": Queries(list(map(str, POOL))), "queries": Queries(list(map(str, queries)))}
    return dataclasses.replace(Round.alone(size, 0, ELIGIBLE, len(POOL), **given), **changed)


def test_all_eligible_rows_with_a_label_of_the_queries():
    assert sorted(Oracle(label="skill").select(round_of()).ids) == [0, 2, 4]
    assert sorted(Oracle(label="skill").select(round_of(queries=("up", 3))).ids) == [1, 5, 6]


def test_rows_trained_least_come_first():
    trained = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    assert Oracle(label="skill").select(round_of(1, trained=trained)).ids.tolist() == [2]


def test_without_labels_it_goes_by_source():
    assert sorted(Oracle().select(round_of(queries=("up",))).ids) == [1, 6]


def test_no_row_has_the_label():
    with pytest.raises(UserError, match=r"label=skill: no row of the pool has a label of the queries \(down\)"):
        Oracle(label="skill").select(round_of(queries=("down",)))


def test_the_label_is_the_first_of_data_labels():
    assert instantiate(configured("train", "selector=oracle").selector).label == "source"
    cfg = configured("train", "selector=oracle", "data.labels=[skill,wording]")
    assert instantiate(cfg.selector).label == "skill"


@pytest.fixture()
def labelled(tmp_path, cache) -> list[str]:
    rows = [{"instruction": f"q{i}", "output": "a b", "skill": "xy"[i % 2]} for i in range(40)]
    paths = {"candidates": rows[:30], "queries": rows[31::4], "eval": rows[33::4]}
    files = [f"data.{part}.path={write_rows(tmp_path / f'{part}.jsonl', of)}" for part, of in paths.items()]
    return ["data=files", *files, f"cache_dir={cache}", "data.labels=[skill]", "selector=oracle"]


def test_select_writes_rows_of_that_label(tmp_path, labelled):
    out = tmp_path / "out"
    select(configured("select", *labelled, "n=5"), out)
    assert sorted(i % 2 for i in np.load(out / "subset.npy")) == [1] * 5
    select(configured("select", *labelled, "n=5"), out)
    changed = (tmp_path / "queries.jsonl").read_text().replace('"skill": "y"', '"skill": "x"')
    (tmp_path / "queries.jsonl").write_text(changed)
    with pytest.raises(UserError, match="another subset"):
        select(configured("select", *labelled, "n=5"), out)


def test_a_run_trains_them_and_its_identity_has_the_labels(tmp_path, labelled, tiny):
    shape = [word for word in tiny if word.startswith(("model", "finetuning", "+trainer", "trainer", "evaluation"))]
    train(configured("train", *labelled, *shape, f"output_dir={tmp_path}/run"), tmp_path / "run")
    prints = RunFolder(tmp_path / "run").training.identity.fingerprints
    assert {"candidates.columns", "queries.columns"} <= prints.keys()
    picked = [np.load(path) for path in sorted((tmp_path / "run" / "rounds").glob("*_order.npy"))[1:]]
    assert picked and all((ids % 2 == 1).all() for ids in picked)


def test_queries_without_a_label():
    with pytest.raises(UserError, match="selector.label=skill: no query has a label"):
        Oracle(label="skill").select(round_of(queries=(None, float("nan"))))


def test_the_queries_sources_decide_the_rows(tmp_path, labelled):
    """Changed sources of the queries, whose messages stay, are another selection and another run."""
    files = [word for word in labelled if not word.startswith("data.labels")]
    words = [*files, "data.candidates.columns.source=skill", "data.queries.columns.source=skill"]
    select(configured("select", *words, "n=5"), tmp_path / "out")
    assert sorted(i % 2 for i in np.load(tmp_path / "out" / "subset.npy")) == [1] * 5
    changed = (tmp_path / "queries.jsonl").read_text().replace('"skill": "y"', '"skill": "x"')
    (tmp_path / "queries.jsonl").write_text(changed)
    with pytest.raises(UserError, match="another subset"):
        select(configured("select", *words, "n=5"), tmp_path / "out")
