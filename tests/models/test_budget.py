"""Budgets of a model on its device: figures of an accelerator, which is invented here."""

import pytest
import torch

from near.models import budget as module
from near.models.budget import TorchMeter, budget_for

FREE, CACHED, USED = 1000, 200, 100


@pytest.fixture()
def accelerator(monkeypatch):
    """An accelerator with 1,200 free bytes, of which every batch needs 480."""
    figures = {
        "synchronize": lambda device: None,
        "reset_peak_memory_stats": lambda device: None,
        "empty_cache": lambda: None,
        "get_memory_info": lambda device: (FREE, 2 * FREE),
        "memory_reserved": lambda device: USED + CACHED,
        "memory_allocated": lambda device: USED,
        "max_memory_allocated": lambda device: USED + 480,
    }
    for name, figure in figures.items():
        monkeypatch.setattr(torch.accelerator, name, figure)


def test_a_meter_reports_the_peak_as_a_share_of_what_was_free(accelerator):
    meter = TorchMeter(torch.device("meta"))
    meter.start()
    seconds, share = meter.stop()
    assert 0 <= seconds < 5
    assert share == pytest.approx(480 / 1200)


def made(option="auto", cache="unused", dtype=torch.float32, device="meta", width=2, **more):
    model = torch.nn.Linear(width, 2, device=device, dtype=dtype)
    return budget_for(model, option, 77, "x.batch_tokens", "losses", str(cache), "cut them", **more)


def test_a_cpu_and_a_device_without_figures_use_the_default(monkeypatch):
    assert [made(device="cpu").tokens, made().tokens] == [77, 77]
    assert made(5, device="cpu").tokens == 5


def test_an_accelerator_is_measured_unless_processes_need_equal_batches(accelerator, tmp_path):
    one = made(cache=tmp_path)
    assert one.calibrating and one.rows(5) > 5
    assert made(cache=tmp_path, alone=False).tokens == 77
    assert made(9).tokens == 9
    paths = {made(cache=tmp_path, **more).path for more in ({}, {"dtype": torch.bfloat16}, {"width": 3})}
    assert len(paths) == 3
    assert all(path.parent == tmp_path / "budgets" for path in paths)


def test_a_device_has_a_name(monkeypatch):
    assert module.device_name(torch.device("meta")) == "meta"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    assert module.device_name(torch.device("cuda", 0)) == "H100"
