"""A round outside training for a selector that asks the model: select.py loads the model, or checkpoints of a run."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.processes import world_size
from near.data.rows import Rows
from near.models.loading import load_base, load_tokenizer, with_adapter
from near.models.tokens import tokenize
from near.selection.needs import Needs
from near.selection.round import Round
from near.selection.scoring.gradients import watched_layers
from near.selection.scoring.scoring import scorer_of


def with_model(
    cfg: DictConfig, cache_dir: str, needs: Needs, round: Round, candidates: Rows, queries: Rows | None
) -> Round:
    """`round` with what the model can be asked; under similarity=gradients also with its neighbours."""
    if world_size() > 1 and torch.accelerator.is_available():  # ranks share the scoring, each on a device of its own
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    checkpoints = cfg.scoring.checkpoints
    tokenizer = load_tokenizer(cfg.model, cache_dir)
    tokens = tokenize(candidates, tokenizer, cfg.data, cache_dir)
    asked = tokenize(queries, tokenizer, cfg.data, cache_dir) if needs.answers else None
    model = load_base(cfg.model, cache_dir)
    if checkpoints and (Path(checkpoints[0]) / "adapter_config.json").is_file():
        model = with_adapter(model, checkpoints[0], trainable=True)
    elif needs.asks_model == "gradients" and not checkpoints and cfg.scoring.modules is None:
        raise UserError(
            "outside training there is no adapter whose gradients could be taken; give checkpoints of a train.py run: "
            "scoring.checkpoints=[RUN/checkpoints/checkpoint-4]"
        )
    if needs.asks_model == "gradients":
        watched_layers(model, cfg.scoring.modules)
    scorer = scorer_of(cfg, cache_dir, tokens, asked, tokenizer, model.device.type)
    if needs.asks_model == "gradients":
        scorer.probe(model)
    eligible = np.intersect1d(round.eligible, tokens.eligible)
    round = dataclasses.replace(round, eligible=eligible, model=model, scorer=scorer)
    similarity = instantiate(cfg.similarity, _convert_="all")
    if similarity.asks_model:
        found = similarity.of(round, cfg.max_K)
        round = dataclasses.replace(round, neighbours=found.neighbours, similarity=found)
    return round
