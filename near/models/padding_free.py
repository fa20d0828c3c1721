"""Batches without padding: their rows are laid end to end in one sequence, with positions that begin anew at each row.

Models of transformers that get such positions, and no attention mask, let no row attend to another.
"""

import logging
import weakref

import torch

log = logging.getLogger(__name__)

_unwrapped: "weakref.WeakKeyDictionary[torch.nn.Module, weakref.ref]" = weakref.WeakKeyDictionary()
_supported: "weakref.WeakKeyDictionary[torch.nn.Module, bool]" = weakref.WeakKeyDictionary()
FIRST, SECOND = (3, 10, 17, 24, 31, 38), (5, 16, 27, 38, 49)  # tokens of the two rows that are tried
APART = 0.2  # of the difference that it makes to attend to the other row; more is not rounding, even in bfloat16


def end_to_end(
    model, batch: dict[str, torch.Tensor], following: torch.Tensor
) -> tuple[dict, torch.Tensor, torch.Tensor] | None:
    """The rows of a batch in one sequence of S tokens.

    Args:
        model: a causal language model, wrapped or not.
        batch: input_ids and attention_mask, int64 (B, T), padded on the right.
        following: the label of each position's next token, int64 (B, T).

    Returns:
        the model's keywords, among them input_ids and position_ids int64 (1, S); `following` of these positions, int64
        (1, S); the row of each, int64 (S,). None if padding costs less, as attention among S tokens may, or if `model`
        does not support it.
    """
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    if not cheaper(model, lengths, batch["input_ids"].shape[1]) or not keeps_apart(model):
        return None
    device = batch["input_ids"].device
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))  # (S,)
    positions = torch.cat([torch.arange(length) for length in lengths])  # (S,)
    rows, positions = rows.to(device), positions.to(device)
    inputs = {"input_ids": batch["input_ids"][rows, positions][None], "position_ids": positions[None]}
    inputs["use_cache"] = False  # with a cache, models take the positions for those of one row
    return inputs, following[rows, positions][None], rows


def cheaper(model, lengths: list[int], width: int) -> bool:
    """Whether S tokens in one sequence take less work than B rows of `width` tokens.

    A token of a decoder takes about 24 d^2 operations in a layer of width d, and 4 d for each key (Kaplan et al. 2020):
    as many as for 6 d keys. Without FlashAttention the keys are all of the sequence, masked or not.
    """
    config = unwrapped(model).config.get_text_config()
    tokens, per_token = sum(lengths), 6 * config.hidden_size
    keys = 0 if "flash" in str(config._attn_implementation) else tokens
    return tokens * (per_token + keys) < len(lengths) * width * (per_token + width)


def unwrapped(model):
    """The model in the wrappers of accelerate; looked for once, because that walks all modules."""
    if model not in _unwrapped:
        from accelerate.utils import extract_model_from_parallel

        _unwrapped[model] = weakref.ref(extract_model_from_parallel(model))
    return _unwrapped[model]()


def keeps_apart(model) -> bool:
    """Whether `model` keeps rows apart; tried once, with two short rows."""
    inner = unwrapped(model)
    if inner not in _supported:
        _supported[inner] = _is_whole(model) and _tried(inner)
        if not _supported[inner]:
            log.info("rows are padded to batches: this model does not keep rows apart that lie end to end")
    return _supported[inner]


def _is_whole(model) -> bool:
    """Whether this process has all weights: under ZeRO-3 and FSDP, all processes would have to try together."""
    parts = any(hasattr(weight, "ds_id") or type(weight).__name__ == "DTensor" for weight in model.parameters())
    return not parts and not any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


@torch.no_grad()
def _tried(model) -> bool:
    device, vocabulary = next(model.parameters()).device, model.config.get_text_config().vocab_size

    def logits(ids: tuple[int, ...], positions: list[int]) -> torch.Tensor:
        inputs = {"input_ids": ids, "position_ids": positions}
        inputs = {name: torch.tensor([values], device=device) for name, values in inputs.items()}
        inputs["input_ids"] %= vocabulary
        return model(**inputs, use_cache=False).logits[0, -len(SECOND) :].float()  # (5, vocabulary)

    first, second = list(range(len(FIRST))), list(range(len(SECOND)))
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            alone, apart = logits(SECOND, second), logits(FIRST + SECOND, first + second)
            attending = logits(FIRST + SECOND, list(range(len(first) + len(second))))
    except (TypeError, ValueError, RuntimeError, NotImplementedError):  # it takes no positions, for example
        return False
    finally:
        model.train(was_training)
    return bool((apart - alone).abs().mean() <= APART * (attending - alone).abs().mean())
