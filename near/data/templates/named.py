"""Chat templates by name: setting a tokenizer's template, and recognising the one it has."""

import functools
import json
import logging
import re
from dataclasses import replace

from near.common.errors import UserError, did_you_mean
from near.data.templates.chat_template import Template
from near.data.templates.jinja import head_of
from near.data.templates.slots import TEMPLATES

__all__ = ["ENDS", "TEMPLATES", "Template", "set_template", "template_of"]

log = logging.getLogger(__name__)


def _end(template: Template) -> str | None:
    """The stop word in the answer's slot, else the first one."""
    ending = [word for word in template.stop_words if word in template.assistant]
    return next(iter([*ending, *template.stop_words]), None)


# the token that ends a turn; templates without one are absent
ENDS = {name: end for name, template in TEMPLATES.items() if (end := _end(template))}

SET_THINKING = re.compile(r"\{%- set enable_thinking = (true|false) %\}")


def set_thinking(tokenizer, enabled: bool | None) -> None:
    """Fix `enable_thinking` in the tokenizer's chat template; None leaves it open."""
    if enabled is not None and isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = f"{{%- set enable_thinking = {str(enabled).lower()} %}}{tokenizer.chat_template}"


def thinking_of(tokenizer) -> bool | None:
    """The value that `set_thinking` wrote; None if it wrote none."""
    match = SET_THINKING.match(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else None
    return None if match is None else match[1] == "true"


def template_of(tokenizer) -> Template | None:
    """The named template that the tokenizer has, with its default system text; None if it has another template."""
    carried = tokenizer.chat_template
    return _named(SET_THINKING.sub("", carried, count=1)) if isinstance(carried, str) else None


@functools.lru_cache(maxsize=64)  # called for every row
def _named(carried: str) -> Template | None:
    match = re.match(r"\{# (\S+) #\}", carried)
    if match is None:
        return None
    template = TEMPLATES.get(match[1])
    text = re.match(re.escape(head_of(match[1], "")).replace('""', r'("(?:[^"\\]|\\.)*")'), carried)
    if template is None or text is None:
        return None
    template = replace(template, default_system=json.loads(text[1]))
    return template if template.jinja == carried else None


def set_template(tokenizer, name: str | None, key: str = "model.template", default_system: str | None = None) -> None:
    """Set the tokenizer's chat template and end token, in place.

    Args:
        tokenizer: a fast tokenizer.
        name: a key of TEMPLATES; None leaves the tokenizer's template.
        key: the option that `name` comes from, for error messages.
        default_system: the system text of rows without one; None: the template's.

    Raises:
        UserError: the name is unknown, or it is None and the tokenizer has no template.
    """
    if name is not None:
        if name not in TEMPLATES:
            raise UserError(f"{key}={name} is not a template{did_you_mean(name, TEMPLATES)}")
        template = TEMPLATES[name]
        if default_system is not None:
            template = replace(template, default_system=default_system)
        _set_ends(tokenizer, template, key)
        tokenizer.chat_template = template.jinja
    if tokenizer.chat_template is None:
        raise UserError(
            f"model {tokenizer.name_or_path} has no chat template; set {key} to one of "
            f"{', '.join(list(TEMPLATES)[:4])}, ... (docs/training.md), or use its instruction-tuned variant"
        )


def _set_ends(tokenizer, template: Template, key: str) -> None:
    """Make the template's stop words special tokens of the tokenizer, those that its vocabulary has."""
    vocabulary = tokenizer.get_vocab()
    known = [word for word in template.stop_words if word in vocabulary]
    if template.replace_eos and tokenizer.eos_token != template.stop_words[0]:
        if template.stop_words[0] in known:
            tokenizer.add_special_tokens({"eos_token": template.stop_words[0]})
        else:
            log.warning(
                f"{key}={template.name}: {template.stop_words[0]}, which ends an answer, is not a token of this "
                "tokenizer and is trained as text; choose a template that fits the model"
            )
    if tokenizer.eos_token is None and "<|endoftext|>" in vocabulary:
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.add_tokens(known, special_tokens=True)
