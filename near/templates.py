"""Chat templates by name, for base models that bring none, in the form the field knows them by.

A tool's answer is a turn of its own: `tool` in chatml, `ipython` in llama3 (Meta's name for it), and in alpaca, which
knows no tools, the further input of an instruction.
"""

from near.errors import UserError, did_you_mean

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "<|begin_of_text|>{% for m in messages %}"
        "<|start_header_id|>{{ 'ipython' if m['role'] == 'tool' else m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "alpaca": (
        "{% for m in messages %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
        "{% elif m['role'] == 'assistant' %}### Response:\n{{ m['content'] }}{{ eos_token }}\n\n"
        "{% elif m['role'] == 'tool' %}### Input:\n{{ m['content'] }}\n\n"
        "{% else %}{{ m['content'] }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
}


ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}  # the token that ends a turn, where there is one


def set_template(tokenizer, name: str | None, key: str = "model.template") -> None:
    """Give `tokenizer` the chat template `name`; None leaves its own. UserError where it then has none (`key`: the
    option that names one)."""
    if name is not None:
        if name not in TEMPLATES:
            raise UserError(f"{key}={name} is not a template{did_you_mean(name, TEMPLATES)}")
        tokenizer.chat_template = TEMPLATES[name]
    if tokenizer.chat_template is None:
        raise UserError(
            f"model {tokenizer.name_or_path} has no chat template; set {key} to one of "
            f"{', '.join(TEMPLATES)}, or use its instruction-tuned variant"
        )
