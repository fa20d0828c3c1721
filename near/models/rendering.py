"""Renders models' chat templates in transformers' sandbox, in a process with limited time and memory."""

import os
import threading

from jinja2 import TemplateError

from near.common.bounded import Bounded, Overrun
from near.common.errors import UserError, one_line

SECONDS = 10  # of processor time, for one chat
LONGEST = 1 << 24  # characters of a rendered chat, beyond 16 times those of its messages

_process: Bounded | None = None
_lock = threading.Lock()
_refused: dict[str, str] = {}  # templates that exceeded a limit, to the error message

Part = tuple[bool, int, bool]  # with tools?, number of turns, open an answer at the end?
Text = tuple[str | None, str | None]  # the rendered text, or the template's error


def render(tokenizer, turns: list[dict], tools: list | None, parts: list[Part]) -> list[Text]:
    """Render `parts` of a chat with the tokenizer's template, as its apply_chat_template does.

    Args:
        tokenizer: has a chat template.
        turns: the chat in OpenAI's form.
        tools: descriptions of tools; None: no tools.
        parts: the beginnings of the chat to render.

    Returns:
        One Text per part.

    Raises:
        UserError: the template exceeds the limits; from then on immediately for every chat with that template.
    """
    global _process
    template = tokenizer.get_chat_template(None, tools)
    with _lock:
        if template in _refused:
            raise UserError(_refused[template])
        _process = _process or Bounded(_rendered, SECONDS)
        try:
            return _process.ask([template, turns, tools, parts, tokenizer.special_tokens_map])
        except Overrun as error:
            _process = None
            _refused[template] = (
                f"the chat template of {tokenizer.name_or_path} is refused, {error} for one chat; choose another, "
                "for example model.template=chatml"
            )
            raise UserError(_refused[template]) from error


def text_of(rendered: Text) -> str:
    """The text of a part. Raises jinja2.TemplateError if the template rejected it."""
    text, fault = rendered
    if text is None:
        raise TemplateError(fault)
    return text


def _rendered(request: list) -> list[Text]:
    """Runs in the separate process."""
    template, turns, tools, parts, special = request
    return [
        _part(template, turns[:stop], tools if whole else None, generate, special) for whole, stop, generate in parts
    ]


def _part(template: str, chat: list[dict], tools: list | None, generate: bool, special: dict) -> Text:
    from transformers.utils.chat_template_utils import render_jinja_template

    if not chat:
        return None, "there is no message"
    try:
        [text], _ = render_jinja_template(
            [chat], tools=tools, chat_template=template, add_generation_prompt=generate, **special
        )
    except MemoryError:
        raise
    except Exception as error:  # a template may raise anything
        return None, one_line(error)
    if len(text) > LONGEST + 16 * sum(len(str(message)) for message in chat):
        raise Overrun(f"it gives {len(text):,} characters")
    return text, None


def _forked() -> None:
    global _process, _lock
    if _process is not None:
        _process.forget()
    _process, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)
