"""Chat templates that models bring: programs in transformers' sandbox, in a process of bounded time and memory."""

import os
import threading

from jinja2 import TemplateError

from near.common.bounded import Bounded, Overrun
from near.common.errors import UserError, one_line

SECONDS = 10  # of processor time, for one chat
LONGEST = 1 << 24  # characters of a chat beyond 16 times those of its messages

_process: Bounded | None = None
_lock = threading.Lock()
_refused: dict[str, str] = {}  # templates that took too much, and what to say of them

Part = tuple[bool, int, bool]  # of a chat: whether with tools, how many turns, whether an answer is opened behind them
Text = tuple[str | None, str | None]  # what it comes to, or what the template says against it


def render(tokenizer, turns: list[dict], tools: list | None, parts: list[Part]) -> list[Text]:
    """`parts` of a chat by the tokenizer's own template, as its apply_chat_template gives them.

    Raises UserError where they take too much time or memory, and then at once for every other chat of that template.
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
                f"the chat template of {tokenizer.name_or_path} is refused, {error} for one chat; name another one, "
                "as in model.template=chatml"
            )
            raise UserError(_refused[template]) from error


def text_of(rendered: Text) -> str:
    """The text of a part. Raises jinja2.TemplateError where the template can't take it."""
    text, fault = rendered
    if text is None:
        raise TemplateError(fault)
    return text


def _rendered(request: list) -> list[Text]:
    """Called in the process apart."""
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
    except Exception as error:  # whatever the template does
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
