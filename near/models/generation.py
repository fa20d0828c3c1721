"""Generation of answers by a loaded model, through transformers."""

from collections.abc import Iterable, Iterator

from near.models.tokens import stop_ids


def generated(
    model, tokenizer, prompts: list[list[int]], parts: Iterable[list[int]], **options: object
) -> Iterator[tuple[int, list[int]]]:
    """Answers to prompts, one batch after the other.

    Args:
        prompts: token ids of each prompt.
        parts: the positions of each batch's prompts.
        options: of `model.generate`, such as max_new_tokens and temperature.

    Yields:
        the position of a prompt; the tokens of its answer, which end with end or padding tokens.
    """
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method  # a second to import

    if isinstance(model, FSDPModule) and "generate" not in vars(model):
        register_fsdp_forward_method(model, "generate")  # otherwise generate would not gather the root's weights
    ends = stop_ids(model, tokenizer) or None
    for part in parts:
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in part]}, padding_side="left", return_tensors="pt")
        tokens = model.generate(
            **batch.to(model.device), pad_token_id=tokenizer.pad_token_id, eos_token_id=ends, **options
        )
        answers = tokens[:, batch["input_ids"].shape[1] :]  # (n_part, n_prompt + n_answer) -> (n_part, n_answer)
        yield from zip(part, answers.tolist(), strict=True)
