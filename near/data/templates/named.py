"""Chat templates by name: which one a tokenizer carries, and giving it one."""

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
    """The stop word that the answer's slot ends with, else the first one."""
    ending = [word for word in template.stop_words if word in template.assistant]
    return next(iter([*ending, *template.stop_words]), None)


# the token that ends a turn, where there is one
ENDS = {name: end for name, template in TEMPLATES.items() if (end := _end(template))}

SET_THINKING = re.compile(r"\{%- set enable_thinking = (true|false) %\}")


def set_thinking(tokenizer, enabled: bool | None) -> None:
    """Write into the tokenizer's chat template whether answers think (its `enable_thinking`); None leaves it open."""
    if enabled is not None and isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = f"{{%- set enable_thinking = {str(enabled).lower()} %}}{tokenizer.chat_template}"


def thinking_of(tokenizer) -> bool | None:
    """What `set_thinking` wrote."""
    match = SET_THINKING.match(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else None
    return None if match is None else match[1] == "true"


def template_of(tokenizer) -> Template | None:
    """The named template that the tokenizer carries, with the system text that it carries; None: another one."""
    carried = tokenizer.chat_template
    return _named(SET_THINKING.sub("", carried, count=1)) if isinstance(carried, str) else None


@functools.lru_cache(maxsize=64)  # asked once for every row
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
    """Give `tokenizer` the chat template `name`, and its end token; None leaves its own.

    `default_system`: the system text of rows without one; None: the template's. UserError where the name is unknown,
    and where the tokenizer has no template and none is named (`key`: the option that names one).
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
    """The template's stop words as special tokens of the tokenizer, as far as its vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    known = [word for word in template.stop_words if word in vocabulary]
    if template.replace_eos and tokenizer.eos_token != template.stop_words[0]:
        if template.stop_words[0] in known:
            tokenizer.add_special_tokens({"eos_token": template.stop_words[0]})
        else:
            log.warning(
                f"{key}={template.name}: {template.stop_words[0]}, which ends an answer, is no token of this "
                "tokenizer and is trained as text; take a template that fits the model"
            )
    if tokenizer.eos_token is None and "<|endoftext|>" in vocabulary:
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.add_tokens(known, special_tokens=True)
