"""ShareGPT's chats: names of keys and roles, and what LLaMA-Factory makes of them in entries of a dataset_info.json."""

from collections.abc import Mapping

from near.data.formats.turns import Fault, Message, Turns

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}
TAG_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "function_tag": "assistant",
    "observation_tag": "tool",
    "system_tag": "system",
}
LISTED = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
LISTED |= {"observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}
NOT_THINKING = "detailed thinking off"  # what LLaMA-Factory's `formatting: openai` adds to a row's system text


def sharegpt_turns(tags: Mapping[str, str], entry: str | None) -> Turns:
    """How the turns are written. `entry` is as in formats.Form: under an entry of a dataset_info.json the roles are
    those of its `tags` and no others, or LLaMA-Factory's where it has none."""
    tags = tags or (LISTED if entry else {})
    named = {tags[tag]: role for tag, role in TAG_ROLES.items() if tag in tags}
    left = {} if entry else {n: r for n, r in SHAREGPT_ROLES.items() if not named or r not in named.values()}
    calling = tags.get("function_tag", "function_call")
    keys = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    return Turns(*keys, {**left, **named}, frozenset({calling}), strict=bool(entry))


def check_order(messages: list[Message], column: str, joins: bool) -> None:
    """Fault where LLaMA-Factory leaves a row out: questions and answers have to take turns. `joins`: results of tools
    that follow each other are one turn."""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    expects_question = True
    for i, turn in enumerate(turns):
        if joins and turn["role"] == "tool" and i and turns[i - 1]["role"] == "tool":
            continue
        if turn["role"] not in (("user", "tool") if expects_question else ("assistant",)):
            where = f"{column}[{i + len(messages) - len(turns)}]"
            raise Fault(
                where, f"is of the {turn['role']} where {'a question' if expects_question else 'an answer'} has to come"
            )
        expects_question = not expects_question


def openai_system(system: str, tools: bool) -> str:
    """The system text as LLaMA-Factory's OpenAI converter leaves it."""
    if tools:
        return system and f"{system}\n"
    if "detailed thinking on" in system or NOT_THINKING in system:
        return system
    return f"{system}\n{NOT_THINKING}" if system else NOT_THINKING
