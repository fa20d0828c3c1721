"""What an evaluation depends on beside the model and the rows."""

from dataclasses import dataclass

from omegaconf import DictConfig

from near.common.config import identity


@dataclass(frozen=True)
class EvalSettings:
    """How models are evaluated.

    Attributes:
        evaluation, data: groups of the configuration.
        seed: vLLM's.
        cache_dir: the folder of the cache.
        key_parts: what of `evaluation` decides the result.
    """

    evaluation: DictConfig
    data: DictConfig
    seed: int
    cache_dir: str
    key_parts: dict

    @classmethod
    def of(cls, cfg: DictConfig, cache_dir: str) -> "EvalSettings":
        """The settings of a configuration of train.py or eval.py."""
        key_parts = {k: v for k, v in identity(cfg)["evaluation"].items() if k not in ("at_rounds", "lm_eval")}
        return cls(cfg.evaluation, cfg.data, cfg.seed, cache_dir, key_parts)
