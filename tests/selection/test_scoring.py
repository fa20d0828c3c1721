"""Losses and gradients of rows: right, cached by everything they depend on, and continued after a kill."""

import io
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from near.common import progress
from near.common.errors import UserError
from near.common.locks import acquire
from near.models.weights import trained
from near.selection.scoring import chunks
from near.selection.scoring.chunks import Chunks
from near.selection.scoring.gradients import moments_of
from near.selection.scoring.scoring import Features
from tests import scored

pytestmark = pytest.mark.model


@pytest.fixture()
def made(tmp_path, cache):
    model, optimizer, tokenizer = scored.model_and_optimizer(cache)
    return model, optimizer, lambda **options: scored.scorer(tmp_path, tokenizer, **options)


def test_losses_are_means_over_answer_tokens(made):
    model, _, scorer = made
    ids = np.array([1, 4, 5, 7, 8, 11])
    result = scorer().losses(model, ids)
    assert model.training
    model.eval()
    table = scored.tokens(scored.ROWS, 1).table
    for row, loss in zip(ids, result, strict=True):
        inputs = {name: torch.tensor([table[int(row)][name]]) for name in ("input_ids", "labels")}
        assert loss == pytest.approx(model(**inputs).loss.item(), rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_gradients_are_unit_vectors_and_lengths_in_the_order_of_the_rows(made, chunk):
    model, optimizer, scorer = made
    ids = np.array([2, 3, 7, 9, 10, 11])
    (gradients,) = scorer(chunk=chunk, adam=False).gradients(model, optimizer, ids)
    table = scored.tokens(scored.ROWS, 1).table
    expected = torch.stack([scored.gradient(model, table[int(i)]) for i in ids]).numpy()
    np.testing.assert_allclose(gradients.pool.norms, np.linalg.norm(expected, axis=1), rtol=1e-4)
    units = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(gradients.pool.matrix(), units, atol=2e-3)  # float16
    assert gradients.queries.rows == scored.QUERIES and gradients.weight == 1


def test_the_same_question_is_computed_once(made):
    """Again by another run: nothing. Of other rows, weights, moments or settings: anew."""
    model, optimizer, scorer = made
    ids = np.arange(scored.ROWS)

    def computed(**options) -> int:
        fresh = scorer(**options)
        list(fresh.gradients(model, optimizer, ids))
        return fresh.computed

    assert computed() == 3 + 1
    assert computed() == 0
    assert computed(adam=False) == 3  # the queries' are plain in any case
    assert computed(epsilon="inside") == 3
    assert computed(seed=1) == computed(hashes=2) == computed(dim=16) == 4
    assert computed(modules=["lora_A.default"]) == 4
    ids = np.arange(1, scored.ROWS)
    assert computed() == 3
    ids = np.arange(scored.ROWS)
    scored.step(model, optimizer)
    assert computed() == 4
    with torch.no_grad():
        optimizer.state[next(iter(trained(model).values()))]["exp_avg"][0, 0] += 1
    assert computed() == 3
    layer = next(m for m in model.modules() if isinstance(getattr(m, "scaling", None), dict))
    layer.scaling["default"] *= 2  # as another lora_alpha
    assert computed() == 4
    fresh = scorer()
    fresh.losses(model, ids)
    fresh.losses(model, ids)
    assert fresh.computed == 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_is_one_line(made):
    model, optimizer, scorer = made
    with torch.no_grad():
        next(w for name, w in trained(model).items() if "down_proj" in name).fill_(float("nan"))  # attention hides one
    with pytest.raises(UserError, match="losses of row 2 are not finite"):
        scorer(chunk=1).losses(model, np.array([2, 3]))
    with pytest.raises(UserError, match="are not finite numbers"):
        list(scorer().gradients(model, optimizer, np.arange(3)))


def test_weights_that_are_not_watched_count_too(made):
    """Gradients of some layers depend on the weights of all."""
    model, optimizer, scorer = made
    fresh = scorer(modules=["q_proj.lora_A.default"])
    list(fresh.gradients(model, optimizer, np.arange(3)))
    before = fresh.computed
    with torch.no_grad():
        dict(trained(model))[next(n for n in trained(model) if "down_proj" in n)].add_(0.1)
    list(fresh.gradients(model, optimizer, np.arange(3)))
    assert fresh.computed == 2 * before


def test_no_optimizer_state_gives_plain_gradients_and_says_so_once(made, caplog):
    model, _, scorer = made
    optimizer, fresh = torch.optim.AdamW(list(trained(model).values())), scorer()
    with caplog.at_level("INFO", logger="near"):
        (first,) = fresh.gradients(model, optimizer, np.arange(4))
        (second,) = fresh.gradients(model, optimizer, np.arange(4))
    (plain,) = scorer(adam=False).gradients(model, optimizer, np.arange(4))
    np.testing.assert_array_equal(first.pool.matrix(), plain.pool.matrix())
    assert sum("plain gradients" in line for line in caplog.messages) == 1


def test_a_killed_computation_goes_on_where_it_was(made, monkeypatch):
    model, optimizer, scorer = made
    save, calls = chunks.save_file, []

    def dies(arrays, path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(arrays, path)

    monkeypatch.setattr(chunks, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        scorer().losses(model, np.arange(scored.ROWS))
    monkeypatch.undo()
    fresh = scorer()
    result = fresh.losses(model, np.arange(scored.ROWS))
    assert fresh.computed == 1
    np.testing.assert_allclose(result[3:5], scorer(chunk=4).losses(model, np.arange(scored.ROWS))[3:5], rtol=1e-6)


def test_a_chunk_that_is_cut_short_is_computed_again(made, tmp_path):
    model, _, scorer = made
    expected = scorer().losses(model, np.arange(scored.ROWS))
    (folder,) = (tmp_path / "scores").iterdir()
    path = folder / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    fresh = scorer()
    np.testing.assert_array_equal(fresh.losses(model, np.arange(scored.ROWS)), expected)
    assert fresh.computed == 1


def test_chunks_that_another_process_is_at_are_waited_for(tmp_path):
    """Its file appears while we wait for its lock: it is not computed twice."""
    chunks = Chunks(tmp_path, [np.arange(2), np.arange(2, 5)])
    lock = acquire(chunks.path(0).with_suffix(".lock"))

    def other():
        while not chunks.whole(1):
            time.sleep(0.01)
        Chunks(tmp_path, chunks.parts)
        from safetensors.numpy import save_file

        save_file({"x": np.array([7.0, 8.0])}, chunks.path(0))
        lock.close()

    thread = threading.Thread(target=other)
    thread.start()
    chunks.compute(lambda positions, progress: {"x": positions.astype(np.float64)}, "testing")
    thread.join()
    assert chunks.computed == 1
    assert chunks.gathered("x").tolist() == [7, 8, 2, 3, 4]


def numbers(positions: np.ndarray, progress) -> dict[str, np.ndarray]:
    progress(len(positions))
    return {"x": positions.astype(np.float64)}


def of_two(folder, count: int = 4) -> Chunks:
    """Chunks of two rows each."""
    return Chunks(folder, [np.arange(2 * i, 2 * i + 2) for i in range(count)])


def test_a_chunk_is_written_while_the_next_one_is_computed(tmp_path, monkeypatch):
    """Under its lock, until it is whole; two chunks are never written at once."""
    save, second, saving = chunks.save_file, threading.Event(), []

    def saves(arrays, path):
        if not saving:
            assert second.wait(30)  # for the work on the second chunk
            assert acquire(tmp_path / "00000.lock", wait=False) is None
        saving.append(threading.current_thread())
        save(arrays, path)

    def work(positions, progress):
        if positions[0] == 2:
            second.set()
        return numbers(positions, progress)

    monkeypatch.setattr(chunks, "save_file", saves)
    made = of_two(tmp_path)
    made.compute(work, "testing")
    assert made.gathered("x").tolist() == list(range(8)) and made.computed == 4
    assert len(set(saving)) == 1 and threading.current_thread() not in saving
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("failing", [0, 2, 3])
def test_a_full_disk_ends_the_work_and_leaves_whole_chunks(tmp_path, monkeypatch, failing):
    """An error while the last chunk, or one before, is written is the caller's; the next run computes the rest."""
    save, worked = chunks.save_file, []

    def saves(arrays, path):
        if f"{failing:05d}" in path.name:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save(arrays, path)

    def work(positions, progress):
        worked.append(positions[0] // 2)
        return numbers(positions, progress)

    monkeypatch.setattr(chunks, "save_file", saves)
    with pytest.raises(OSError, match="No space left") as error:
        of_two(tmp_path).compute(work, "testing")
    assert error.value.filename == str(tmp_path)
    assert max(worked) == min(failing + 1, 3)  # the next one was in work
    monkeypatch.undo()
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"{i:05d}.safetensors" for i in range(failing)]
    again = of_two(tmp_path)
    again.compute(numbers, "testing")
    assert again.computed == 4 - failing and again.gathered("x").tolist() == list(range(8))


@pytest.mark.parametrize("error", [UserError("not finite"), KeyboardInterrupt(), MemoryError()])
def test_an_error_in_the_work_leaves_the_chunk_before(tmp_path, error):
    def work(positions, progress):
        if positions[0] == 4:
            raise error
        return numbers(positions, progress)

    with pytest.raises(type(error)):
        of_two(tmp_path).compute(work, "testing")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["00000.safetensors", "00001.safetensors"]


def test_a_killed_process_loses_the_chunk_in_work_and_the_one_being_written(tmp_path):
    """By SIGKILL: the rest is there, the locks are free, and the same arrays result."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:

        def dies(positions, progress):
            if positions[0] == 6:
                while not of_two(tmp_path).whole(1):
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGKILL)
            return numbers(positions, progress)

        try:
            of_two(tmp_path).compute(dies, "testing")
        finally:
            os._exit(1)
    os.close(writer), os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    again = of_two(tmp_path)
    again.compute(numbers, "testing")
    assert again.computed in (1, 2) and again.gathered("x").tolist() == list(range(8))


@pytest.mark.parametrize("together", [1, 2, 3, 9])
def test_chunks_computed_together_are_the_same_files(tmp_path, together):
    """Those that exist are left as they are."""
    calls = []

    def work(positions, progress):
        calls.append(positions.tolist())
        return numbers(positions, progress)

    of_two(tmp_path / "alone").compute(numbers, "testing")
    (tmp_path / "some").mkdir()
    before = tmp_path / "some" / "00001.safetensors"
    chunks.save_file({"x": np.array([-2.0, -3.0])}, before)
    made = of_two(tmp_path / "some")
    made.compute(work, "testing", together)
    assert made.computed == 3 and made.gathered("x").tolist() == [0, 1, -2, -3, 4, 5, 6, 7]
    assert calls == {1: [[0, 1], [4, 5], [6, 7]], 2: [[0, 1], [4, 5, 6, 7]], 3: [[0, 1, 4, 5], [6, 7]]}.get(
        together, [[0, 1, 4, 5, 6, 7]]
    )
    for path in sorted((tmp_path / "alone").iterdir()):
        if path.name != before.name:
            assert path.read_bytes() == (tmp_path / "some" / path.name).read_bytes()


def test_the_bar_counts_what_is_cached_and_what_others_compute(tmp_path, monkeypatch):
    """So that the time left is that of the rows left."""
    shown = []

    class Bar(progress.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False, "delay": 0, "mininterval": 0, "file": io.StringIO()})
            shown.append((self.initial, self.total))

    def work(positions, update):
        if positions[0] == 2:  # another process writes the last chunk meanwhile
            chunks.save_file({"x": np.array([6.0, 7.0])}, tmp_path / "00003.safetensors")
        return numbers(positions, lambda rows: (update(rows), shown.append(at(rows))))

    def at(rows: int) -> int:
        return bars[0].n

    bars, real = [], progress.tqdm
    monkeypatch.setattr(progress, "tqdm", lambda **options: bars.append(Bar(**options)) or bars[0])
    assert real is Bar.__mro__[1]
    chunks.save_file({"x": np.array([0.0, 1.0])}, tmp_path / "00000.safetensors")
    made = of_two(tmp_path)
    made.compute(work, "testing")
    assert shown == [(2, 8), 4, 8] and made.computed == 2


def test_a_zero_gradient_has_no_direction(tmp_path):
    Chunks(tmp_path, [np.arange(2)]).compute(
        lambda positions, progress: {"gradients": np.zeros((2, 3), np.float16), "norms": np.zeros(2, np.float32)}, "x"
    )
    features = Features(Chunks(tmp_path, [np.arange(2)]))
    assert not features.matrix().any() and not features.norms.any()


def test_when_it_was_used_last_is_known(made, tmp_path):
    model, _, scorer = made
    scorer().losses(model, np.arange(4))
    (folder,) = (tmp_path / "scores").iterdir()
    os.utime(folder, (1, 1))
    scorer().losses(model, np.arange(4))
    assert folder.stat().st_mtime > 1


# checkpoints


def saved(model, optimizer, folder, step: int, rates: dict[int, float]):
    """A checkpoint as the Trainer leaves it."""
    from near.common.files import write_json

    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    history = [{"step": at, "learning_rate": rate} for at, rate in rates.items()]
    write_json(folder / "trainer_state.json", {"global_step": step, "log_history": history})
    return str(folder)


def test_checkpoints_replace_the_model(made, tmp_path):
    """Each gives what the model gave when it was saved, weighted by the mean learning rate since the one before."""
    model, optimizer, scorer = made
    ids, expected, folders, rates = np.arange(6), [], [], {1: 0.1, 2: 0.3}
    for at in (2, 4):
        (gradients,) = scorer().gradients(model, optimizer, ids)
        expected.append((gradients.pool.matrix(), gradients.queries.matrix()))
        folders.append(saved(model, optimizer, tmp_path / f"checkpoint-{at}", at, rates))
        rates = {**rates, 3: 0.5, 4: 0.7}
        scored.step(model, optimizer, 2)
    before = {name: weight.clone() for name, weight in trained(model).items()}
    fresh = scorer(checkpoints=folders[::-1])
    result = list(fresh.gradients(model, optimizer, ids))
    assert fresh.computed == 0  # the same weights and moments as then
    for gradients, (pool, queries) in zip(result, expected, strict=True):
        np.testing.assert_array_equal(gradients.pool.matrix(), pool)
        np.testing.assert_array_equal(gradients.queries.matrix(), queries)
    assert [gradients.weight for gradients in result] == pytest.approx([0.2 / 0.8, 0.6 / 0.8])
    assert all(torch.equal(before[name], weight) for name, weight in trained(model).items())


def test_checkpoints_that_do_not_fit_are_one_line(made, tmp_path, cache):
    model, optimizer, scorer = made
    with pytest.raises(UserError, match="is no checkpoint"):
        list(scorer(checkpoints=[str(tmp_path)]).gradients(model, optimizer, np.arange(2)))
    folder = saved(model, optimizer, tmp_path / "checkpoint-2", 2, {})
    with pytest.raises(UserError, match="logged no learning rate after step 0"):
        list(scorer(checkpoints=[folder]).gradients(model, optimizer, np.arange(2)))
    with pytest.raises(UserError, match="both of step 2"):
        list(scorer(checkpoints=[folder, folder]).gradients(model, optimizer, np.arange(2)))
    other, _, _ = scored.model_and_optimizer(cache, "finetuning.r=4")
    scaled, _, _ = scored.model_and_optimizer(cache, "finetuning.lora_alpha=3")
    folder = saved(model, optimizer, tmp_path / "checkpoint-3", 3, {1: 0.1})
    with pytest.raises(UserError, match="does not fit the model"):
        list(scorer(checkpoints=[folder]).gradients(other, optimizer, np.arange(2)))
    with pytest.raises(UserError, match="its lora_alpha is 16, not 3"):
        list(scorer(checkpoints=[folder]).gradients(scaled, optimizer, np.arange(2)))
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    with pytest.raises(UserError, match="scoring.adam=false"):
        list(scorer(checkpoints=[folder]).gradients(model, optimizer, np.arange(2)))
    assert list(scorer(checkpoints=[folder], adam=False).gradients(model, optimizer, np.arange(2)))


def test_moments_of_a_checkpoint_are_the_optimizers(made, tmp_path):
    from near.selection.scoring.checkpoints import Checkpoint

    model, optimizer, _ = made
    folder = saved(model, optimizer, tmp_path / "checkpoint-2", 2, {1: 0.1})
    (checkpoint,) = Checkpoint.all([folder])
    for name, moments in moments_of(optimizer, trained(model)).items():
        assert checkpoint.moments(model)[name].digest() == moments.digest()


def test_scores_are_listed_and_pruned_by_age(made, tmp_path, capsys):
    from near.app.cache import main

    model, _, scorer = made
    scorer().losses(model, np.arange(4))
    main(["--cache-dir", str(tmp_path)])
    assert "losses and gradients of rows: 1, " in capsys.readouterr().out
    main(["prune", "--cache-dir", str(tmp_path), "--unused-days", "1"])
    (folder,) = (tmp_path / "scores").iterdir()
    os.utime(folder, (1, 1))
    main(["prune", "--cache-dir", str(tmp_path), "--unused-days", "1"])
    assert "removed scores" in capsys.readouterr().out and not list((tmp_path / "scores").iterdir())


def test_a_measured_budget_is_no_part_of_a_key(made):
    """Scores of before, with 1024 tokens a batch, are read; whatever budget a device would have."""
    model, _, scorer = made
    ids = np.arange(scored.ROWS)
    before = scorer(batch_tokens=1024)
    losses = before.losses(model, ids)
    for tokens in (7, 30, 5000):
        fresh = scorer(batch_tokens="auto")
        fresh.budget(model, "losses").tokens = tokens
        np.testing.assert_array_equal(fresh.losses(model, ids), losses)
        assert before.computed and not fresh.computed


def test_scores_go_on_with_a_smaller_budget_where_memory_ends(made, monkeypatch):
    model, optimizer, scorer = made
    ids = np.arange(scored.ROWS)
    (expected,) = scorer(batch_tokens=1024, chunk=100).gradients(model, optimizer, ids)
    expected = expected.pool.matrix(), expected.pool.norms
    real = type(model).forward

    def forward(self, *args, **inputs):
        if inputs["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return real(self, *args, **inputs)

    monkeypatch.setattr(type(model), "forward", forward)
    fresh = scorer(batch_tokens=900, chunk=100)
    (gradients,) = fresh.gradients(model, optimizer, ids)
    assert 0 < fresh.budget(model, "gradients").tokens <= 60
    np.testing.assert_allclose(gradients.pool.norms, expected[1], rtol=1e-4)
    np.testing.assert_allclose(gradients.pool.matrix(), expected[0], atol=2e-3)


class Steady:
    """A device where every batch takes as long as its tokens, so that larger ones do not pay."""

    device = "a device"

    def start(self) -> None: ...

    def stop(self) -> tuple[float, float]:
        return 1.0, 0.01


def test_on_an_accelerator_chunks_are_computed_together(made, tmp_path, monkeypatch):
    """Rows of several chunks are batched by length; files and values are those of chunks computed alone."""
    model, optimizer, scorer = made
    ids = np.arange(scored.ROWS)
    alone = scorer(chunk=2, dim=16, batch_tokens=1024)
    (expected,) = alone.gradients(model, optimizer, ids)
    pool, norms, folder = expected.pool.matrix(), expected.pool.norms, expected.pool.chunks.folder
    names = sorted(path.name for path in folder.iterdir())
    shutil.rmtree(tmp_path / "scores")
    fresh, calls, real = scorer(chunk=2, dim=16, batch_tokens="auto"), [], Chunks.compute
    monkeypatch.setattr(Chunks, "compute", lambda self, *args: calls.append(args[2]) or real(self, *args))
    for work in ("losses", "gradients"):
        fresh.budget(model, work).meter = Steady()
    (result,) = fresh.gradients(model, optimizer, ids)
    assert calls == [6, 3] and fresh.computed == 6 + 3  # of queries there are three chunks
    assert result.pool.chunks.folder == folder and sorted(path.name for path in folder.iterdir()) == names
    np.testing.assert_allclose(result.pool.norms, norms, rtol=1e-4)
    np.testing.assert_allclose(result.pool.matrix(), pool, atol=2e-3)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert fresh._together(fresh.budget(model, "gradients"), 6) == 1
    whole = scorer(chunk=2, dim=None)  # takes too much memory together
    assert whole._together(fresh.budget(model, "gradients"), 60) == 1


def test_the_budget_is_logged_once(made, caplog):
    model, optimizer, scorer = made
    with caplog.at_level("INFO", logger="near"):
        fresh = scorer(batch_tokens="auto")
        for _ in range(2):
            fresh.losses(model, np.arange(4))
            list(fresh.gradients(model, optimizer, np.arange(4)))
            scored.step(model, optimizer)
        list(scorer(batch_tokens="auto").losses(model, np.arange(4)))
    lines = [line for line in caplog.messages if "tokens a batch" in line]
    assert lines[:2] == [f"{name}: 1024 tokens a batch (scoring.batch_tokens=auto)" for name in ("losses", "gradients")]
    assert len(lines) == 3
