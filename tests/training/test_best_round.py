"""The best round: which weights are kept, when training ends early, and that the reported rows have no part in it."""

import numpy as np
import pytest
from safetensors import safe_open

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.models.weights import tensors_digest
from near.training.rounds.best import BEST
from near.training.train import train
from tests.conftest import configured

pytestmark = pytest.mark.model


@pytest.fixture()
def validated(tiny) -> list[str]:
    return [*tiny, "data.eval.validation=2", "trainer.update_step=2", "trainer.update_times=4"]


def run(folder, *overrides: str) -> RunFolder:
    train(configured("train", *overrides), folder)
    return RunFolder(folder)


def weights(folder) -> str:
    with safe_open(folder / "adapter" / "adapter_model.safetensors", framework="pt") as file:
        return tensors_digest({name: file.get_tensor(name) for name in file.keys()})


def test_smoke(validated, tmp_path, caplog):
    caplog.set_level("INFO")
    r = run(tmp_path / "a", *validated, "trainer.keep=best", "trainer.args.learning_rate=1.0", "trainer.patience=2", "selector=random")
    print(r.training.validation)
    print(caplog.text)
    assert 0
