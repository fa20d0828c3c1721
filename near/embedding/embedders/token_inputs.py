"""The inputs of a sentence-transformers model from token ids, so that a text is tokenised once."""

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np

NAMES = {"input_ids", "attention_mask", "token_type_ids"}
LONGEST = 1 << 15  # tokens: whether longer texts are cut as by the library is not tried


@dataclass(frozen=True)
class Coded:
    """Tokens of n texts.

    Attributes:
        columns: the tokenizer's lists, n of each name, the attention mask left out.
        lengths: tokens of each text, int64 (n,).
        cut: how many texts were cut.
    """

    columns: dict[str, list[list[int]]]
    lengths: np.ndarray
    cut: int


class TokenInputs:
    """Tokenises texts as the model's `preprocess` does, and pads its batches later."""

    def __init__(self, model, constants: dict[str, Any]):
        tokenizer = model.tokenizer
        self.tokenizer, self.constants = tokenizer, constants
        self.names = NAMES & set(tokenizer.model_input_names)
        self.pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}

    @classmethod
    def of(cls, model) -> "TokenInputs | None":
        """The inputs of a SentenceTransformer; None if they differ from those of its `preprocess` for some texts.

        They differ for models that read images or chats, choose between modules, have no fast tokenizer, flatten
        batches or change what the tokenizer returns.
        """
        limit = model.max_seq_length
        texts = ["", "a", "Some words, and then some more."]
        texts += ["word " * (limit + 8)] if limit and limit < LONGEST else []
        with contextlib.suppress(AttributeError, TypeError, KeyError, ValueError):
            expected = model.preprocess(texts, prompt="")
            inputs = cls(model, {name: value for name, value in expected.items() if not hasattr(value, "shape")})
            coded = inputs.coded(texts)
            actual = inputs.features(coded, np.arange(len(texts)), "cpu")
            if set(actual) == set(expected) and all(_equal(actual[name], expected[name]) for name in expected):
                return inputs
        return None

    def coded(self, texts: list[str]) -> Coded:
        """Tokens of the texts, cut to the model's limit."""
        encoded = self.tokenizer(texts, truncation="longest_first", return_attention_mask=False)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)
        columns = {name: encoded[name] for name in self.names if name in encoded}
        return Coded(columns, lengths, sum(len(row.overflowing) > 0 for row in encoded.encodings))

    def features(self, coded: Coded, part: np.ndarray, device) -> dict[str, Any]:
        """The model's inputs for the rows `part` of the texts: int64 (n_batch, longest) each, padded."""
        lengths = coded.lengths[part]
        shape = len(part), max(1, int(lengths.max()))
        left = self.tokenizer.padding_side == "left"
        starts = shape[1] - lengths if left else np.zeros_like(lengths)
        arrays = {name: np.full(shape, self.pads[name], dtype=np.int64) for name in coded.columns}
        if "attention_mask" in self.names:
            arrays["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for row, (i, start, length) in enumerate(zip(part, starts, lengths, strict=True)):
            for name, array in arrays.items():
                array[row, start : start + length] = 1 if name == "attention_mask" else coded.columns[name][i]
        return {name: _moved(array, device) for name, array in arrays.items()} | self.constants


def _moved(array: np.ndarray, device):
    import torch

    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor.to(device)
    )


def _equal(actual, expected) -> bool:
    if hasattr(expected, "shape"):
        return actual.dtype == expected.dtype and actual.shape == expected.shape and bool((actual == expected).all())
    return type(actual) is type(expected) and actual == expected
