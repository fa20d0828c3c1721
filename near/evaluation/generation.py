"""Generation of answers: by the loaded model through transformers, or by vLLM from the model's files."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from near.common.batches import batches
from near.common.errors import UserError, as_user_error
from near.common.extras import install
from near.common.files import read_json
from near.evaluation.settings import EvalSettings
from near.models.generation import generated
from near.models.start import mode_of
from near.models.tokens import stop_ids

Answerer = Callable[[list[list[int]]], list[str]]  # token ids of prompts -> greedy answers
GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the LoRA ranks that vLLM allocates


def check_backend(cfg: DictConfig, sharded: bool = False) -> None:
    """UserError if evaluation.backend=vllm can't generate answers for this configuration."""
    if cfg.evaluation.backend != "vllm" or not cfg.evaluation.answers:
        return
    check_backend_start(cfg.evaluation, cfg.model)
    reason = None
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"evaluation.backend=vllm: vLLM is not installed; {install('vllm')}")
    if sharded:
        reason = "the model is spread over all processes; evaluate later with eval.py, or"
    elif cfg.model.get("quantization") is not None:
        reason = "the base is quantised;"
    elif OmegaConf.select(cfg, "finetuning.use_dora"):
        reason = "vLLM has no DoRA;"
    if reason is not None:
        raise UserError(f"evaluation.backend=vllm: {reason} use evaluation.backend=transformers")


def check_backend_start(evaluation: DictConfig, model: DictConfig) -> None:
    """UserError if vLLM would answer for a model whose weights are in no file."""
    if evaluation.backend == "vllm" and evaluation.answers and mode_of(model) == "stack":
        raise UserError(
            "evaluation.backend=vllm reads weights from files, and model.adapter_mode=stack merges in memory; use "
            f"evaluation.backend=transformers, or merge first: python merge.py adapter_name_or_path={model.adapter} "
            "export_dir=OUT, then model.name_or_path=OUT"
        )


@contextlib.contextmanager
def answering(
    settings: EvalSettings, model, tokenizer, folder: str, adapter: str | None = None, trust_remote_code: bool = False
) -> Iterator[Answerer]:
    """What generates answers for `model`. vLLM is started with the first prompts and ended with the block.

    Args:
        folder: the files of the model, without its adapter.
        adapter: the adapter's folder, if any.
        trust_remote_code: vLLM may run code of the model's repository.
    """
    if settings.evaluation.backend == "transformers":
        yield lambda prompts: with_transformers(model, tokenizer, prompts, settings.evaluation)
        return
    engine = Engine(settings, model, tokenizer, folder, adapter, trust_remote_code)
    try:
        yield engine
    finally:
        engine.close()


def with_transformers(model, tokenizer, prompts: list[list[int]], evaluation: DictConfig) -> list[str]:
    """Greedy answers, at most `max_new_tokens` long, generated in batches of prompts of similar length.

    White space at their ends stays: code may begin with its indentation.

    Args:
        prompts: token ids of each prompt.
        evaluation: the configuration's `evaluation`.
    """
    parts = tqdm(batches(list(map(len, prompts)), evaluation.batch_size), desc="answering", mininterval=1)
    answers = dict(generated(model, tokenizer, prompts, parts, max_new_tokens=evaluation.max_new_tokens, **GREEDY))
    return tokenizer.batch_decode([answers[i] for i in range(len(prompts))], skip_special_tokens=True)


class Engine:
    """vLLM, started with the first prompts. It reads the weights from files; dtype, tokenizer and end tokens are those
    of the loaded model, so that both backends answer by the same rules."""

    def __init__(
        self, settings: EvalSettings, model, tokenizer, folder: str, adapter: str | None, trust_remote_code: bool
    ):
        self.settings, self.tokenizer, self.folder, self.adapter = settings, tokenizer, folder, adapter
        self.trust_remote_code = trust_remote_code
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.ends = stop_ids(model, tokenizer)
        self.longest = getattr(model.config, "max_position_embeddings", None)
        self.engine: Any = None

    def __call__(self, prompts: list[list[int]]) -> list[str]:
        import vllm
        from vllm.lora.request import LoRARequest

        if self.engine is None:
            self.engine = self._started(vllm)
        sampling = vllm.SamplingParams(
            temperature=0,
            max_tokens=self.settings.evaluation.max_new_tokens,
            stop_token_ids=self.ends,
            detokenize=False,
        )
        adapter = LoRARequest("adapter", 1, str(Path(self.adapter).resolve())) if self.adapter else None
        inputs = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self.engine.generate(inputs, sampling, lora_request=adapter, use_tqdm=False)
        ids = [list(output.outputs[0].token_ids) for output in outputs]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _started(self, vllm):
        longest = self.settings.data.cutoff_len + self.settings.evaluation.max_new_tokens
        options = {
            "model": self.folder,
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
            "max_model_len": min(longest, self.longest or longest),
            "seed": self.settings.seed,
        }
        if self.adapter is not None:
            config = read_json(Path(self.adapter) / "adapter_config.json")
            if config.get("use_dora"):
                raise UserError("evaluation.backend=vllm: vLLM has no DoRA; use evaluation.backend=transformers")
            rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
            options |= {"enable_lora": True, "max_lora_rank": next((r for r in RANKS if r >= rank), rank)}
        what, fix = f"vLLM could not load {self.folder} to answer", "see above, or use evaluation.backend=transformers"
        with as_user_error((OSError, ValueError, TypeError, RuntimeError), what, fix):
            return vllm.LLM(**options, **OmegaConf.to_container(self.settings.evaluation.engine, resolve=True))

    def close(self) -> None:
        """End the engine and free its memory."""
        if self.engine is not None:
            self.engine.llm_engine.engine_core.shutdown()
            self.engine = None
