"""What a causal language model makes of an answer, given its prompt: one layer's states at the answer's tokens."""

import functools
from typing import Annotated, Any, Literal

import numpy as np

from near.common.bounds import between
from near.common.errors import UserError
from near.data.formats.formats import Message, embedded_text
from near.embedding.embedders.causal import CausalEmbedder
from near.models.encoding import JOINT

DEPTH = 2 / 3  # the layer, as a share of them: chosen on six cells of data=crossed (docs/skills.md)


class _Reached(Exception):
    """The layer has been computed; the layers behind it are not needed."""


class AnswerStates(CausalEmbedder):
    """Of a row's prompt and answer, without a chat template, the output x_t of one layer at the answer's tokens A:

        vector = mean_{t in A} x_t

    Layers behind it are not computed. A long row loses the start of its prompt, then the end of its answer, as in
    training. Of a row with an empty answer all tokens count.

    layer: its number, from 1; None: that at two thirds of the depth (20 of 30).
    prompt: put the mean over the prompt's tokens beside it, each scaled to length 1 (zeros without a prompt): what
        gradients see, answer and wording.
    """

    backend = "answer_states"

    def __init__(
        self,
        layer: Annotated[int, between(1, 1000)] | None = None,
        prompt: bool = False,
        embed: Literal["both"] = "both",
        **options: Any,
    ):
        super().__init__(embed=embed, **options)
        self.layer, self.prompt = layer, prompt

    @functools.cached_property
    def space(self) -> dict:
        pooling = "mean over the answer" + (", mean over the prompt" if self.prompt else "")
        return {**super().space, "pooling": pooling, "layer": self.layer}

    def text(self, messages: list[Message]) -> str:
        """Prompt and answer, JOINT between them alone."""
        answer = embedded_text(messages, "answer")
        parts = embedded_text(messages, "both").removesuffix(answer), answer
        return JOINT.join(part.replace(JOINT, "") for part in parts)

    def shortened(self, texts: list[str]) -> list[str]:
        return texts  # each part has an end of its own that is cut

    def _parts(self, texts: list[str]) -> list[tuple[list[int], list[int]]]:
        """Token ids of each text's prompt and of its answer."""
        prompts, answers = zip(*(text.rpartition(JOINT)[::2] for text in texts), strict=True) if texts else ((), ())
        coded = [
            self.tokenizer(list(part), add_special_tokens=special, verbose=False)["input_ids"] if texts else []
            for part, special in ((prompts, True), (answers, False))
        ]
        return list(zip(*coded, strict=True))

    def _coded(self, texts: list[str]) -> list[list[int]]:
        return [prompt + answer for prompt, answer in self._parts(texts)]

    def prepare(self, texts: list[str]) -> list[np.ndarray]:
        """Of each text int64 (n_tokens, 2): token ids, and 1 at the tokens that are averaged."""
        prepared = []
        for prompt, answer in self._parts(texts):
            limit = self.limit or len(prompt) + len(answer)
            over = max(0, len(prompt) + len(answer) - limit)
            ids = (prompt[over:] + answer)[:limit] or [self.tokenizer.eos_token_id or 0]
            counted = min(len(answer), len(ids)) or len(ids)
            prepared.append(np.stack([ids, [0] * (len(ids) - counted) + [1] * counted], axis=1).astype(np.int64))
            self.tokens += len(ids)
            self.truncated += over > 0
        return prepared

    @property
    def full_dim(self) -> int:
        self._module()  # a layer that the model does not have is an error before anything is embedded
        return super().full_dim * (2 if self.prompt else 1)

    def _module(self):
        """The layer, a torch module; UserError for a number that the model does not have."""
        import torch

        count = self._model.config.num_hidden_layers
        number = max(1, round(DEPTH * count)) if self.layer is None else self.layer
        if number > count:
            raise UserError(f"embedder.layer={number}: {self.model} has {count} layers; use a lower number")
        stacks = (m for m in self._model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
        if (layers := next(stacks, None)) is None:
            raise UserError(f"embedder.model={self.model} has no list of {count} layers; use embedder=rds")
        return layers[number - 1]

    def _pooled(self, rows: list[np.ndarray]) -> np.ndarray:
        import torch

        tokens, mask = self.padded([row[:, 0] for row in rows])
        counted, _ = self.padded([row[:, 1] for row in rows])
        states = []

        def stop(module, inputs, output) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)
            raise _Reached

        hook = self._module().register_forward_hook(stop)
        try:
            with torch.inference_mode():
                self._model(input_ids=tokens, attention_mask=mask, use_cache=False)
        except _Reached:
            pass
        finally:
            hook.remove()
        means = []
        for of in (counted, mask - counted) if self.prompt else (counted,):
            weights = of / of.sum(1, keepdim=True).clamp(min=1)  # (n_batch, n_tokens)
            means.append(torch.einsum("bt,btd->bd", weights, states[0].float()))
        if self.prompt:
            means = [torch.nn.functional.normalize(mean, dim=1) for mean in means]
        return torch.cat(means, dim=1).cpu().numpy()
