"""The export of a real model: within its memory, and served by transformers and vLLM as the adapter answered."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from near.data.loading import load
from near.evaluation.generation import with_transformers
from near.evaluation.measure import encoded
from near.export.likeness import prompts_of
from near.export.lineage import adapters_of
from near.export.merge import merge
from near.models.loading import load_base, load_tokenizer, with_adapter
from near.training.train import train
from tests.conftest import configured, process

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def run(tmp_path_factory, real_cache):
    """A real adapter that answers otherwise than its base."""
    folder = tmp_path_factory.mktemp("runs") / "dates"
    words = ["data.eval.limit=6", "evaluation.max_new_tokens=16", "data.cutoff_len=128", "data.candidates.limit=100"]
    words += ["selector=random", "trainer.warmup_step=6", "trainer.update_times=0", "trainer.args.learning_rate=1e-2"]
    train(configured("train", *words, f"cache_dir={real_cache}"), folder)
    return folder


def answers_of_the_run(run, name="answers") -> list[str]:
    return [json.loads(line)["answer"] for line in (run / f"{name}.jsonl").read_text().splitlines()]


def questions(run, real_cache) -> tuple[object, list[list[int]]]:
    """The tokenizer, and the prompts the run's evaluation answered, as it rendered them."""
    config = adapters_of(str(run / "adapter"))[0].run.config
    tokenizer = load_tokenizer(config.model, str(real_cache))
    rows = load(config.data, "eval", str(real_cache))
    _, chats, _, encoder = encoded(tokenizer, rows, config.data)
    return tokenizer, [encoder.prompt_ids(chat[:-1]) for chat in chats]


def exported(run, real_cache, folder, *more) -> Path:
    words = [f"adapter_name_or_path={run}/adapter", f"export_dir={folder}/out", f"cache_dir={real_cache}", *more]
    merge(configured("merge", *words), folder)
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize("legacy", ["false", "true"])
def test_transformers_answers_as_the_adapter_did(run, real_cache, tmp_path, legacy):
    out = exported(run, real_cache, tmp_path, f"export_legacy_format={legacy}", "export_size=0.2")
    assert len(list(out.glob("pytorch_model*.bin" if legacy == "true" else "model*.safetensors"))) >= 3
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    evaluation = configured("eval", "evaluation.max_new_tokens=16").evaluation
    with torch.no_grad():
        made = with_transformers(model, AutoTokenizer.from_pretrained(out), questions(run, real_cache)[1], evaluation)
    assert made == answers_of_the_run(run)
    assert made != answers_of_the_run(run, "base_answers")


MEASURED = """
import re, runpy, sys
sys.argv = ["merge.py", *sys.argv[1:]]
sys.path.insert(0, "")
runpy.run_path("merge.py", run_name="__main__")
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("words", [["export_dtype=bfloat16"], ["export_legacy_format=true"]])
def test_memory_is_its_float32_size_and_two_gigabytes(run, real_cache, tmp_path, words):
    size = (real_cache / "assets" / "SmolLM2-135M-Instruct" / "model.safetensors").stat().st_size
    options = [f"adapter_name_or_path={run}/adapter", f"export_dir={tmp_path}/out", f"cache_dir={real_cache}"]
    done = process("-c", MEASURED, *options, f"output_dir={tmp_path}/record", *words)
    assert done.returncode == 0, done.stderr[-500:]
    peak = int(done.stdout.splitlines()[-1]) * 1024
    assert 0 < peak < size + 2e9, f"{peak / 1e6:.0f} MB for a model of {size / 1e6:.0f}"


@pytest.mark.vllm
def test_vllm_answers_as_the_adapter_did(run, real_cache, tmp_path):
    """Token for token, greedily, in float32: the export in vLLM against the adapter in transformers."""
    import vllm

    assert answers_of_the_run(run) != answers_of_the_run(run, "base_answers"), "it is the adapter that answers"
    out = exported(run, real_cache, tmp_path)
    config = adapters_of(str(run / "adapter"))[0].run.config
    tokenizer, prompts = questions(run, real_cache)
    prompts += prompts_of(None, tokenizer)[0]
    model = with_adapter(load_base(config.model, str(real_cache)), run / "adapter").eval()
    expected = []
    with torch.no_grad():
        for ids in prompts:
            input_ids = torch.tensor([ids])
            made = model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=24,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
            )
            expected.append(made[0, len(ids) :].tolist())
    engine = vllm.LLM(
        model=str(out), dtype="float32", enforce_eager=True, gpu_memory_utilization=0.2, max_model_len=512, seed=0
    )
    try:
        # the stop tokens, chat template and tokenizer are the export's own
        sampling = vllm.SamplingParams(temperature=0, max_tokens=24)
        made = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        assert [list(one.outputs[0].token_ids) for one in made] == expected
        chat = [{"role": "user", "content": "What is the capital of France?"}]
        answered = engine.chat(chat, vllm.SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)[0]
        assert list(answered.outputs[0].token_ids) == expected[len(prompts) - 6], "asked as a chat"
    finally:
        engine.llm_engine.engine_core.shutdown()


@pytest.mark.vllm
def test_vllm_loads_the_legacy_form(run, real_cache, tmp_path):
    """.bin in shards: the answers that the run's evaluation noted."""
    import vllm

    tokenizer, prompts = questions(run, real_cache)
    expected = answers_of_the_run(run)
    out = exported(run, real_cache, tmp_path, "export_legacy_format=true", "export_size=0.2")
    engine = vllm.LLM(
        model=str(out), dtype="float32", enforce_eager=True, gpu_memory_utilization=0.2, max_model_len=512, seed=0
    )
    try:
        sampling = vllm.SamplingParams(temperature=0, max_tokens=16)
        made = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        ids = [list(one.outputs[0].token_ids) for one in made]
        texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        assert texts == expected
    finally:
        engine.llm_engine.engine_core.shutdown()
