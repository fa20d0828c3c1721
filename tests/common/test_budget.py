"""Budgets of tokens: what a calibration settles on, and what happens where memory ends. A device is invented."""

import json

import numpy as np
import pytest

from near.common.batches import batches
from near.common.budget import FIRST, Budget
from near.common.errors import UserError


class Device:
    """Takes `overhead` seconds a batch and 1 / `rate` a token, and has room for `room` tokens."""

    device = "invented"

    def __init__(self, overhead=1.0, rate=10_000.0, room=10**9, message="CUDA out of memory. Tried to allocate 1 GiB"):
        self.overhead, self.rate, self.room, self.message = overhead, rate, room, message
        self.measured, self.parts, self.released = 0, [], 0

    def start(self):
        self.measured += 1

    def stop(self):
        tokens = self.parts[-1][1]
        return self.overhead + tokens / self.rate, tokens / self.room

    def work(self, lengths):
        def run(part):
            tokens = int(lengths[part].max()) * len(part)
            if tokens > self.room:
                raise RuntimeError(self.message)
            self.parts.append((part, tokens))
            return part * 10

        return run

    def release(self):
        self.released += 1


def ran(budget, device, lengths, size=10**9):
    """The positions in the order of the work; every row once, each with its result."""
    seen = []
    for part, result in budget.run(lengths, device.work(lengths), size):
        np.testing.assert_array_equal(result, part * 10)
        seen.append(part)
    seen = np.concatenate(seen)
    np.testing.assert_array_equal(np.sort(seen), np.arange(len(lengths)))
    np.testing.assert_array_equal(lengths[seen], -np.sort(-lengths))
    return seen


def budget_of(device, option="auto", path=None, **options):
    return Budget(option, 64, "x.batch_tokens", device, path, release=device.release, **options)


ROWS = np.full(60_000, 64)


def test_on_a_cpu_auto_is_the_default_and_nothing_is_measured():
    lengths = np.array([3, 9, 4, 8, 30, 1, 1, 2])
    budget = Budget("auto", 24, "x.batch_tokens")
    parts = [part.tolist() for part, _ in budget.run(lengths, lambda part: None, 3, 0.5)]
    assert parts == [part.tolist() for part in batches(lengths, 3, 24, 0.5)]
    assert (budget.tokens, budget.calibrating, budget.rows(7)) == (24, False, 7)


def test_a_number_is_used_as_it_is():
    device = Device()
    budget = budget_of(device, 640)
    ran(budget, device, ROWS[:100])
    assert {tokens for _, tokens in device.parts} == {640}
    assert (device.measured, budget.tokens) == (0, 640)


def test_calibration_grows_until_throughput_stops_rising(tmp_path, caplog):
    caplog.set_level("INFO")
    device, path = Device(overhead=1.0, rate=10_000.0), tmp_path / "budgets" / "x.json"
    budget = budget_of(device, path=path)
    ran(budget, device, ROWS)
    speed = {tokens: tokens / (1 + tokens / 10_000) for tokens in FIRST * 2 ** np.arange(8)}
    gains = [(t, speed[2 * t] / speed[t]) for t in list(speed)[:-1]]
    assert budget.tokens == next(tokens for tokens, gain in gains if gain < 1.1) > FIRST
    assert device.measured == 3 * (np.log2(budget.tokens / FIRST) + 2)
    assert f"x.batch_tokens=auto: {budget.tokens} tokens a batch on invented" in caplog.text
    again = budget_of(Device(), path=path)
    assert (again.tokens, again.calibrating) == (budget.tokens, False)
    path.write_text("{")
    assert budget_of(Device(), path=path).calibrating


def test_calibration_never_tries_what_a_share_of_the_memory_forbids():
    device = Device(overhead=100.0, room=FIRST * 10)
    budget = budget_of(device)
    ran(budget, device, ROWS)
    assert budget.tokens == 4 * FIRST  # 40 % of the memory; 8 * FIRST would be 80 %
    assert max(tokens for _, tokens in device.parts) == 4 * FIRST


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_work_that_is_too_short_is_done_all_the_same(size, tmp_path):
    device = Device()
    budget = budget_of(device, path=tmp_path / "x.json")
    ran(budget, device, np.arange(1, size + 1))
    assert not (tmp_path / "x.json").exists() or not budget.calibrating


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "XPU out of memory. Tried to allocate",
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    ],
)
@pytest.mark.parametrize("option", ["auto", 5000])
def test_out_of_memory_halves_and_goes_on_from_the_same_row(option, message, caplog):
    caplog.set_level("INFO")
    device = Device(overhead=10.0, room=1500, message=message)
    device.stop = lambda: (1.0, 0.0)  # figures that promise too much
    lengths = np.random.default_rng(0).integers(1, 200, 3000)
    budget = budget_of(device, option)
    ran(budget, device, lengths)
    assert 500 < budget.tokens <= 1500
    assert device.released == caplog.text.count("do not fit into memory") >= 1


def test_a_halved_budget_is_what_the_next_run_begins_with(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"batch_tokens": 100_000}))
    device = Device(room=30_000)
    budget = budget_of(device, path=path)
    ran(budget, device, ROWS[:2000])
    assert json.loads(path.read_text())["batch_tokens"] == budget.tokens < 30_000


@pytest.mark.parametrize("lengths", [[9, 3, 2], [9], [9, 9]])
def test_a_row_that_does_not_fit_alone_is_one_line(lengths):
    device = Device(room=8)
    with pytest.raises(UserError, match=r"^x.batch_tokens: a single row of 9 tokens does not fit into memory; cut it$"):
        ran(budget_of(device, 64, fix="cut it"), device, np.array(lengths))


def test_other_errors_and_equal_batches_are_left_alone():
    device = Device(room=8, message="shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        ran(budget_of(device, 64), device, np.array([9, 9]))
    device = Device(room=8)
    with pytest.raises(RuntimeError, match="out of memory"):
        ran(budget_of(device, 64, shrinks=False), device, np.array([9, 9]))


def test_a_read_only_cache_costs_only_the_next_measurement(tmp_path):
    (tmp_path / "file").write_text("")
    device = Device()
    budget = budget_of(device, path=tmp_path / "file" / "x.json")
    ran(budget, device, ROWS)
    assert not budget.calibrating


@pytest.mark.parametrize("group", ["embedder", "scoring", "evaluation"])
def test_a_budget_is_no_part_of_a_runs_identity(group):
    from near.common.config import identity
    from tests.conftest import configured

    runs = [configured("train", f"{group}.batch_tokens={value}") for value in ("auto", 1024, 77)]
    assert identity(runs[0]) == identity(runs[1]) == identity(runs[2])


@pytest.mark.parametrize("value", ["0", "-1", "automatic", "1.5", "null"])
@pytest.mark.parametrize("group", ["embedder", "scoring", "evaluation"])
def test_other_values_are_refused(group, value):
    from near.app.check.check import check
    from tests.conftest import configured

    with pytest.raises(UserError, match=f"{group}.batch_tokens"):
        check(configured("train", f"{group}.batch_tokens={value}"), "train")
