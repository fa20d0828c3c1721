"""A result lists all that it depends on: a changed field changes exactly the keys of the results that read it."""

import json
import shutil

import pytest
from hydra.utils import instantiate

from near.app.check.check import read_run_config
from near.common.errors import UserError
from near.data.loading import load
from near.data.pool import load_pool
from near.embedding.duplicates import without_near_duplicates
from near.evaluation import base_model
from near.evaluation.graded_columns import columns_read, graded_columns
from near.evaluation.graders.base import Answer, Grade, Grader
from near.evaluation.measure import evaluation_sets
from near.evaluation.settings import EvalSettings
from near.models.fingerprint import of_model
from near.models.loading import base_folder, load_tokenizer
from near.models.tokens import tokenize
from near.report.page.pool import loaded
from near.report.runs import collect
from near.searching.find import matrix_key_parts
from near.selection.needs import needs_of
from near.selection.selectors.base import selector_of
from near.training.fingerprints import of_run
from near.training.train import train
from tests.conftest import configured, evaluate, write_rows

pytestmark = pytest.mark.model

FIELDS = ("instruction", "input", "output", "system", "domain", "test", "note")
MESSAGES = {"instruction", "input", "output", "system"}
PARTS = ("candidates", "queries", "eval", "more")


class Reads(Grader):
    """Right where the row's column `test` says so."""

    columns = True

    def __init__(self, columns=("test",)):
        self.columns = columns

    def grade(self, answers: list[Answer], cache_dir: str) -> list[Grade]:
        return [Grade(float(answer.raw["test"] == "right")) for answer in answers]


GRADED = [f"+evaluation.graders.reads._target_={__name__}.Reads"]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict]]:
    def row(part: str, i: int) -> dict:
        row = {name: f"{name} {i} of {part}" for name in FIELDS}
        return row | {"domain": f"domain {i % 2}", "test": "right"}

    return {part: [row(part, i) for i in range(4)] for part in PARTS}


@pytest.fixture()
def words(tmp_path, cache):
    """Overrides that read all parts, each from a file that `write` writes."""
    columns = [f"data.{part}.columns.source=domain" for part in PARTS[:3]]
    paths = [f"data.{part}.path={tmp_path}/{part}.jsonl" for part in PARTS[:3]]
    more = f"+data.more_eval.more.path={tmp_path}/more.jsonl"
    return ["data=files", *paths, *columns, more, f"cache_dir={cache}", "embedder=hashing", "max_K=2", "model=tiny"]


def write(folder, rows: dict[str, list[dict]], part: str | None = None, field: str = "") -> None:
    for name, part_rows in rows.items():
        changed = [
            row | {field: row[field] + "!"} if name == part and i == 2 else row for i, row in enumerate(part_rows)
        ]
        write_rows(folder / f"{name}.jsonl", changed)


def depends(words: list[str]) -> dict[str, str]:
    """The keys of a run, its matrix, its tokens and the base's evaluations."""
    cfg = configured("train", *words)
    needs, sets = needs_of(cfg, selector_of(cfg.selector)), evaluation_sets(cfg.data, cfg.cache_dir)
    queries = load(cfg.data, "queries", cfg.cache_dir)
    pool = without_near_duplicates(load_pool(cfg.data, queries, cfg.cache_dir), cfg.data, cfg.embedder, cfg.cache_dir)
    keys = {f"run {name}": value for name, value in of_run(cfg, cfg.cache_dir, needs, sets, queries, pool).items()}
    embedder, index = (instantiate(cfg[name]) for name in ("embedder", "index"))
    keys["matrix"] = json.dumps(matrix_key_parts(embedder, index, pool, queries), sort_keys=True)
    keys["tokens"] = tokenize(pool, load_tokenizer(cfg.model, cfg.cache_dir), cfg.data, cfg.cache_dir).fingerprint
    for one in sets.all():
        keys[f"base on {one.name}"] = base_model._folder(EvalSettings.of(cfg, cfg.cache_dir), cfg.model, one).name
    return keys


def expected(part: str, field: str, graded: bool, gradients: bool) -> set[str]:
    name = "more_eval.more" if part == "more" else part
    if field in MESSAGES:
        of_part = {"candidates": {"matrix", "tokens"}, "queries": {"matrix"}}.get(part, {f"base on {name}"})
        return {f"run {name}"} | of_part
    if field == "domain":
        return (
            {"run candidates.sources"}
            if part == "candidates"
            else ({"run queries.sources"} if part == "queries" and gradients else set())
        )
    if field == "test" and graded and part in ("eval", "more"):
        return {f"run {name}.columns", f"base on {name}"}
    return set()


@pytest.mark.parametrize(
    ("more", "graded", "gradients"),
    [
        ([], False, False),
        (GRADED, True, False),
        ([*GRADED, "evaluation.answers=false"], False, False),
        ([*GRADED, "selector=less"], True, True),
        (["selector=random"], False, False),
    ],
)
def test_a_changed_field_changes_exactly_the_keys_that_read_it(rows, words, tmp_path, more, graded, gradients):
    write(tmp_path, rows)
    before = depends([*words, *more])
    assert depends([*words, *more]) == before
    for part in PARTS:
        for field in FIELDS:
            write(tmp_path, rows, part, field)
            after = depends([*words, *more])
            changed = {name for name in before | after if before.get(name) != after.get(name)}
            assert changed == expected(part, field, graded, gradients), (part, field)


def test_a_grader_that_names_no_columns_reads_all(rows, words, tmp_path):
    write(tmp_path, rows)
    cfg = configured("train", *words, *GRADED, "+evaluation.graders.reads.columns=true")
    assert columns_read(cfg.evaluation) is None
    before = graded_columns(cfg.evaluation, cfg.data, load(cfg.data, "eval", cfg.cache_dir), cfg.cache_dir)
    write(tmp_path, rows, "eval", "note")
    assert graded_columns(cfg.evaluation, cfg.data, load(cfg.data, "eval", cfg.cache_dir), cfg.cache_dir) != before


def test_another_order_of_tests_is_another_set(rows, words, tmp_path):
    """Rows with the same messages whose tests are swapped."""
    same = [{"instruction": "q", "output": "a", "domain": "d", "test": test} for test in ("right", "wrong")]
    cfg = configured("train", *words, *GRADED)
    prints = set()
    for part_rows in (same, same[::-1], [*same, same[0]]):
        write(tmp_path, rows | {"eval": part_rows})
        prints.add(graded_columns(cfg.evaluation, cfg.data, load(cfg.data, "eval", cfg.cache_dir), cfg.cache_dir))
    assert len(prints) == 3


def test_earlier_scores_are_not_used_for_other_tests(tiny, tmp_path):
    """eval.py takes the base's score from the cache, and train.py says that it is done, for the same tests alone."""
    path = tmp_path / "eval.jsonl"
    words = [*tiny, *GRADED, f"data.eval.path={path}"]
    for test, score in (("right", 1.0), ("wrong", 0.0), ("right", 1.0)):
        write_rows(path, [{"instruction": "q", "output": "a", "test": test}])
        training = ("max_K", "embedder", "finetuning", "trainer", "+trainer")
        cfg = configured("eval", *[word for word in words if not word.startswith(training)])
        evaluate(cfg, tmp_path / "base")
        metrics = json.loads((tmp_path / "base" / "metrics.json").read_text())
        assert metrics["scores"]["reads"]["mean"] == score
    train(configured("train", *words), tmp_path / "run")
    train(configured("train", *words), tmp_path / "run")
    write_rows(path, [{"instruction": "q", "output": "a", "test": "wrong"}])
    with pytest.raises(
        UserError, match=r"another configuration \(fingerprints.eval.columns was .*; set overwrite=true"
    ):
        train(configured("train", *words), tmp_path / "run")


def test_a_mix_of_swapped_labels_is_another_run(tiny, tmp_path):
    pool = tmp_path / "pool.jsonl"
    words = [*tiny, "trainer=dynamic_mix", "mixer=static", f"data.candidates.path={pool}"]
    rows = [{"instruction": f"question {i}", "output": "a", "domain": "xy"[i % 2]} for i in range(20)]
    write_rows(pool, rows)
    train(configured("train", *words), tmp_path / "run")
    write_rows(pool, [row | {"domain": "yx"[i % 2]} for i, row in enumerate(rows)])
    with pytest.raises(UserError, match=r"another configuration \(fingerprints.candidates.sources was "):
        train(configured("train", *words), tmp_path / "run")
    [run] = [run for run in collect(tmp_path / "run")[0] if run.pool is not None]
    with pytest.raises(UserError, match="the sources of .* have changed their labels since they were selected from"):
        loaded(run, run.pool, read_run_config)


def test_a_local_model_whose_files_change_is_another_model(tiny, tmp_path, cache):
    cfg = configured("train", *tiny)
    folder = tmp_path / "model"
    shutil.copytree(base_folder(cfg.model, str(cache)), folder)
    words = [*tiny, f"model.name_or_path={folder}"]
    train(configured("train", *words), tmp_path / "run")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"repetition_penalty": 1.5}))
    with pytest.raises(UserError, match=r"\(fingerprints.model.name_or_path was "):
        train(configured("train", *words), tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        "model.template=alpaca",
        "model.enable_thinking=false",
        "model.split_special_tokens=true",
        "model.upcast_layernorm=true",
        "model.dtype=bfloat16",
    ],
)
def test_a_models_fingerprint_covers_every_option(tiny, cache, change):
    before, after = configured("train", *tiny), configured("train", *tiny, change)
    folder = base_folder(before.model, str(cache))
    assert of_model(before.model, folder) != of_model(after.model, folder)


@pytest.mark.parametrize("change", ["data.default_system=Hi", "data.reasoning=drop", "data.cutoff_len=64"])
def test_the_bases_evaluation_depends_on_how_rows_are_encoded(tiny, cache, change):
    names = []
    for words in (tiny, [*tiny, change]):
        cfg = configured("train", *words)
        names.append(
            base_model._folder(EvalSettings.of(cfg, cfg.cache_dir), cfg.model, load(cfg.data, "eval", str(cache)))
        )
    assert names[0] != names[1]


def test_an_option_by_reference_counts_by_its_value(tiny, cache, monkeypatch):
    cfg = configured("train", *tiny, "model.revision=null")
    cfg.model.template = "${oc.env:TEMPLATE_OF_A_TEST}"
    folder, fingerprints = base_folder(cfg.model, str(cache)), []
    for name in ("alpaca", "qwen", "alpaca"):
        monkeypatch.setenv("TEMPLATE_OF_A_TEST", name)
        fingerprints.append(of_model(cfg.model, folder))
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
