"""near verify: a selection that was handed on, whole, tampered with, and on other data; without a model."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from near.app import manifest, verify
from near.app.handed_on import for_this_machine
from near.common.errors import UserError
from near.common.files import file_digest
from near.common.records import RoundRecord, RowsRecord, RunIdentity, TrainMetrics
from near.data.loading import load
from near.data.row_keys import content_digest
from near.selection.round import Subset
from near.selection.select import select
from near.selection.verifying import files as file_checks
from near.selection.verifying.recompute import MappedIds, Recomputed
from near.selection.verifying.rows import check_rows, match
from near.selection.verifying.scores import check_scores
from near.selection.verifying.time_limit import TimeLimit
from near.training.folder import write_config
from near.training.rounds.record import Record
from near.training.rounds.schedule import Phase
from tests.conftest import configured, write_rows


@pytest.fixture(autouse=True)
def no_command(monkeypatch):
    monkeypatch.setattr("near.common.command_line._current", None)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """40 rows, of which two pairs have the same words and so the same scores, and 3 queries."""
    folder = tmp_path_factory.mktemp("pool")
    words = "red blue green cold warm old new tall short loud".split()
    rows = [f"{words[i % 10]} {words[(3 * i + 1) % 10]} item {i // 4}" for i in range(38)]
    rows += [" ".join(reversed(rows[5].split())), " ".join(reversed(rows[11].split()))]
    write_rows(folder / "pool.jsonl", [{"instruction": row, "output": f"answer {i}"} for i, row in enumerate(rows)])
    queries = [rows[5] + " please", "blue new item 3", "tall loud"]
    write_rows(folder / "queries.jsonl", [{"instruction": text, "output": "x"} for text in queries])
    return folder


def words(pool: Path, cache: Path, *more: str) -> list[str]:
    paths = [f"data.{part}.path={pool}/{name}.jsonl" for part, name in (("candidates", "pool"), ("queries", "queries"))]
    return ["data=files", *paths, f"cache_dir={cache}", "embedder=hashing", "data.dedup=none", *more]


@pytest.fixture(scope="module")
def selected(pool, tmp_path_factory, cache) -> Path:
    folder = tmp_path_factory.mktemp("selected")
    select(configured("select", *words(pool, cache, "max_K=12", "selector=near", "n=9", "export=jsonl")), folder)
    return folder


@pytest.fixture()
def folder(selected, tmp_path) -> Path:
    """A copy, as it is handed on."""
    return Path(shutil.copytree(selected, tmp_path / "copy"))


def verified(capsys, folder: Path, cache: Path, *options: str, command=verify) -> tuple[int, dict[str, tuple], str]:
    """Exit status, the checks by name, and the error lines."""
    path = folder.parent / "checks.json"
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as done:
        command.main([str(folder), f"cache_dir={cache}", f"json={path}", *options])
    checks = {one["name"]: (one["outcome"], one["detail"]) for one in json.loads(path.read_text())["checks"]}
    return done.value.code, checks, capsys.readouterr().err


def outcomes(checks: dict[str, tuple], outcome: str) -> list[str]:
    return [name for name, (of, _) in checks.items() if of == outcome]


def rewritten(folder: Path, name: str, change) -> None:
    """Change an array, and its digest in the manifest with it, as somebody would who wants to deceive."""
    array = np.load(folder / name)
    change(array)
    np.save(folder / name, array)
    content = json.loads((folder / "manifest.json").read_text())
    content["sha256"][name] = file_digest(folder / name)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_whole_folder_is_verified(folder, cache, capsys):
    code, checks, errors = verified(capsys, folder, cache)
    assert (code, errors) == (0, "") and set(of for of, _ in checks.values()) == {"passed"}
    assert list(checks)[:4] == ["files", "matrix", "ranking", "subset"] and "choice" in checks
    assert (
        "3 of 3 queries, 36 scores" in checks["scores"][1]
        and "of 40 vectors of the pool 40 from the store, 0 embedded now" in checks["scores"][1]
    )
    assert "40 of 40 rows searched for 3 queries" in checks["neighbours"][1]
    assert "picks the same 9 rows" in checks["choice"][1]


def test_an_empty_cache_embeds_again(folder, tmp_path, capsys):
    code, checks, _ = verified(capsys, folder, tmp_path / "empty")
    assert code == 0 and "of 40 vectors of the pool 0 from the store, 40 embedded now" in checks["scores"][1]


@pytest.mark.parametrize(
    "name", ["top_indices.npy", "top_scores.npy", "subset.npy", "subset_scores.npy", "pool_keys.npy"]
)
def test_a_changed_file_is_named(folder, cache, capsys, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    code, checks, errors = verified(capsys, folder, cache)
    assert code == 1 and f"{name} has SHA-256" in checks["files"][1]
    assert any(line.startswith("failed: files: ") for line in errors.splitlines())


def test_a_missing_file_is_named(folder, cache, capsys):
    (folder / "subset.jsonl").unlink()
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and outcomes(checks, "failed") == ["files"] and "subset.jsonl is missing" in checks["files"][1]


def test_a_tampered_score(folder, cache, capsys):
    rewritten(folder, "top_scores.npy", lambda scores: scores.__setitem__((1, 0), scores[1, 0] + 0.01))
    code, checks, errors = verified(capsys, folder, cache)
    assert code == 1 and "scores" in outcomes(checks, "failed") and "neighbours" not in outcomes(checks, "failed")
    assert "1 of 36 scores of 3 of 3 queries differ" in checks["scores"][1] and "query 1, rank 1" in checks["scores"][1]
    assert "a wrong row" not in checks["scores"][1] and "failed: scores: " in errors


def test_a_tampered_index(folder, cache, capsys):
    ids = np.load(folder / "top_indices.npy")
    far = np.setdiff1d(np.arange(40), ids[0])[-1]
    rewritten(folder, "top_indices.npy", lambda ids: ids.__setitem__((0, 5), far))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and set(outcomes(checks, "failed")) >= {"scores", "neighbours"}
    assert f"query 0, rank 6: row {far} saved with" in checks["scores"][1] and "a wrong row" in checks["scores"][1]
    assert f"row {ids[0, 5]} here has" in checks["neighbours"][1]


def test_a_matrix_that_is_not_ranked(folder, cache, capsys):
    scores = np.load(folder / "top_scores.npy")
    at = int(np.flatnonzero(scores[0, 1:] == scores[0, :-1])[0])  # row 5 and its words reversed
    rewritten(folder, "top_indices.npy", lambda ids: ids.__setitem__((0, [at, at + 1]), ids[0, [at + 1, at]]))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and checks["ranking"] == ("failed", "query 0 has equal scores that are not by lower id")
    assert checks["scores"][0] == "passed"


def test_matrices_are_checked_block_by_block(folder, cache, capsys, monkeypatch):
    monkeypatch.setattr(file_checks, "BLOCK", 12)
    rewritten(folder, "top_indices.npy", lambda ids: ids.__setitem__((2, 1), ids[2, 0]))
    _, checks, _ = verified(capsys, folder, cache)
    assert checks["ranking"] == ("failed", "query 2 has a row twice")
    rewritten(folder, "top_indices.npy", lambda ids: ids.__setitem__((1, 1), 40))
    _, checks, _ = verified(capsys, folder, cache)
    assert checks["matrix"] == ("failed", "query 1 has a row outside the 40 of its pool")
    assert checks["scores"] == ("not possible", "the folder's files are not whole")


def test_another_choice(folder, cache, capsys):
    rewritten(folder, "subset.npy", lambda ids: ids.__setitem__(slice(None), ids[::-1].copy()))
    _, checks, _ = verified(capsys, folder, cache)
    assert checks["subset"][0] == "failed" and "content" in checks["subset"][1]
    content = json.loads((folder / "manifest.json").read_text())
    content["subset"].pop("content")
    (folder / "manifest.json").write_text(json.dumps(content))
    code, checks, _ = verified(capsys, folder, cache)
    assert (code, outcomes(checks, "failed")) == (1, ["exported rows", "choice"]) and "in another order" in checks[
        "choice"
    ][1]


def other_pool(pool: Path, folder: Path, change) -> str:
    rows = [json.loads(line) for line in (pool / "pool.jsonl").read_text().splitlines()]
    return f"data.candidates.path={write_rows(folder / 'mine.jsonl', change(rows))}"


def test_a_changed_row_of_the_pool(folder, pool, cache, capsys, tmp_path):
    picked = int(np.load(folder / "subset.npy")[0])
    mine = other_pool(
        pool, tmp_path, lambda rows: [{**r, "output": "z"} if i == picked else r for i, r in enumerate(rows)]
    )
    code, checks, _ = verified(capsys, folder, cache, mine)
    assert code == 1 and outcomes(checks, "failed") == ["pool", "eligible rows"]
    assert f"1 row of 40 is not here (row {picked}); 1 row here is not there (row {picked});" in checks["pool"][1]
    assert f"1 is missing (row {picked})" in checks["pool"][1]
    assert "2 of the nearest are rows that the pool there does not have" in checks["neighbours"][1]
    assert "not in the data here" in checks["scores"][1] and checks["choice"][0] == "not possible"


def test_a_reordered_pool_is_recognised(folder, pool, cache, capsys, tmp_path):
    code, checks, _ = verified(capsys, folder, cache, other_pool(pool, tmp_path, lambda rows: rows[::-1]))
    assert code == 3 and outcomes(checks, "failed") == [] and outcomes(checks, "not possible") == ["choice"]
    assert "the same 40 rows in another order (40 moved); ids are translated" in checks["pool"][1]
    assert "a tie, by rounding" in checks["neighbours"][1]  # equal rows, now by the other lower id


def test_the_same_rows_in_two_files(folder, pool, cache, capsys, tmp_path):
    lines = (pool / "pool.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a", lines[:15]), ("b", lines[15:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
    code, checks, _ = verified(capsys, folder, cache, f"data.candidates.path=[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]")
    assert code == 0 and checks["pool"][1] == "the same 40 rows, from other files"


def test_other_eligible_rows(folder, pool, cache, capsys, tmp_path):
    line = (pool / "pool.jsonl").read_text().splitlines()[3]
    (tmp_path / "eval.jsonl").write_text(line + "\n")  # whose row the pool must not have
    code, checks, _ = verified(capsys, folder, cache, f"data.eval.path={tmp_path}/eval.jsonl")
    assert code == 1 and checks["pool"][0] == "passed"
    assert "39 of 40 may be selected, there 40: other rows were left out" in checks["eligible rows"][1]


def test_data_that_is_not_here(folder, cache, capsys):
    code, checks, _ = verified(capsys, folder, cache, "data.queries.path=nowhere.jsonl")
    assert code == 3 and checks["data"][0] == "not possible" and "nowhere.jsonl" in checks["data"][1]
    assert checks["files"][0] == "passed"


def test_another_embedder(folder, cache, capsys):
    code, checks, _ = verified(capsys, folder, cache, "embedder=hashing", "embedder.dim=64")
    assert code == 1 and outcomes(checks, "failed") == ["embedder"] and "dim was 1024, now 64" in checks["embedder"][1]
    assert outcomes(checks, "not possible") == ["scores"]


def test_a_model_that_is_not_here_is_no_failure(folder, tmp_path, capsys):
    code, checks, errors = verified(capsys, folder, tmp_path / "empty", "embedder=minilm")
    assert (code, errors) == (3, "") and "would have to be downloaded; add download=true" in checks["embedder"][1]
    assert checks["scores"][0] == "not possible"
    code, checks, _ = verified(capsys, folder, tmp_path / "empty", "embedder=minilm", "embedder.model=./nowhere")
    assert code == 3 and "nowhere: no such folder" in checks["embedder"][1]


def test_a_choice_downloads_no_model(pool, cache, tmp_path, capsys, monkeypatch):
    """tsds compares rows of the pool by their vectors."""
    folder = tmp_path / "out"
    select(configured("select", *words(pool, cache, "max_K=12", "selector=tsds", "n=9")), folder)
    monkeypatch.setattr("near.data.builtin.assets.fetch", lambda *args: pytest.fail("a download"))
    code, checks, _ = verified(capsys, folder, tmp_path / "empty", "embedder=minilm")
    assert code == 3 and "would have to be downloaded" in checks["choice"][1]


def test_as_much_as_there_is_time_for(folder, tmp_path, capsys, monkeypatch):
    """The rows that the matrix names come first, then others of the pool until the time is over."""
    calls = iter(range(1000))
    monkeypatch.setattr(TimeLimit, "left", lambda self: 1.0 if next(calls) < 25 else 0.0)
    monkeypatch.setattr("near.selection.verifying.embedder.CHUNK", 4)
    code, checks, _ = verified(capsys, folder, tmp_path / "empty")
    assert code == 3 and outcomes(checks, "not possible") == ["neighbours"] and "3 of 3 queries" in checks["scores"][1]
    assert "31 embedded now, no time for 9" in checks["scores"][1]
    assert "31 of 40 rows searched" in checks["neighbours"][1]


def test_a_limit_too_short(folder, tmp_path, capsys):
    code, checks, _ = verified(capsys, folder, tmp_path / "empty", "limit=1e-9")
    assert code == 3 and outcomes(checks, "not possible") == ["scores", "neighbours"]
    assert "raise limit" in checks["scores"][1]


def test_no_limit_searches_the_whole_pool(folder, tmp_path, capsys):
    code, checks, _ = verified(capsys, folder, tmp_path / "empty", "limit=null")
    assert code == 0 and "40 of 40 rows searched" in checks["neighbours"][1]
    clock = TimeLimit(1e-9)
    clock.pause(60)
    assert 0 < clock.left() <= 60 and clock.limit == 1e-9


@pytest.mark.parametrize("option", ["data.dedup=near", "data.decontaminate={action: drop, cosine: 0.9}"])
def test_rows_that_vectors_leave_out(pool, cache, tmp_path, capsys, option):
    """Where the author's cache is missing they are unknown, so other rows are no fault of the folder."""
    folder = tmp_path / "out"
    options = words(pool, cache, "max_K=12", "selector=near", "n=9")
    options = [word for word in options if not word.startswith("data.dedup")] + [option]
    select(configured("select", *options), folder)
    assert verified(capsys, folder, cache)[0] == 0
    code, checks, _ = verified(capsys, folder, tmp_path / "empty")
    assert code == 3 and checks["scores"][0] == "passed"
    assert outcomes(checks, "not possible") == ["eligible rows", "neighbours", "choice"]
    assert "limit=null" in checks["eligible rows"][1] and "see eligible rows" in checks["choice"][1]
    assert verified(capsys, folder, tmp_path / "empty", "limit=null")[0] == 0


def test_queries_in_another_order_or_fewer(pool, cache, tmp_path, capsys):
    """A selector with budgets reads the queries' sources: another order is no fault of the folder."""
    folder, lines = tmp_path / "out", (pool / "queries.jsonl").read_text().splitlines()
    for name, line in zip("abc", lines, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(line + "\n")

    def path(names: str) -> str:
        return f"data.queries.path=[{','.join(f'{tmp_path}/{name}.jsonl' for name in names)}]"

    more = ("max_K=12", "selector=near", "n=9", "selector.budgets={a: 6, b: 2, c: 1}", path("abc"))
    select(configured("select", *words(pool, cache, *more)), folder)
    assert verified(capsys, folder, cache)[0] == 0
    code, checks, _ = verified(capsys, folder, cache, path("cab"))
    assert code == 3 and outcomes(checks, "failed") == [] and checks["queries"][0] == "passed"
    assert "queries are not those, or in another order" in checks["choice"][1]
    _, checks, _ = verified(capsys, folder, cache, path("ac"))
    assert outcomes(checks, "failed") == ["queries"] and checks["choice"][0] == "not possible"


@pytest.mark.parametrize("name", ["random", "full"])
def test_a_selection_without_a_matrix(pool, cache, tmp_path, capsys, name):
    folder = tmp_path / "out"
    select(configured("select", *words(pool, cache, f"selector={name}", "n=40", "embedder=minilm")), folder)
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 0 and list(checks) == ["files", "subset", "pool", "content", "eligible rows", "choice"]


def test_selectors_that_look_at_a_model_are_not_run(folder, cache, capsys):
    content = json.loads((folder / "manifest.json").read_text())
    content["config"]["selector"] = {"_target_": "near.selection.selectors.loss.Loss", "subset_size": None}
    content["config"]["model"]["trust_remote_code"] = True  # has no effect
    (folder / "manifest.json").write_text(json.dumps(content))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and "selector._target_ was Near, now Loss" in checks["choice"][1]
    set_in(folder, "subset.selector", {"_target_": "Loss", "subset_size": None})
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 0 and checks["choice"][0] == "not checked" and "reads losses of a model" in checks["choice"][1]


def test_a_foreign_class_is_not_run(folder, cache, capsys):
    content = json.loads((folder / "manifest.json").read_text())
    content["config"]["selector"] = {"_target_": "os.system", "command": "true"}
    (folder / "manifest.json").write_text(json.dumps(content))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 3 and "os.system is not a class of this package" in checks["data"][1]


def reconfigured(folder: Path, **values) -> None:
    """Write values, by dotted key with __ for dots, into the configuration of a folder."""
    content = json.loads((folder / "manifest.json").read_text())
    config = OmegaConf.create(content["config"])
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, merge=False, force_add=True)
    content["config"] = OmegaConf.to_container(config)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_folder_causes_no_request(folder, pool, cache, capsys, monkeypatch, tmp_path):
    def request(*args, **options):
        raise AssertionError(f"a request: {args}")

    monkeypatch.setattr("datasets.load_dataset", request)
    monkeypatch.setattr("near.models.start._snapshot", request)
    (tmp_path / "info.json").write_text(json.dumps({"x": {"hf_hub_url": "stranger/data"}}))
    named = {"data__candidates__dataset_info": f"{tmp_path}/info.json", "data__candidates__path": "x"}
    benchmark = {"data__decontaminate": {"action": "drop", "cosine": None, "benchmarks": {"b": "stranger/data"}}}
    for values, option in (
        ({"data__candidates__path": "stranger/data"}, "data.candidates.path=stranger/data"),
        ({"data__candidates__path": [f"{pool}/pool.jsonl", "stranger/data"]}, "data.candidates.path=stranger/data"),
        ({"data__queries__path": {"one": "stranger/data"}}, "data.queries.path=stranger/data"),
        ({"data__eval__path": "stranger/data"}, "data.eval.path=stranger/data"),
        (benchmark, "data.decontaminate.benchmarks.b=stranger/data"),
        (named, "data.candidates.dataset_info=stranger/data"),
    ):
        copy = shutil.copytree(folder, tmp_path / "stranger", dirs_exist_ok=True)
        reconfigured(copy, **values)
        code, checks, _ = verified(capsys, copy, cache)
        assert code == 3 and checks["data"][0] == "not possible", values
        assert option in checks["data"][1] and "is the folder's, and on a hub; type it" in checks["data"][1]
    reconfigured(folder, data__candidates__path="stranger/data")
    for options in (["data.candidates.path=stranger/data"], ["download=true"]):
        with pytest.raises(AssertionError, match="a request"):
            verified(capsys, folder, cache, *options)


def test_an_adapter_of_a_hub_is_typed_to_be_loaded(folder, cache, capsys, monkeypatch):
    looked_up = []
    monkeypatch.setattr("near.models.start._snapshot", lambda name: looked_up.append(name) or Path("/nowhere"))
    embedder = OmegaConf.to_container(configured("select", "model=tiny", "embedder=rds").embedder, resolve=True)
    reconfigured(folder, embedder={**embedder, "adapter": "stranger/adapter"}, data__dedup="near")
    _, checks, _ = verified(capsys, folder, cache)
    assert not looked_up and "embedder.adapter=stranger/adapter is the folder's" in checks["embedder"][1]
    assert {checks[name][0] for name in ("embedder", "eligible rows", "scores", "choice")} == {"not possible"}
    verified(capsys, folder, cache, "embedder.adapter=stranger/adapter")
    assert set(looked_up) == {"stranger/adapter"}


def test_options_of_the_folders_embedder(folder, cache, capsys):
    """They are checked against its own embedder, not against the default one."""
    _, checks, _ = verified(capsys, folder, cache, "embedder.dim=64")
    assert "dim was 1024, now 64" in checks["embedder"][1]
    _, checks, _ = verified(capsys, folder, cache, "embedder=rds", "embedder.adapter=/nowhere", "embedder.max_length=9")
    assert "embedder.adapter" not in checks and checks["embedder"][0] in ("not possible", "failed")
    for options, message in (
        (["embedder.adapter=/nowhere"], "embedder.adapter is not an option of HashingEmbedder"),
        (["embedder=rds", "embedder.dim=64"], "embedder.dim"),
    ):
        GlobalHydra.instance().clear()
        with pytest.raises(UserError, match=message):
            verify.main([str(folder), f"cache_dir={cache}", *options])


def test_what_is_of_the_authors_machine_is_not_used():
    server = {"url": "http://elsewhere/v1"}
    config = OmegaConf.create({"embedder": {"device": "cuda:7", "launcher": "ray", "server": server}})
    for_this_machine(config, ["cache_dir=x"])
    assert (config.embedder.device, config.embedder.launcher) == (None, None)
    with pytest.raises(InterpolationResolutionError, match="texts would be sent there; type that of your server"):
        print(config.embedder.server.url)
    config.embedder.server.url = server["url"]
    for_this_machine(config, [f"embedder.server.url={server['url']}"])
    assert config.embedder.server.url == server["url"]


def test_words(pool, cache, tmp_path, capsys):
    pytest.importorskip("bm25s")
    folder = tmp_path / "out"
    select(configured("select", *words(pool, cache, "max_K=10", "similarity=bm25")), folder)
    code, checks, _ = verified(capsys, folder, cache)
    assert (
        code == 0 and "3 of 3 queries, 30 scores: " in checks["scores"][1] and "; 30 to the bit" in checks["scores"][1]
    )
    rewritten(folder, "top_scores.npy", lambda scores: scores.__setitem__((0, 0), scores[0, 0] + 1))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and outcomes(checks, "failed") == ["scores"]


def test_faults_of_the_command_are_one_line(folder, tmp_path):
    for typed, message in (
        ([], "0 folders were given; near verify FOLDER"),
        ([str(tmp_path / "none")], "no such folder; name an output folder"),
        ([str(tmp_path)], "has no manifest.json of select.py and no rounds/rounds.jsonl of train.py"),
        ([str(folder), "limits=3"], "limits is not in the configuration"),
        ([str(folder), "limit=0"], "limit=0 is too small"),
        ([str(folder), "signers=nobody"], "signers=nobody: no such file"),
        ([str(folder), "--json"], "--json is not an option; write options as NAME=VALUE"),
    ):
        GlobalHydra.instance().clear()
        with pytest.raises(UserError, match=message.replace("(", r"\(")) as fault:
            verify.main(typed)
        assert "\n" not in str(fault.value)


def test_rows_are_matched_by_content():
    def keys(text: str) -> np.ndarray:
        return np.array([[0, ord(c)] for c in text], dtype=np.uint64).reshape(-1, 2)

    matched = match(keys("abbc"), keys("bcbd"))
    assert matched.here.tolist() == [-1, 0, 2, 1] and matched.there.tolist() == [1, 3, 2, -1]
    assert matched.missing.tolist() == [0] and matched.moved == 2 and not matched.is_same
    assert match(keys("ab"), keys("ab")).is_same and match(keys(""), keys("a")).here.tolist() == []
    assert match(keys("ab"), keys("abc")).moved == 0 and not match(keys("ab"), keys("abc")).is_same


def test_without_keys_other_rows_are_still_seen(pool, cache):
    rows = load(configured("select", *words(pool, cache)).data, "candidates", str(cache))
    check, matched = check_rows("pool", "data.candidates", RowsRecord(fingerprint="x" * 32, rows=3), None, rows, None)
    assert check.outcome == "failed" and matched is None and "which ones is unknown" in check.detail


@pytest.mark.parametrize(
    ("again", "best", "outcome"),
    [
        ([0.9, 0.5, 0.5000001], [(0, 0.9), (2, 0.5000001), (1, 0.5)], ("passed", "passed")),  # a tie, rounded
        ([0.9, 0.5, 0.4], [(0, 0.9), (1, 0.5), (2, 0.4)], ("failed", "passed")),  # a wrong score
        ([0.9, 0.5, 0.5], [(0, 0.9), (7, 0.7), (1, 0.5)], ("passed", "failed")),  # a row that was left out
        ([0.9, 0.5, 0.5], [(0, 0.9), (1, 0.5), (7, 0.500001)], ("passed", "passed")),  # it ties with the last
    ],
)
def test_a_tie_is_told_from_a_wrong_row(again, best, outcome):
    ids, saved = np.array([[0, 1, 2]]), np.array([[0.9, 0.5, 0.5]], dtype=np.float32)
    rows, found = np.array([row for row, _ in best]), np.array([score for _, score in best], dtype=np.float32)
    done = Recomputed([0], [np.array(again, dtype=np.float32)], [(rows, found)], searched=10)
    checks = check_scores(ids, saved, MappedIds(ids, np.arange(10)), np.arange(10), done, 10, 1e-5, True)
    assert tuple(check.outcome for check in checks) == outcome
    assert ("a tie, by rounding" in checks[1].detail) == (outcome == ("passed", "passed"))


def test_an_approximate_index_may_miss_rows():
    ids, saved = np.array([[0, 1]]), np.array([[0.9, 0.5]], dtype=np.float32)
    best = (np.array([0, 7]), np.array([0.9, 0.7], dtype=np.float32))
    done = Recomputed([0], [saved[0]], [best], searched=10)
    args = (ids, saved, MappedIds(ids, np.arange(10)), np.arange(10), done, 10, 1e-5)
    assert check_scores(*args, True)[1].outcome == "failed"
    less = (np.array([8, 7]), np.array([0.95, 0.92], dtype=np.float32))
    bad = Recomputed([0], [saved[0]], [less], searched=10)
    check = check_scores(*args[:4], bad, *args[5:], False)[1]
    assert check.outcome == "failed" and "a recall of 0.00, too low for an approximate index" in check.detail
    check = check_scores(*args, False)[1]
    assert check.outcome == "passed" and "1 nearer row is missing, as an approximate index may" in check.detail


@pytest.mark.parametrize(("queries", "searched"), [([0], 10), ([0, 1], 9)])
def test_a_partial_search_is_no_pass(queries, searched):
    ids, saved = np.array([[0, 1], [0, 1]]), np.array([[0.9, 0.5]] * 2, dtype=np.float32)
    n = len(queries)
    done = Recomputed(queries, [saved[0]] * n, [(ids[0], saved[0])] * n, searched=searched)
    checks = check_scores(ids, saved, MappedIds(ids, np.arange(10)), np.arange(10), done, 10, 1e-5, True)
    assert [check.outcome for check in checks] == ["passed", "not possible"]
    assert "no time for the others; raise limit, or set limit=null" in checks[1].detail


def test_what_the_manifest_leaves_out_does_not_pass(folder, cache, capsys):
    set_in(folder, "queries", None)
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and "does not say which queries the matrix is of" in checks["queries"][1]
    for name in ("selector", "n", "export"):
        set_in(folder, f"config.{name}", None)
    _, checks, _ = verified(capsys, folder, cache)
    assert checks["choice"] == ("not possible", "the configuration has no selector, and subset.npy has rows")
    set_in(folder, "subset", None)
    _, checks, _ = verified(capsys, folder, cache)
    assert checks["subset"] == ("failed", "subset.npy is there, and the manifest does not describe it")


def shown(capsys, folder: Path, cache: Path, *options: str) -> list[str]:
    """The lines after the table."""
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit):
        verify.main([str(folder), f"cache_dir={cache}", *options])
    return capsys.readouterr().out.splitlines()[-2:]


def test_the_last_line_names_what_is_not_checked(folder, run, cache, capsys):
    assert shown(capsys, folder, cache, "seed=3")[1] == "queries were drawn with seed=3"
    assert shown(capsys, folder, cache)[0].startswith("verified (")
    assert shown(capsys, run, cache)[1].startswith("verified, 1 not checked: training (")


def test_the_sample_differs_each_time(folder, cache, capsys, monkeypatch):
    monkeypatch.setattr("near.app.verify.secrets.randbelow", lambda most: 17)
    assert shown(capsys, folder, cache)[1] == "queries were drawn with seed=17"


def test_hashes_that_are_not_of_the_pools_rows(folder, cache, capsys):
    rewritten(folder, "pool_keys.npy", lambda keys: keys.__setitem__(slice(None), keys[::-1].copy()))
    set_in(folder, "subset.content", content_digest(np.load(folder / "pool_keys.npy"), np.load(folder / "subset.npy")))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and checks["subset"][0] == "passed"
    assert outcomes(checks, "failed") == ["pool_keys.npy", "content"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda line: line.update(output="poison"), "is not row ROW as its source has it: 'output'"),
        (lambda line: line.update(extra=1), "is not row ROW as its source has it: 'extra'"),
        (lambda line: line.update(score=9.0), "is not row ROW as its source has it: 'score'"),
        (lambda line: line.pop("rank"), "is not row ROW as its source has it: 'rank'"),
    ],
)
def test_an_exported_row_that_is_not_the_pools(folder, cache, capsys, change, fault):
    lines = [json.loads(line) for line in (folder / "subset.jsonl").read_text().splitlines()]
    change(lines[2])
    (folder / "subset.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = json.loads((folder / "manifest.json").read_text())
    set_in(folder, "sha256", {**content["sha256"], "subset.jsonl": file_digest(folder / "subset.jsonl")})
    code, checks, _ = verified(capsys, folder, cache)
    row = str(np.load(folder / "subset.npy")[2])
    assert code == 1 and outcomes(checks, "failed") == ["exported rows"]
    assert f"line 3 of subset.jsonl {fault.replace('ROW', row)}" in checks["exported rows"][1]


# runs


@pytest.fixture()
def run(pool, cache, tmp_path) -> Path:
    """The folder of a run with a warm-up and a round, as train.py leaves it, without a model."""
    folder = tmp_path / "sweep" / "near-0"
    cfg = configured("train", *words(pool, cache, "selector=loss"))
    folder.mkdir(parents=True)
    write_config(cfg, folder, True)
    rows, queries = (load(cfg.data, part, str(cache)) for part in ("candidates", "queries"))
    record = Record(folder / "rounds", "loss", rows, 2, True)
    record.add(Phase(0, 0, 2, True), Subset(np.array([4, 9, 2, 7])), 0.1, np.array([9, 4, 7, 2]))
    scores = np.array([0.5, 0.25, 0.125], dtype=np.float32)
    record.add(Phase(1, 2, 2, False), Subset(np.array([8, 4, 1]), scores), 0.1, np.array([8, 1, 4, 8]))
    np.save(folder / "rounds" / "pool_keys.npy", rows.content_keys())
    prints = {"candidates": rows.fingerprint, "queries": queries.fingerprint}
    TrainMetrics(selector="loss", seed=0, identity=RunIdentity(fingerprints=prints), versions={"near": "1"}).write(
        folder / "train_metrics.json"
    )
    (folder / "metrics.json").write_text("{}")
    return folder


def test_a_runs_draws_and_data(run, cache, capsys, pool, tmp_path):
    code, checks, _ = verified(capsys, run, cache)
    assert code == 0 and outcomes(checks, "not checked") == ["training"]
    assert checks["files"] == (
        "passed",
        f"5 files with the SHA-256 in rounds/rounds.jsonl; near manifest {run} covers the others",
    )
    assert checks["rounds"][1] == "2 rounds, 8 draws, each of a row of its subset"
    code, checks, _ = verified(capsys, run, cache, other_pool(pool, tmp_path, lambda rows: rows[:8] + rows[9:]))
    assert code == 1 and "1 row of 40 is not here (row 8)" in checks["pool"][1]
    np.save(run / "rounds" / "001_order.npy", np.array([8, 1, 4, 3]))
    code, checks, _ = verified(capsys, run, cache)
    assert code == 1 and outcomes(checks, "failed") == ["files", "rounds"]
    assert "round 1 has draws that are not the 4 of its 3 rows" in checks["rounds"][1]


def test_the_manifest_of_a_run_has_its_verdict(run, cache, capsys):
    verdict = {"mean": -0.1, "over_seeds": [-0.2, -0.05], "over_examples": None, "verdict": "better"}
    report = {"answer": "yes", "selections": [{"selection": "loss", "runs": ["near-0"], "vs_random": verdict}]}
    (run.parent / "report.json").write_text(json.dumps(report))
    manifest.main([str(run)])
    said = capsys.readouterr().out
    assert "with its verdict" in said and f"ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n near {run}/manifest.json" in said
    content = json.loads((run / "manifest.json").read_text())
    assert content["versions"] == {"near": "1"} and set(content["sha256"]) > {"config.yaml", "rounds/001_order.npy"}
    code, checks, _ = verified(capsys, run, cache)
    assert code == 0 and checks["verdict"][1].startswith("-0.1000 [-0.2000, -0.0500] against random rows (better)")
    assert checks["subset"][0] == "passed"
    (run / "metrics.json").write_text('{"target_loss": 0.1}')
    code, checks, _ = verified(capsys, run, cache)
    assert code == 1 and "metrics.json has SHA-256" in checks["files"][1]
    verdict["mean"] = -0.3
    (run.parent / "report.json").write_text(json.dumps(report))
    _, checks, _ = verified(capsys, run, cache)
    assert checks["verdict"][0] == "failed"


def test_a_run_with_the_manifest_of_a_selection_is_refused(run, selected, cache, capsys):
    """That manifest, even a signed one, would vouch for files that are not checked."""
    shutil.copy(selected / "manifest.json", run)
    GlobalHydra.instance().clear()
    with pytest.raises(UserError, match="which vouches for none of the run's files; move that selection"):
        verify.main([str(run), f"cache_dir={cache}"])
    with pytest.raises(UserError, match="is of a selection by select.py; move that to another folder"):
        manifest.main([str(run)])
    assert (run / "manifest.json").read_bytes() == (selected / "manifest.json").read_bytes()


@pytest.mark.parametrize("name", ["subset.parquet", "trained.jsonl", "trl_train.py", "axolotl.yaml", "adapter/x.bin"])
def test_a_result_without_a_digest_fails(folder, cache, capsys, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("planted")
    for free in ("dry_run.json", "forecast.json", "selection.html", ".hydra/config.yaml", "run.log", "checkpoints/x"):
        (folder / free).parent.mkdir(exist_ok=True)
        (folder / free).write_text("free")
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and outcomes(checks, "failed") == ["files"]
    assert "1 of 8 files differ: " + name + " has no digest in manifest.json" in checks["files"][1]


def test_an_array_of_a_run_without_a_digest_fails(run, cache, capsys):
    np.save(run / "rounds" / "002.npy", np.array([1]))
    code, checks, _ = verified(capsys, run, cache)
    assert code == 1 and "rounds/002.npy has no digest in rounds/rounds.jsonl" in checks["files"][1]


def set_in(folder: Path, path: str, value: object) -> None:
    """Set a value of the manifest, at names joined by dots."""
    content = json.loads((folder / "manifest.json").read_text())
    *groups, last = path.split(".")
    node = content
    for group in groups:
        node = node[group]
    node[last] = value
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sha256", {"a\0b": "x"}),
        ("sha256", {"a" * 300: "x"}),
        ("sha256", {"a": 3}),
        ("sha256", [1]),
        ("subset.content", 5),
        ("subset", "all"),
        ("candidates.rows", "many"),
        ("queries.fingerprint", 7),
        ("verdict", {"vs_random": {"mean": "x"}}),
        ("verdict", {"vs_random": {"mean": 1, "over_seeds": [1]}}),
        ("verdict", {"target_loss": "low"}),
    ],
)
def test_an_odd_manifest_is_one_line(folder, path, value):
    set_in(folder, path, value)
    GlobalHydra.instance().clear()
    with pytest.raises(UserError, match="manifest.json is damaged: ") as fault:
        verify.main([str(folder)])
    assert "\n" not in str(fault.value) and path in str(fault.value)


def test_a_matrix_without_columns_fails(folder, cache, capsys):
    for name, dtype in (("indices", np.int64), ("scores", np.float32)):
        np.save(folder / f"top_{name}.npy", np.zeros((3, 0), dtype=dtype))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and "don't fit" in checks["matrix"][1]


def test_a_manifest_names_no_file_outside_its_folder(folder, cache, capsys):
    content = json.loads((folder / "manifest.json").read_text())
    content["sha256"]["../../secret"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(content))
    code, checks, _ = verified(capsys, folder, cache)
    assert code == 1 and "../../secret is not in the folder" in checks["files"][1]


def test_ids_outside_the_pool_of_a_run_fail(run, cache, capsys):
    (run / "rounds" / "pool_keys.npy").unlink()
    path = run / "rounds" / "001.npy"
    np.save(path, np.array([8, 4, 1, 5000]))
    lines = [json.loads(line) for line in open(run / "rounds" / "rounds.jsonl")]
    lines[1]["rows"], lines[1]["sha256"]["001.npy"] = 4, file_digest(path)
    (run / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, checks, _ = verified(capsys, run, cache)
    assert code == 1 and checks["ids"] == ("failed", "1 row outside the 40 of the pool: 5000")


def test_a_rounds_digests_are_those_of_its_files(run):
    lines = [RoundRecord.from_json(json.loads(line), "x") for line in open(run / "rounds" / "rounds.jsonl")]
    assert [sorted(line.sha256) for line in lines] == [
        ["000.npy", "000_order.npy"],
        ["001.npy", "001_order.npy", "001_scores.npy"],
    ]
    assert lines[1].sha256["001.npy"] == file_digest(run / "rounds" / "001.npy")


# signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """Two keys, ada and bob, and the file of signers that has ada alone."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "bob"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "signers").write_text(f"ada@lab {(folder / 'ada.pub').read_text()}")
    return folder


def signed(folder: Path, key: Path, namespace: str = "near") -> None:
    (folder / "manifest.json.sig").unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace, str(folder / "manifest.json")]
    subprocess.run(command, check=True, capture_output=True)


def test_signatures(folder, cache, capsys, keys):
    signers = f"signers={keys}/signers"
    code, checks, _ = verified(capsys, folder, cache, signers)
    assert code == 1 and "manifest.json.sig is missing" in checks["signature"][1]
    signed(folder, keys / "ada")
    code, checks, _ = verified(capsys, folder, cache, signers)
    assert code == 0 and checks["signature"][1].startswith("by ada@lab, ED25519 key SHA256:")
    code, checks, _ = verified(capsys, folder, cache)  # nobody says whose keys count
    assert code == 0 and checks["signature"][0] == "not checked"
    signed(folder, keys / "bob")
    code, checks, _ = verified(capsys, folder, cache, signers)
    assert code == 1 and "by a key that" in checks["signature"][1]
    signed(folder, keys / "ada", "other")
    code, checks, _ = verified(capsys, folder, cache, signers)
    assert code == 1 and checks["signature"][0] == "failed"
    signed(folder, keys / "ada")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"rows": 9', '"rows": 8'))
    for options in ((signers,), ()):
        code, checks, _ = verified(capsys, folder, cache, *options)
        assert code == 1 and "is not of this manifest.json" in checks["signature"][1]


def test_without_ssh_keygen_a_signature_is_not_possible(folder, cache, capsys, keys, monkeypatch):
    signed(folder, keys / "ada")
    monkeypatch.setenv("PATH", str(folder))
    code, checks, _ = verified(capsys, folder, cache, f"signers={keys}/signers")
    assert code == 3 and "install OpenSSH" in checks["signature"][1]
