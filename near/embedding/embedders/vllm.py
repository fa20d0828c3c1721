"""Embedding with vLLM in this process."""

import functools
import os
from collections.abc import Callable

import numpy as np

from near.common.errors import as_user_error
from near.embedding.embedders.model import ModelEmbedder

# Engine options that change where and how fast vLLM runs, not the vectors: no part of the space.
RESOURCES = {
    *("gpu_memory_utilization", "enforce_eager", "max_num_seqs", "max_num_batched_tokens", "cpu_offload_gb"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
    *("swap_space", "disable_log_stats", "disable_custom_all_reduce", "seed"),
}


class VllmEmbedder(ModelEmbedder):
    """`engine`: options of vllm.LLM, for example tensor_parallel_size or gpu_memory_utilization."""

    backend = "vllm"

    def __init__(self, *, engine: dict | None = None, **options):
        super().__init__(**options)
        self.engine = engine or {}

    @functools.cached_property
    def space(self) -> dict:
        return {**super().space, "engine": {k: v for k, v in sorted(self.engine.items()) if k not in RESOURCES}}

    @functools.cached_property
    def _llm(self):
        import vllm

        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:  # under torchrun, an engine may use only its rank's GPU
            rank = os.environ["LOCAL_RANK"]
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(rank)] if int(rank) < len(visible) > 1 else rank
        options = {
            "model": self.folder,
            "runner": "pooling",
            "convert": "embed",
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
            **self.engine,
        }
        what = f"embedder.model={self.model} could not be loaded by vLLM"
        fix = "see above, or use embedder.backend=sentence-transformers"
        with as_user_error((OSError, ValueError, TypeError, RuntimeError), what, fix):
            return vllm.LLM(**options)

    @property
    def limit(self) -> int:
        longest = self._llm.model_config.max_model_len
        return min(self.max_length, longest) if self.max_length else longest

    @functools.cached_property
    def full_dim(self) -> int:
        return len(self._run([self.tokenizer(["a"])["input_ids"][0]])[0])

    def vectors(self, prepared: list[list[int]], progress: Callable[[int], object]) -> np.ndarray:
        vectors = self._run(prepared)
        progress(len(prepared))
        return np.array(vectors, dtype=np.float32)

    def close(self) -> None:
        """End the engine and free its memory."""
        if "_llm" in self.__dict__:
            self.__dict__.pop("_llm").llm_engine.engine_core.shutdown()

    def _run(self, ids: list[list[int]]) -> list[list[float]]:
        outputs = self._llm.embed([{"prompt_token_ids": i} for i in ids], use_tqdm=False)
        return [output.outputs.embedding for output in outputs]
