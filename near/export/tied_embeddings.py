"""Embeddings that an adapter changes: tied ones are told apart where it trains one of them, and tables are widened."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from near.common.errors import UserError, reading


def widen(model, adapter: Path, tokens: int) -> None:
    """Give `model` as many embeddings as the adapter in its folder brings: it was trained on a resized vocabulary.

    UserError where the tokenizer knows more `tokens` than there are embeddings then.
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
            f"the tokenizer has {tokens} tokens, the model {rows} embeddings, and {adapter} brings no others; "
            "name the base it was trained on with model_name_or_path"
        )


def untie(adapted) -> None:
    """Where an adapter trains the input or the output embeddings of a model that ties them, give the output ones
    weights of their own: merged into shared weights, what was learnt of one would change the other."""
    inputs, outputs = _tables(adapted)
    if inputs is None or outputs is None or inputs.weight is not outputs.weight:
        return
    model = adapted.get_base_model()
    if type(model.get_input_embeddings()) is type(inputs) and type(model.get_output_embeddings()) is type(outputs):
        return  # neither is wrapped: the adapter leaves them alone
    outputs.weight = nn.Parameter(outputs.weight.detach().clone(), requires_grad=False)


def _tables(adapted) -> tuple[nn.Module | None, nn.Module | None]:
    """The embeddings under what an adapter wraps them in."""
    model, found = adapted.get_base_model(), []
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        while True:
            inner = getattr(table, "base_layer", None)
            inner = getattr(table, "original_module", None) if inner is None else inner
            if inner is None:
                break
            table = inner
        found.append(table)
    return found[0], found[1]


def retie(model) -> None:
    """After a merge: a model whose embeddings are equal shares them again where its configuration says so; one whose
    are not says that they are its own, else whoever loads it would tie them."""
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
