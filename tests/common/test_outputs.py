"""Only files that are listed as ours are removed or replaced; files of a killed process are taken over or removed."""

import fcntl
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from near.app import cache
from near.app.faults import fault_line
from near.app.jobs import Sweeps
from near.common.disk import watch
from near.common.errors import UserError
from near.common.files import TEMPORARY, aside, folder_aside, note_use, write_json
from near.common.locks import locked
from near.common.outputs import (
    LIST,
    WRITES,
    check,
    check_notes,
    claim,
    list_files,
    prune_checkpoints,
    remove,
    remove_folder,
)
from near.data.loading import load
from near.training.folder import clear
from tests.conftest import ROOT, configured, write_rows

PROVENANCE = {"created": "now", "command": "python x", "versions": {}}
NAMES = {
    "eval": ("metrics.json", "answers.jsonl"),
    "merge": ("merge.json",),
    "report": ("report.html",),
    "select": ("manifest.json", "top_indices.npy", "subset.jsonl", "subset.parquet", "selection.html"),
    "train": (
        "config.yaml",
        "loss.png",
        "rounds/000.npy",
        "adapter/README.md",
        "checkpoints/checkpoint-2/optimizer.pt",
    ),
}


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"years of work in {name}")


def files_in(folder: Path) -> set[str]:
    paths = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    return paths - {LIST}


@pytest.mark.parametrize(("script", "name"), [(s, n) for s, names in NAMES.items() for n in names])
def test_a_file_of_somebody_else_is_not_replaced(tmp_path, script, name):
    put(tmp_path, name)
    with pytest.raises(UserError, match=rf"{tmp_path} holds {name}, a file that near did not write: nothing is rem"):
        claim(tmp_path, script)
    assert files_in(tmp_path) == {name} and not (tmp_path / LIST).exists()


@pytest.mark.parametrize("script", WRITES)
def test_what_was_claimed_may_be_replaced_and_other_files_do_no_harm(tmp_path, script):
    put(tmp_path, "thesis.tex", "src/a.py")
    claim(tmp_path, script)
    put(tmp_path, *NAMES[script])
    check(tmp_path, script)
    remove(tmp_path, *{name.split("/")[0] for name in NAMES[script]})
    assert files_in(tmp_path) == {"thesis.tex", "src/a.py"}


@pytest.mark.parametrize("part", ["checkpoints", "checkpoints/checkpoint-2", "rounds", "adapter", "model"])
def test_a_folder_with_another_file_is_not_removed(tmp_path, part):
    claim(tmp_path, "train")
    put(tmp_path, *NAMES["train"], "metrics.json", f"{part}/thesis.tex")
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=rf"holds {part}/thesis.tex, a file"):
        clear(tmp_path)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("leads_to", ["a file", "a folder", "nothing"])
def test_links_are_not_followed(tmp_path, leads_to):
    run, other = tmp_path / "run", tmp_path / "other"
    put(other, "rounds/000.npy")
    claim(run, "train")
    put(run, "metrics.json")
    target = {"a file": other / "rounds" / "000.npy", "a folder": other / "rounds", "nothing": other / "none"}[leads_to]
    (run / "rounds").symlink_to(target)
    with pytest.raises(UserError, match="holds rounds, a link that near did not write"):
        clear(run)
    assert files_in(other) == {"rounds/000.npy"} and (run / "rounds").is_symlink() and (run / "metrics.json").exists()
    (tmp_path / "link").symlink_to(run)  # a folder that is named by a link is what the link leads to
    (run / "rounds").unlink()
    clear(tmp_path / "link")
    assert files_in(run) == set() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("marker", ["train_metrics.json", "rounds/rounds.jsonl", "config.yaml"])
def test_a_run_from_before_there_were_lists_can_be_replaced(tmp_path, marker):
    put(tmp_path, *NAMES["train"], "notes.md")
    if marker == "config.yaml":
        (tmp_path / marker).write_text("seed: 42\nsweep_name: multirun\n")
    elif marker.endswith(".json"):
        write_json(tmp_path / marker, PROVENANCE)
    else:
        put(tmp_path, marker)
    clear(tmp_path)
    assert files_in(tmp_path) == {"config.yaml", "notes.md"}


def test_a_selection_from_before_and_a_manifest_of_somebody_else(tmp_path):
    put(tmp_path / "ours", *NAMES["select"])
    write_json(tmp_path / "ours" / "manifest.json", {"key": "x", **PROVENANCE})
    claim(tmp_path / "ours", "select")
    write_json(tmp_path / "theirs" / "manifest.json", {"name": "an extension", "manifest_version": 3})
    with pytest.raises(UserError, match="holds manifest.json"):
        claim(tmp_path / "theirs", "select")


def test_a_listed_folder_goes_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "export"
    put(folder, "config.json", "a/b[1].json")
    list_files(folder)
    put(folder, "src/thesis.tex")
    with pytest.raises(UserError, match="holds src/thesis.tex"):
        remove_folder(folder)
    (folder / "src" / "thesis.tex").unlink()
    remove_folder(folder)
    assert not folder.exists()


def test_checkpoints_are_pruned_to_the_newest(tmp_path):
    for step in (9, 10, 11, 12):
        put(tmp_path, f"checkpoint-{step}/optimizer.pt", f"checkpoint-{step}/trainer_state.json")
        os.utime(tmp_path / f"checkpoint-{step}", (step, step))
    put(tmp_path, "checkpoint-best/optimizer.pt", "checkpoint-9/notes.md")
    os.utime(tmp_path / "checkpoint-9", (9, 9))
    prune_checkpoints(tmp_path, None)
    prune_checkpoints(tmp_path, 2)
    assert {p.name for p in tmp_path.iterdir()} == {f"checkpoint-{x}" for x in (9, 11, 12, "best")}
    assert files_in(tmp_path / "checkpoint-9") == {"notes.md", "optimizer.pt", "trainer_state.json"}


def test_prune_leaves_what_is_not_the_caches(tmp_path):
    """--cache-dir may be any folder."""
    names = (".vimrc.old", ".config.old/x", "embeddings/mine/lock", "data/.thesis.part", "scores/2024/a.npy")
    put(tmp_path, *names, f"scores/{'a' * 32}/thesis.tex", f"data/.{'b' * 32}.12345678.part/rows.arrow")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    with pytest.raises(SystemExit):
        cache.main(["--cache-dir", str(tmp_path), "prune", "--unused-days", "1"])
    (tmp_path / "scores" / ("a" * 32) / "thesis.tex").rename(tmp_path / "thesis.tex")
    cache.main(["--cache-dir", str(tmp_path), "prune", "--unused-days", "1"])
    assert files_in(tmp_path) == {*names, "thesis.tex"}


def test_what_a_killed_reading_left_goes_with_the_next_of_the_same_data(tmp_path):
    path = write_rows(tmp_path / "pool.jsonl", [{"instruction": "q", "output": "a"}])
    cfg = configured("select", "data=files", f"data.candidates.path={path}", f"cache_dir={tmp_path}/cache")
    load(cfg.data, "candidates", cfg.cache_dir)
    (made,) = (tmp_path / "cache" / "data").iterdir()
    shutil.rmtree(made)
    left, used, other = (made.with_name(f".{made.name[:n]}.0000000{n % 8}.part") for n in (32, 32, 31))
    used = used.with_name(f".{made.name}.00000009.part")
    for folder in (left, used, other):
        put(folder, "rows.arrow")
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a living process is at it
    load(cfg.data, "candidates", cfg.cache_dir)
    assert set((tmp_path / "cache" / "data").iterdir()) == {made, used, other}
    os.close(lock)


def test_what_comes_into_a_folder_while_it_is_replaced_stays(tmp_path):
    put(tmp_path / "out", "config.json")
    list_files(tmp_path / "out")
    with (
        pytest.raises(UserError, match="holds late.tex"),
        folder_aside(tmp_path / "out", replace=True, remove=remove_folder) as new,
    ):
        put(new, "config.json")
        put(tmp_path / "out", "late.tex")
    assert len(list(tmp_path.glob(".out.*.old/late.tex"))) == 1
    with folder_aside(tmp_path / "out", replace=True, remove=remove_folder) as new:  # nor does the next one remove it
        list_files(tmp_path / "out")
        put(new, "config.json")
    assert len(list(tmp_path.glob(".out.*.old/late.tex"))) == 1


def test_a_foreign_folder_is_refused_before_hydra_writes_into_it(tmp_path, capsys):
    put(tmp_path / "a", "config.yaml")
    put(tmp_path / "b", ".hydra/hydra.yaml", ".hydra/config.yaml", "train.log")
    os.mkfifo(tmp_path / "c")
    for name, expected in (
        ("a", "holds config.yaml, a file that"),
        ("b", "a run of another program"),
        ("c", "is a FIFO"),
    ):
        before = files_in(tmp_path / name) if name != "c" else None
        config = OmegaConf.create({"hydra": {"job": {"name": "train"}, "run": {"dir": str(tmp_path / name)}}})
        with pytest.raises(SystemExit) as caught:
            Sweeps().on_run_start(config)
        assert caught.value.code == 1 and expected in capsys.readouterr().err
        assert before is None or files_in(tmp_path / name) == before


def test_one_module_removes():
    """Whoever removes asks near/common/outputs.py, or has made the file itself in this process."""
    allowed = {*(f"common/{name}.py" for name in ("files", "outputs", "locks", "pieces"))}
    allowed |= {"selection/scoring/chunks.py", "embedding/store.py", "app/scripts.py"}
    allowed.add("app/cache.py")  # budgets, whose names are digests
    allowed |= {f"app/bundle/{name}.py" for name in ("bundle", "parts", "node/install")}  # their own unfinished folders
    paths = {
        path.relative_to(ROOT / "near").as_posix()
        for path in (ROOT / "near").rglob("*.py")
        if re.search(r"\brmtree\(|\.unlink\(|os\.remove\(|os\.rmdir\(|\.rmdir\(", path.read_text(encoding="utf-8"))
    }
    assert paths <= allowed | {"training/trainer.py", "training/outcome.py"}  # their pickles of this moment


@pytest.fixture()
def read_only(tmp_path):
    """A folder, and what makes it read-only for root, too."""
    import subprocess

    folder = tmp_path / "shared"
    folder.mkdir()
    mounted = []

    def close() -> None:
        words = ["mount", "--bind", str(folder), str(folder)], ["mount", "-o", "remount,ro,bind", str(folder)]
        for command in words:
            done = subprocess.run(command, capture_output=True)
            if done.returncode:
                pytest.skip("nothing can be mounted here")
            mounted[:] = [folder]

    yield folder, close
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_cache_serves_what_it_holds(read_only, small_data, tmp_path):
    from near.selection.select import select

    folder, close = read_only
    words = [*small_data, f"cache_dir={folder}", "embedder=hashing", "max_K=5"]
    select(configured("select", *words), tmp_path / "before")
    close()
    select(configured("select", *words), tmp_path / "after")
    for name in ("top_indices.npy", "top_scores.npy"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    for more, part in (("max_K=7", "neighbours"), ("embedder.dim=8", "embeddings"), ("data.queries.limit=2", "data")):
        cfg = configured("select", *words, more)
        watch(cfg, tmp_path / "other")
        with pytest.raises(OSError) as caught:
            select(cfg, tmp_path / "other")
        line = fault_line(caught.value)
        assert line.startswith(f"cache_dir={folder} is read-only and lacks data that this run needs ({part}/"), line
    with locked(folder / "locks" / "x", remove=True):
        note_use(next(p for p in folder.rglob("*") if p.is_file()))


def test_a_full_disk_is_named_with_what_is_free(small_disk, tmp_path):
    disk, resize = small_disk
    cfg = configured("select", "data=demo", f"cache_dir={disk}/cache")
    watch(cfg, tmp_path / "out")
    resize("1m")
    for make in (aside, folder_aside):
        with pytest.raises(OSError) as caught, make(disk / "cache" / "x") as new:  # noqa: PT012
            raise RuntimeError("a writer that does not say why") if not fill(new if new.is_dir() else disk) else None
        line = fault_line(caught.value)
        assert line.startswith(
            f"no space left on the device of {disk}/cache: 0.0 MB free; free some, or set cache_dir to"
        )
    assert [p for p in disk.rglob("*") if TEMPORARY.fullmatch(p.name)] == []


def test_a_full_disk_is_named_whatever_the_error(tmp_path):
    watch(configured("select", "data=demo", f"cache_dir={tmp_path}/cache"), tmp_path / "out")
    error = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    line = fault_line(error)
    assert line.startswith("no space left on the device of ") and " free; free some, or set " in line


def fill(folder: Path) -> None:
    with open(folder / "big", "wb") as file:
        try:
            file.write(bytes(2 << 20))
        except OSError:
            return


def test_notes_that_another_rank_is_writing_are_waited_for(tmp_path):
    notes = tmp_path / ".hydra" / "hydra.yaml"
    notes.parent.mkdir()
    notes.write_text("")

    def write() -> None:
        time.sleep(0.2)
        notes.write_text("hydra:\n  callbacks:\n    sweeps:\n      _target_: near.app.jobs.Sweeps\n")

    writer = threading.Thread(target=write)
    writer.start()
    check_notes(tmp_path)
    writer.join()
    notes.write_text("hydra: {}\n")
    for changed in (0, time.time(), time.time() + 86_400):  # long ago; just now, for good; by a clock that is ahead
        os.utime(notes, (changed, changed))
        with pytest.raises(UserError, match="a run of another program"):
            check_notes(tmp_path)
