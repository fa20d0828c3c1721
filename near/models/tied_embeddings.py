"""Embeddings that an adapter changes: widen them to its vocabulary, and untie them if it trains only one of two."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from near.common.errors import UserError, reading


def widen(model, adapter: Path, tokens: int) -> None:
    """Resize `model` to as many embeddings as the adapter has, which may have been trained on a resized vocabulary.

    Args:
        adapter: the adapter's folder.
        tokens: tokens of the tokenizer.

    Raises:
        UserError: the tokenizer has more tokens than the model has embeddings then.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    path, brought = adapter / "adapter_model.safetensors", None
    if path.is_file():
        with reading(path), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name.endswith(("embed_tokens.weight", "embed_tokens.base_layer.weight", "lm_head.weight")):
                    brought = file.get_slice(name).get_shape()[0]
    if brought is not None and brought != rows:
        model.resize_token_embeddings(brought, mean_resizing=False)
        rows = brought
    if tokens > rows:
        raise UserError(
            f"the tokenizer has {tokens} tokens, the model {rows} embeddings, and {adapter} has no others; "
            "set model_name_or_path to the base it was trained on"
        )


def untie(adapted) -> None:
    """If an adapter trains input or output embeddings of a model that ties them, copy the output embeddings: merged
    into shared weights, a change of one would change the other."""
    inputs, outputs = _tables(adapted)
    if inputs is None or outputs is None or inputs.weight is not outputs.weight:
        return
    model = adapted.get_base_model()
    if type(model.get_input_embeddings()) is type(inputs) and type(model.get_output_embeddings()) is type(outputs):
        return  # neither is wrapped: the adapter does not train them
    outputs.weight = nn.Parameter(outputs.weight.detach().clone(), requires_grad=False)


def _tables(adapted) -> tuple[nn.Module | None, nn.Module | None]:
    """The input and output embeddings, without the adapter's wrappers."""
    model, tables = adapted.get_base_model(), []
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        while True:
            inner = getattr(table, "base_layer", None)
            inner = getattr(table, "original_module", None) if inner is None else inner
            if inner is None:
                break
            table = inner
        tables.append(table)
    return tables[0], tables[1]


def retie(model) -> None:
    """After a merge, if the configuration ties the embeddings: share them again if they are equal; if not, write into
    the configuration that they are not tied, or loading would tie them."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if outputs is None or not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return
    if inputs.weight is outputs.weight:
        return
    if torch.equal(inputs.weight, outputs.weight):
        outputs.weight = inputs.weight
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
