"""One named chat template: its slots as data, and the pieces that a chat is encoded in.

A slot is text with `{{content}}`, `{{bos}}` and `{{eos}}` in it. LLaMA-Factory's trainer encodes a slot's special
tokens and texts separately and joins the ids. near/models/encoding.py does the same with `Template.pieces`.
"""

import functools
import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from near.common.errors import UserError
from near.data.templates.jinja import jinja_of
from near.data.templates.tool_formats import RESULTS, TOOL_FORMATS

Message = dict  # a row's message: near/data/formats/formats.py

CONTENT, BOS, EOS = "{{content}}", "{{bos}}", "{{eos}}"


class Piece(NamedTuple):
    """Text that is encoded separately, with special tokens recognised; never ""."""

    text: str
    answer: int | None = None  # index in `messages` of the assistant turn it belongs to; None: prompt
    first_label: str = ""  # label of its first token although it is prompt (efficient_eos); "": none


@functools.cache
def elements(slot: str) -> tuple[str, ...]:
    """The slot cut at its special tokens: "{{bos}}[INST] {{content}}" is ("{{bos}}", "[INST] {{content}}")."""
    return tuple(part for part in re.split(r"(\{\{(?:bos|eos)\}\})", slot) if part)


@dataclass(frozen=True)
class Template:
    """The slots of a chat. A slot of None is the same as the slot that its comment names."""

    name: str
    user: str = CONTENT  # without the opening of the answer
    opening: str = ""  # opens an answer; encoded together with the last prompt turn
    assistant: str = CONTENT + EOS
    system: str = CONTENT
    tool: str | None = None  # a tool's result; as user
    tool_opening: str | None = None  # as opening
    calls: str | None = None  # an assistant turn that calls tools; as assistant
    prefix: str = ""
    default_system: str = ""
    tools: str = "default"  # the form of tools and calls: near/data/templates/tool_formats.py
    thought: tuple[str, str] = ("<think>\n", "\n</think>\n\n")  # around an answer's reasoning
    empty_thought: str | None = None  # of an answer without reasoning; the two of thought
    reasoning: bool = False  # whether every answer has a thought, an empty one where there is no reasoning
    fused_system: bool = False  # the system text is part of the first user turn
    stop_words: tuple[str, ...] = ()
    replace_eos: bool = False  # the tokenizer's end-of-text token becomes the first stop word
    efficient_eos: bool = False  # no end in the slots: after an answer the end-of-text token is a label only

    def pieces(
        self,
        messages: list[Message],
        bos: str,
        eos: str,
        thinking: bool | None = True,
        default_system: str | None = None,
        generate: bool = False,
        mask_history: bool = False,
    ) -> list[Piece]:
        """The chat in pieces; joined, their text is what `jinja` renders.

        Args:
            messages: a row's messages, as near/data/formats/formats.py makes them.
            bos, eos: the tokenizer's tokens, "" where it has none.
            thinking: LLaMA-Factory's enable_thinking, for templates with `reasoning`. True: an answer without
                reasoning begins with an empty thought. None: that empty thought is prompt. False: as None, and all
                reasoning is removed.
            default_system: the system text of rows without one; None: the template's.
            generate: end with what opens the next answer.
            mask_history: remove the reasoning of all answers but the last.
        """
        writer, rest = _Writer(self, bos, eos, thinking), list(enumerate(messages))
        answers = [i for i, message in rest if message["role"] == "assistant"]
        last = answers[-1] if answers else -1
        tools = rest.pop(0)[1]["content"] if rest and rest[0][1]["role"] == "tools" else ""
        system = rest.pop(0)[1]["content"] if rest and rest[0][1]["role"] == "system" else ""
        writer.head(tools, system or (self.default_system if default_system is None else default_system))
        while rest:
            i, message = rest.pop(0)
            role, content = message["role"], message["content"]
            if role == "assistant":
                writer.answer(i, message, keep_thought=not mask_history or (i == last and not generate))
            elif role == "tool":
                while rest and rest[0][1]["role"] == "tool":
                    content += RESULTS + rest.pop(0)[1]["content"]
                writer.tool(content)
            elif role in ("user", "system"):
                getattr(writer, role)(content)
            else:
                raise UserError(f"template {self.name} has no slot for role {role!r} (turn {i}); use another template")
        writer.end(generate, last)
        return writer.out

    def body(self, message: Message, drop_thought: bool = False) -> str:
        """Reasoning and content of an assistant turn. `drop_thought`: without thoughts."""
        text = message["content"]
        if "reasoning" in message:
            text = self.thought[0] + message["reasoning"] + self.thought[1] + text
        if drop_thought:
            begin, end = map(re.escape, self.thought)
            text = re.sub(f"{begin}.*?{end}", "", text, flags=re.DOTALL).lstrip("\n")
        return text

    def reply(self, message: Message, drop_thought: bool = False) -> str:
        """The content of an assistant turn's slot: its body and its tool calls."""
        text = self.body(message, drop_thought)
        if "calls" not in message:
            return text
        between = "\n" if message["content"].strip() and not text.endswith("\n") else ""
        return text + between + TOOL_FORMATS[self.tools].call(json.loads(message["calls"]))

    def thoughtless(self, message: Message, drop_thought: bool) -> bool:
        """Whether an assistant turn gets an empty thought because it has none."""
        whole = self.body(message, drop_thought) + message.get("calls", "")
        return self.reasoning and all(word.strip() not in whole for word in self.thought)

    @property
    def nothing_thought(self) -> str:
        return "".join(self.thought) if self.empty_thought is None else self.empty_thought

    @property
    def jinja(self) -> str:
        """The template in Jinja, for a tokenizer's chat_template."""
        return jinja_of(self)


class _Writer:
    """The pieces of one chat, written from the first message to the last."""

    def __init__(self, template: Template, bos: str, eos: str, thinking: bool | None):
        self.template, self.thinking, self.special = template, thinking, {BOS: bos, EOS: eos}
        self.out: list[Piece] = []
        self.opening = (template.opening, False)  # opening of the next answer; whether it continues the last piece
        self.fused = ""  # system text that the next user turn begins with
        self.ended = False  # an answer ended here (efficient_eos)

    def head(self, tools: str, system: str) -> None:
        self._slot(self.template.prefix)
        if tools or system:
            self.system(system + TOOL_FORMATS[self.template.tools].described(tools))

    def system(self, content: str) -> None:
        if self.template.fused_system:
            self.fused += self.template.system.replace(CONTENT, content, 1)
        else:
            self._slot(self.template.system, content)
            self.opening = (self.template.opening, False)

    def user(self, content: str) -> None:
        self._prompt(self.template.user, self.fused + content, self.template.opening)
        self.fused = ""

    def tool(self, content: str) -> None:
        self.flush()
        template = self.template
        opening = template.opening if template.tool_opening is None else template.tool_opening
        self._prompt(template.user if template.tool is None else template.tool, content, opening)

    def answer(self, i: int, message: Message, keep_thought: bool) -> None:
        self.open()
        template, drop = self.template, self.template.reasoning and (self.thinking is False or not keep_thought)
        if keep_thought and template.thoughtless(message, drop):
            self._add(template.nothing_thought, i if self.thinking else None)
        slot = template.calls if "calls" in message and template.calls is not None else template.assistant
        self._slot(slot, template.reply(message, drop), i)
        self.opening, self.ended = (template.opening, False), template.efficient_eos

    def flush(self) -> None:
        """Write a user turn with the system text alone, if no user turn follows that could include it."""
        if self.fused:
            self.user("")

    def open(self) -> None:
        self.flush()
        opening, continues = self.opening
        for i, part in enumerate(elements(opening)):
            if i == 0 and continues and part not in self.special:
                self.out[-1] = self.out[-1]._replace(text=self.out[-1].text + part)
            else:
                self._add(self.special.get(part, part))

    def end(self, generate: bool, last: int) -> None:
        if generate:
            self.open()
            if self.template.reasoning and not self.thinking:
                self._add(self.template.nothing_thought)
        else:
            self.flush()
            if self.ended:
                self._add(self.special[EOS], last)

    def _prompt(self, slot: str, content: str, opening: str) -> None:
        before = len(self.out)
        self._slot(slot, content)
        self.opening = (opening, len(self.out) > before and elements(slot)[-1] not in self.special)

    def _slot(self, slot: str, content: str = "", answer: int | None = None) -> None:
        for part in elements(slot):
            self._add(self.special[part] if part in self.special else part.replace(CONTENT, content, 1), answer)

    def _add(self, text: str, answer: int | None = None) -> None:
        if text:
            ends = self.ended and answer is None
            self.out.append(Piece(text, answer, self.special[EOS] if ends else ""))
            self.ended = self.ended and not ends
