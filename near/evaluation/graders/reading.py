"""Which part of an answer states its result; for the graders of letters and numbers."""

import re

# a line with which a model asks itself another question; lm-eval stops generation at the same words
NEXT_QUESTION = re.compile(
    r"^[ \t]*(?:#{1,6} ?)?(?:\*\*)?(?:(?:question|problem|instruction|user|human)(?: ?\d+)?|q|"
    r"问题|题目) ?(?:\*\*)?[:：]|^the following (?:is|are)\b",
    re.MULTILINE | re.IGNORECASE,
)
CORRECTION = re.compile(
    r"(?:^|(?<=[\s.!?…;,:—–-]))(?:no(?=[,.!;:…—-]| wait| actually| sorry| it)|wait|actually|sorry|oops|hold on|hmm+|"
    r"correction|scratch that|on second thoughts?|let me (?:correct|reconsider|re-?check|redo|revise)|"
    r"i (?:was wrong|mean|meant|misread|take that back)|i made an? (?:mistake|error)|不对|等等|更正|抱歉)(?![a-z])",
    re.IGNORECASE,
)


def spoken(text: str) -> str:
    """An answer without its thinking: the text after </think>; if thinking was cut short, the text before <think>."""
    for name in ("think", "thinking"):
        text = text.rpartition(f"</{name}>")[2].partition(f"<{name}>")[0]
    return text


def first_answer(text: str) -> str:
    """The text before a question that the model asks itself after its answer; all of it if there is none."""
    for match in NEXT_QUESTION.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def corrected(text: str) -> str | None:
    """The text after the last correction ("no, actually ..."); None if there is none."""
    ends = [match.end() for match in CORRECTION.finditer(text)]
    return text[ends[-1] :] if ends else None


CHECK = r"(?:(?:to |we can |let['’]?s |let us |double[- ]?|quick )*(?:check|verify|verification)(?:ing| it| this)?)"
REMARK = re.compile(  # a line behind the result that explains it, or a sentence that checks it
    rf"^[ \t*#_]*(?:note|explanation|reason(?:ing)?|justification|{CHECK}|解释|说明|注)[ *_]*[:：]"
    rf"|(?:(?<=[.!;✓✔✅]) |(?<=[\w.!;%]) ?[(\[]){CHECK}(?: ?[:：]|,? (?=[\d($]))",
    re.IGNORECASE | re.MULTILINE,
)


def before_remark(text: str) -> str:
    """The text before a line that explains the result; all of it if there is none, or nothing before it."""
    for match in REMARK.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


BRACES = re.compile(r"\\(f?box(?:ed)?) ?(?=\{)|\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[tuple[int, str]]:
    """Start and content of each \\boxed{...} or \\fbox{...}, in order; one that is cut short reaches to the end."""
    stack: list[tuple[int, int] | None] = []  # open braces: of a box its start and that of its content
    contents, box = [], None
    for match in BRACES.finditer(text):
        if match[1]:
            box = match.start()
        elif match[0] == "{":
            stack.append(None if box is None else (box, match.end()))
            box = None
        elif match[0] == "}" and stack and (opened := stack.pop()) is not None:
            contents.append((opened[0], text[opened[1] : match.start()]))
    cut = next((opened for opened in stack if opened is not None), None)
    if cut is not None:
        contents.append((cut[0], text[cut[1] :]))
    return sorted(contents)
