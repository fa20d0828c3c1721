"""A round outside training for a selector that needs the model: select.py loads the model, or checkpoints of a run."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.processes import world_size
from near.models.loading import load_base, load_start, load_tokenizer, with_adapter
from near.models.start_check import check_start
from near.models.tokens import tokenize
from near.selection.needs import Needs
from near.selection.round import Round
from near.selection.scoring.gradients import watched_layers
from near.selection.scoring.scoring import scorer_of


def with_model(cfg: DictConfig, cache_dir: str, needs: Needs, round: Round) -> Round:
    """`round` with a model and a scorer; with similarity=gradients also with its neighbours."""
    check_start(cfg, cache_dir)
    gradients = needs.requires == "gradients"
    tokenizer = load_tokenizer(cfg.model, cache_dir)
    tokens = tokenize(round.pool, tokenizer, cfg.data, cache_dir)
    query_tokens = tokenize(round.queries, tokenizer, cfg.data, cache_dir) if needs.answers else None
    model = scored_model(cfg, cache_dir, needs)
    scorer = scorer_of(cfg, cache_dir, tokens, query_tokens, tokenizer, model.device.type)
    if gradients:
        scorer.probe(model)
    eligible = np.intersect1d(round.eligible, tokens.eligible)
    round = dataclasses.replace(round, eligible=eligible, model=model, scorer=scorer)
    return instantiate(cfg.similarity, _convert_="all").apply(round, cfg.max_K)


def scored_model(cfg: DictConfig, cache_dir: str, needs: Needs) -> Any:
    """The model whose losses or gradients are taken, with the adapter of scoring.checkpoints, if they have one."""
    if world_size() > 1 and torch.accelerator.is_available():  # ranks share the scoring, each on its own device
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    checkpoints, gradients = cfg.scoring.checkpoints, needs.requires == "gradients"
    model = load_base(cfg.model, cache_dir) if checkpoints else load_start(cfg.model, cache_dir)
    if checkpoints and (Path(checkpoints[0]) / "adapter_config.json").is_file():
        model = with_adapter(model, checkpoints[0], trainable=True)
    elif gradients and not checkpoints and cfg.scoring.modules is None and not hasattr(model, "peft_config"):
        raise UserError(
            "outside training there is no adapter whose gradients could be taken; give checkpoints of a train.py run: "
            "scoring.checkpoints=[RUN/checkpoints/checkpoint-4], or an adapter: model.adapter=RUN"
        )
    if gradients:
        watched_layers(model, cfg.scoring.modules)
    return model
