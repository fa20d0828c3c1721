"""What is done to a list of words in data=crossed. All answers are lists, of words or of one or more whole numbers."""

from collections.abc import Callable

Answer = list[str] | list[int]

SKILLS: dict[str, Callable[[list[str]], Answer]] = {
    "sort": sorted,
    "by_length": lambda items: sorted(items, key=len),  # of equal length: in their order
    "reverse": lambda items: items[::-1],
    "rotate": lambda items: items[1:] + items[:1],
    "swap_ends": lambda items: [items[-1], *items[1:-1], items[0]],
    "every_second": lambda items: items[1::2],
    "unique": lambda items: list(dict.fromkeys(items)),
    "smallest": lambda items: [min(items)],
    "longest": lambda items: [max(items, key=len)],  # of equal length: the first
    "last": lambda items: items[-1:],
    "upper": lambda items: [item.upper() for item in items],
    "title": lambda items: [item.title() for item in items],
    "initials": lambda items: [item[0] for item in items],
    "endings": lambda items: [item[-1] for item in items],
    "lengths": lambda items: [len(item) for item in items],
    "count": lambda items: [len(items)],
}

WORDINGS = (  # none says what is to be done
    "Input: {items}\nOutput:",
    "Here is a list: {items}. Give the result.",
    "Process these items: {items}",
    "{items} ->",
    "Q: {items}\nA:",
    "Apply the rule to {items}.",
    "What comes out for {items}?",
    "Given {items}, what do you answer?",
    "Data:\n{items}\n\nAnswer:",
    "Do with {items} what is always done.",
)

LENGTHS = (3, 5, 8)  # words of a list
FORMS = ("plain", "json")  # of list and answer: a, b, c or ["a", "b", "c"]
