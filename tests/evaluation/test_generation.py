"""Who answers: transformers, or the real vLLM (`make test-vllm`: its CPU build) from the same files."""

import json

import pytest

from near.common.errors import UserError
from near.evaluation.generation import check_backend
from near.training.train import train
from tests.conftest import configured, evaluate

pytestmark = pytest.mark.model
SMALL = ["data.eval.limit=6", "evaluation.max_new_tokens=8", "data.cutoff_len=128"]
ENGINE = ["+evaluation.engine.enforce_eager=true", "+evaluation.engine.gpu_memory_utilization=0.2"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["finetuning=dora"], "vLLM has no DoRA; use evaluation.backend=transformers"),
        (["finetuning=qlora"], "the base is quantised; use evaluation.backend=transformers"),
    ],
)
def test_what_vllm_can_not_answer_for(tiny, packages, words, why):
    cfg = configured("train", *tiny, "evaluation.backend=vllm", *words)
    plain = configured("train", *tiny, "evaluation.backend=vllm")
    packages(vllm=True)
    with pytest.raises(UserError, match=why):
        check_backend(cfg)
    with pytest.raises(UserError, match="spread over all processes"):
        check_backend(plain, sharded=True)


def test_without_vllm_it_is_said(tiny, packages):
    packages(vllm=False)
    with pytest.raises(UserError, match=r'pip install "near\[vllm\]"'):
        check_backend(configured("train", *tiny, "evaluation.backend=vllm"))


def answers(folder, name="answers") -> list[str]:
    return [json.loads(line)["answer"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.vllm
@pytest.mark.real
def test_vllm_answers_as_transformers_does(real_cache, tmp_path):
    """Base and adapter, at the end of train.py and in eval.py, in float32: token for token on these rows."""
    words = [*SMALL, f"cache_dir={real_cache}", "selector=random", "data.candidates.limit=100"]
    words += ["trainer.warmup_step=6", "trainer.update_times=0", "trainer.args.learning_rate=1e-2"]
    train(configured("train", *words, "evaluation.backend=vllm", *ENGINE), tmp_path / "run")
    by_vllm = {name: answers(tmp_path / "run", name) for name in ("answers", "base_answers")}
    assert by_vllm["answers"] != by_vllm["base_answers"], "the adapter answers, not its base"
    cfg = configured("eval", f"run={tmp_path}/run", "evaluation.backend=transformers", f"cache_dir={real_cache}")
    evaluate(cfg, tmp_path / "transformers")
    assert {name: answers(tmp_path / "transformers", name) for name in by_vllm} == by_vllm
    evaluate(configured("eval", f"run={tmp_path}/run", f"cache_dir={real_cache}"), tmp_path / "again")
    assert answers(tmp_path / "again") == by_vllm["answers"]
