"""NICE: the rows whose gradients raise the reward of the model's own answers to the target's questions."""

import logging
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from omegaconf import DictConfig

from near.common.batches import batches
from near.common.bounds import between
from near.common.errors import UserError
from near.common.processes import is_main
from near.common.text import normalise
from near.data.formats.formats import is_plain
from near.data.rows import Rows
from near.models.chat_judge import PROMPT, Judge, JudgeOptions
from near.models.encoding import IGNORED
from near.models.generation import generated
from near.models.tokens import stop_ids
from near.selection.round import Round, Subset
from near.selection.scoring.chunks import Chunks
from near.selection.scoring.scoring import Features, Gradients
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.less import Aggregate, Less
from near.selection.selectors.model import ShortlistOptions
from near.selection.selectors.tasks import Budgets

log = logging.getLogger(__name__)

CHUNK = 16  # queries of a chunk: answered, then their gradients are stored
BATCH = 32  # answers generated at once, at most


class Nice(Less):
    """NICE (Wang et al. 2025, as in the seed system, DataFlex): the current model answers each query `samples` times at
    `temperature`, and an answer's reward is 1 if it is right, else 0. A query's feature is the gradient of the expected
    reward by REINFORCE: the mean over its answers of the reward times the gradient of the answer's negative log
    likelihood, summed over tokens. The rest is LESS (near/selection/selectors/less.py).

    reward: exact (the normalised answer is the normalised reference) or judge (near/models/chat_judge.py, by
    `judge.server`). A round in which no answer is rewarded has no direction: its rows are random, with a warning.
    """

    only_in_training = "answers with the model as it trains"

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        aggregate: Aggregate = "max",
        samples: Annotated[int, between(1, 10_000)] = 4,
        temperature: Annotated[float, between(1e-4, 1e6)] = 0.7,
        max_new_tokens: Annotated[int, between(1, 1_000_000)] = 64,
        reward: Literal["exact", "judge"] = "exact",
        judge: JudgeOptions | None = None,
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size, shortlist, aggregate, budgets)
        self.samples, self.temperature, self.max_new_tokens = samples, temperature, max_new_tokens
        self.reward, self.prompt = reward, (judge.get("prompt") if judge else None) or PROMPT
        self.judge = Judge(judge["server"], self.prompt, "selector.judge") if reward == "judge" else None

    def select(self, round: Round) -> Subset:
        if (self.features(round).norms > 0).any():
            return super().select(round)
        if is_main():
            log.warning(f"no answer of the model is rewarded (selector.reward={self.reward}): random rows")
        return Subset(round.rng().permutation(self.rows(round))[: round.size])

    def check(self, queries: Rows, scoring: DictConfig) -> None:
        """See Selector.check."""
        if scoring.checkpoints is not None or scoring.dim is None:
            raise UserError(
                "selector=nice needs the current model and projected gradients: leave scoring.checkpoints=null and set "
                "scoring.dim"
            )
        if any(map(is_plain, queries.chats(queries.eligible()))):
            raise UserError("selector=nice answers questions, but data.queries has plain text; use chats")

    def gradients(self, round: Round, ids: np.ndarray) -> Iterator[Gradients]:
        """See Less.gradients: the queries' features are policy gradients."""
        pool = round.scorer.pool_gradients(round.model, round.optimizer, ids)
        yield Gradients(1.0, pool, self.features(round), round.scorer.options.fisher_damping)

    def features(self, round: Round) -> Features:
        """The policy gradient of every query; cached by the weights, the seed and the round."""
        scorer = round.scorer
        count = len(scorer.queries.eligible)
        key_parts = ["nice", scorer.queries.fingerprint, round.seed, round.index, self.samples, self.temperature]
        key_parts += [self.max_new_tokens, self.reward, self.judge and [self.judge.model, self.prompt]]
        folder = scorer.folder(round.model, key_parts)
        chunks = Chunks(folder, [np.arange(a, min(a + CHUNK, count)) for a in range(0, count, CHUNK)])

        def work(positions: np.ndarray, progress) -> dict[str, np.ndarray]:
            ids = scorer.queries.eligible[positions]
            rows, rewards = self._answered(round, ids, (round.seed, round.index, int(positions[0])))
            features = np.zeros((len(ids), scorer.options.dim), dtype=np.float32)
            rewarded = np.flatnonzero(rewards)
            if len(rewarded):
                gradients = scorer.reward_gradients(round.model, [rows[i] for i in rewarded], rewards[rewarded])
                np.add.at(features, rewarded // self.samples, gradients / self.samples)
            norms = np.linalg.norm(features, axis=1)
            progress(len(ids))
            units = features / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
            return {"gradients": units.astype(np.float16), "norms": norms}

        chunks.compute(work, "answering")
        return Features(chunks)

    def _answered(self, round: Round, ids: np.ndarray, seed: tuple) -> tuple[list[dict], np.ndarray]:
        """Generate `samples` answers to each query.

        Args:
            round: with scorer, model and queries.
            ids: queries, int64 (n,).
            seed: numbers that seed the sampling.

        Returns:
            rows of tokens (see answer_row), the samples of a query after each other; rewards float32 (n * samples,).
        """
        tokenizer, model = round.scorer.tokenizer, round.model
        chats = [chat for chat in round.queries.chats(ids) for _ in range(self.samples)]
        limit, ends = round.scorer.encoder.cutoff_len - 1, stop_ids(model, tokenizer)
        prompts = [round.scorer.encoder.prompt_ids(chat[:-1])[-limit:] for chat in chats]
        rows: list[dict] = [{}] * len(chats)
        was_training = model.training
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
            parts = batches(list(map(len, prompts)), BATCH, round.scorer.options.tokens_in_key)
            sampling = {"do_sample": True, "temperature": self.temperature, "top_p": 1.0, "top_k": 0}
            answers = generated(model, tokenizer, prompts, parts, max_new_tokens=self.max_new_tokens, **sampling)
            for i, tokens in answers:
                rows[i] = answer_row(prompts[i], tokens, ends)
        model.train(was_training)
        texts = [tokenizer.decode(r["input_ids"][r["start"] :], skip_special_tokens=True).strip() for r in rows]
        cases = [(chat[-2]["content"], chat[-1]["content"], text) for chat, text in zip(chats, texts, strict=True)]
        if self.judge is not None:
            right = self.judge.verdicts(cases)
        else:
            right = [normalise(answer) == normalise(reference) for _, reference, answer in cases]
        return rows, np.array(right, dtype=np.float32)


def answer_row(prompt: list[int], answer: list[int], ends: list[int]) -> dict:
    """A row for a gradient: a prompt and its answer up to the first of the tokens `ends`; `start`: of the answer."""
    stops = [i for i, token in enumerate(answer) if token in ends]
    answer = answer[: stops[0] + 1] if stops else answer
    return {
        "input_ids": np.array(prompt + answer, dtype=np.int64),
        "labels": np.array([IGNORED] * len(prompt) + answer, dtype=np.int64),
        "start": len(prompt),
    }
