"""ShareGPT chats: names of keys and roles, and LLaMA-Factory's rules for entries of a dataset_info.json."""

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
    """The names of keys and roles in turns.

    Args:
        tags: LLaMA-Factory's names (role_tag, user_tag, ...) to those of the source.
        entry: see formats.Form. With an entry only the roles in `tags` are known, or LLaMA-Factory's if there are none.
    """
    tags = tags or (LISTED if entry else {})
    named = {tags[tag]: role for tag, role in TAG_ROLES.items() if tag in tags}
    left = {} if entry else {n: r for n, r in SHAREGPT_ROLES.items() if not named or r not in named.values()}
    calling = tags.get("function_tag", "function_call")
    keys = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    return Turns(*keys, {**left, **named}, frozenset({calling}), strict=bool(entry))


def check_order(messages: list[Message], column: str, joins: bool) -> None:
    """Fault if questions and answers do not alternate; LLaMA-Factory leaves such rows out.

    `joins`: consecutive tool results count as one turn.
    """
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    expects_question = True
    for i, turn in enumerate(turns):
        if joins and turn["role"] == "tool" and i and turns[i - 1]["role"] == "tool":
            continue
        if turn["role"] not in (("user", "tool") if expects_question else ("assistant",)):
            where = f"{column}[{i + len(messages) - len(turns)}]"
            raise Fault(where, f"has role {turn['role']}, expected {'a question' if expects_question else 'an answer'}")
        expects_question = not expects_question


def openai_system(system: str, tools: bool) -> str:
    """The system text as LLaMA-Factory's OpenAI converter leaves it."""
    if tools:
        return system and f"{system}\n"
    if "detailed thinking on" in system or NOT_THINKING in system:
        return system
    return f"{system}\n{NOT_THINKING}" if system else NOT_THINKING
