"""Who answers in an evaluation: the loaded model through transformers, or vLLM from the files it was saved to."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from tqdm import tqdm

from near.common.batches import batches
from near.common.errors import UserError, one_line
from near.common.extras import install
from near.common.files import read_json
from near.models.tokens import stop_ids

Answer = Callable[[list[list[int]]], list[str]]  # token ids of prompts -> greedy answers
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM makes room for


def check_backend(cfg: DictConfig, sharded: bool = False) -> None:
    """UserError where evaluation.backend=vllm can't answer for this configuration."""
    if cfg.evaluation.backend != "vllm" or not cfg.evaluation.answers:
        return
    why = None
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"evaluation.backend=vllm: vLLM is not installed; {install('vllm')}")
    if sharded:
        why = "the model is spread over all processes; evaluate later with eval.py, or"
    elif cfg.model.get("quantization") is not None:
        why = "the base is quantised;"
    elif OmegaConf.select(cfg, "finetuning.use_dora"):
        why = "vLLM has no DoRA;"
    if why is not None:
        raise UserError(f"evaluation.backend=vllm: {why} use evaluation.backend=transformers")


@contextlib.contextmanager
def answering(cfg: DictConfig, model, tokenizer, folder: str, adapter: str | None = None) -> Iterator[Answer]:
    """Who answers for `model`, whose files are in `folder` and whose adapter's in `adapter`; an engine that was
    started, once something was asked, ends with the block."""
    if cfg.evaluation.backend == "transformers":
        yield lambda prompts: with_transformers(model, tokenizer, prompts, cfg.evaluation)
        return
    engine = Engine(cfg, model, tokenizer, folder, adapter)
    try:
        yield engine
    finally:
        engine.close()


def with_transformers(model, tokenizer, prompts: list[list[int]], evaluation: DictConfig) -> list[str]:
    """Greedy answers in batches sorted by length, at most `max_new_tokens` long, with the white space they begin and
    end with: code may begin with its indentation."""
    if isinstance(model, FSDPModule) and "generate" not in vars(model):
        register_fsdp_forward_method(model, "generate")  # else it would bypass what gathers the outermost weights
    answers = [""] * len(prompts)
    for part in tqdm(batches(list(map(len, prompts)), evaluation.batch_size), desc="answering", mininterval=1):
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in part]}, padding_side="left", return_tensors="pt").to(
            model.device
        )
        made = model.generate(
            **batch,
            max_new_tokens=evaluation.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stop_ids(model, tokenizer) or None,
        )
        texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(part, texts, strict=True):
            answers[i] = text
    return answers


class Engine:
    """vLLM, started at the first question. It takes the weights from files and the dtype, the tokenizer and the tokens
    that end an answer from the loaded model, so that both backends answer by the same rules."""

    def __init__(self, cfg: DictConfig, model, tokenizer, folder: str, adapter: str | None):
        self.cfg, self.tokenizer, self.folder, self.adapter = cfg, tokenizer, folder, adapter
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
            max_tokens=self.cfg.evaluation.max_new_tokens,
            stop_token_ids=self.ends,
            detokenize=False,
        )
        adapter = LoRARequest("adapter", 1, str(Path(self.adapter).resolve())) if self.adapter else None
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        made = self.engine.generate(asked, sampling, lora_request=adapter, use_tqdm=False)
        ids = [list(one.outputs[0].token_ids) for one in made]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _started(self, vllm):
        longest = self.cfg.data.cutoff_len + self.cfg.evaluation.max_new_tokens
        options = {
            "model": self.folder,
            "dtype": self.dtype,
            "trust_remote_code": self.cfg.model.trust_remote_code,
            "max_model_len": min(longest, self.longest or longest),
            "seed": self.cfg.seed,
        }
        if self.adapter is not None:
            described = read_json(Path(self.adapter) / "adapter_config.json")
            if described.get("use_dora"):
                raise UserError("evaluation.backend=vllm: vLLM has no DoRA; use evaluation.backend=transformers")
            rank = max([described["r"], *(described.get("rank_pattern") or {}).values()])
            options |= {"enable_lora": True, "max_lora_rank": next((r for r in RANKS if r >= rank), rank)}
        try:
            return vllm.LLM(**options, **OmegaConf.to_container(self.cfg.evaluation.engine, resolve=True))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"vLLM could not load {self.folder} to answer ({one_line(error)[:200]}); see above, or use "
                "evaluation.backend=transformers"
            ) from error

    def close(self) -> None:
        """End the engine, so that its memory is free for what follows."""
        if self.engine is not None:
            self.engine.llm_engine.engine_core.shutdown()
            self.engine = None
