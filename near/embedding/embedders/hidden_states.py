"""Hidden states of several layers of a causal language model, side by side."""

import contextlib
import functools
from typing import Annotated, Any, Literal

import numpy as np

from near.common.bounds import between
from near.common.errors import UserError
from near.embedding.embedders.causal import CausalEmbedder

States = Literal["attention", "layer"]
Layer = Annotated[int, between(1, 1000)]


class HiddenStates(CausalEmbedder):
    """COINCIDE's vectors (Lee et al. 2024, arXiv 2406.10995, section 3.1), for texts. Of the states x_t of a row's n
    tokens in each of M layers:

        u_l = mean_t tanh(x_t),   vector = [u_1 / |u_1|, ..., u_M / |u_M|] / sqrt(M)

    In the paper images' tokens have a mean of their own beside that of the text. DataFlex pools the output of layers.

    layers: M of them, evenly spaced from the first to the last; or a list of their numbers, from 1.
    states: attention: what a layer's self-attention puts out, as in the paper; layer: what the layer puts out (of the
        last one, behind the final norm).
    """

    backend = "hidden_states"

    def __init__(self, *, layers: Layer | list[Layer] = 5, states: States = "attention", **options: Any):
        super().__init__(**options)
        self.layers, self.states = layers if isinstance(layers, int) else sorted(set(layers)), states

    @functools.cached_property
    def space(self) -> dict:
        return {**super().space, "pooling": "mean of tanh", "layers": self.layers, "states": self.states}

    @property
    def full_dim(self) -> int:
        return len(self._numbers()) * super().full_dim

    def _numbers(self) -> list[int]:
        """The numbers of the layers, from 1, ascending; UserError for one that the model does not have."""
        count = self._model.config.num_hidden_layers
        if isinstance(self.layers, int):
            return np.unique(np.linspace(1, count, min(self.layers, count)).round().astype(int)).tolist()
        if self.layers[-1] > count:
            raise UserError(f"embedder.layers: {self.model} has {count} layers, no number {self.layers[-1]}; lower it")
        return self.layers

    def _attention(self) -> list:
        """The self-attention of each layer, a torch module; UserError for a model that has another number of them."""
        modules: dict = {}  # by name
        for name, module in self._model.named_modules():
            inner = any(name.startswith(f"{outer}.") for outer in modules)
            if type(module).__name__.endswith("Attention") and not inner:
                modules[name] = module
        count = self._model.config.num_hidden_layers
        if len(modules) != count:
            raise UserError(
                f"embedder.states=attention: {self.model} has {len(modules)} attention modules in {count} layers; use "
                "embedder.states=layer"
            )
        return list(modules.values())

    def _pooled(self, rows: list[list[int]]) -> np.ndarray:
        import torch

        tokens, mask = self.padded(rows)
        numbers, states = self._numbers(), {}

        def keep(number: int):
            def hook(module, inputs, output) -> None:
                states[number] = output[0] if isinstance(output, tuple) else output

            return hook

        with torch.inference_mode(), contextlib.ExitStack() as hooks:
            if self.states == "attention":
                attention = self._attention()
                for number in numbers:
                    hooks.callback(attention[number - 1].register_forward_hook(keep(number)).remove)
            of_layers = self.states == "layer"
            outputs = self._model(input_ids=tokens, attention_mask=mask, output_hidden_states=of_layers)
            if of_layers:
                states = {number: outputs.hidden_states[number] for number in numbers}
            parts = []
            for number in numbers:
                mean = torch.einsum("bt,btd->bd", mask.float(), states[number].float().tanh())  # a sum: scaled anyway
                parts.append(torch.nn.functional.normalize(mean, dim=1))
            return (torch.cat(parts, dim=1) / len(parts) ** 0.5).cpu().numpy()
