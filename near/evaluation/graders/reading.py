"""Which part of an answer states its result, for the graders that look for a letter or a number in it."""

import re

# a line by which a model that was not stopped asks itself the next question; lm-eval stops generation at the same words
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
    """An answer without its thinking: what follows </think>; of one cut short while thinking, what came before."""
    for name in ("think", "thinking"):
        text = text.rpartition(f"</{name}>")[2].partition(f"<{name}>")[0]
    return text


def first_answer(text: str) -> str:
    """What comes before a question that the model asks itself after its answer; all of it where there is none."""
    for match in NEXT_QUESTION.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def corrected(text: str) -> str | None:
    """What follows the last correction ("no, actually ..."); None where nothing is corrected."""
    ends = [match.end() for match in CORRECTION.finditer(text)]
    return text[ends[-1] :] if ends else None


CHECK = r"(?:(?:to |we can |let['’]?s |let us |double[- ]?|quick )*(?:check|verify|verification)(?:ing| it| this)?)"
REMARK = re.compile(  # a line behind the result that explains it, or a sentence that checks it
    rf"^[ \t*#_]*(?:note|explanation|reason(?:ing)?|justification|{CHECK}|解释|说明|注)[ *_]*[:：]"
    rf"|(?:(?<=[.!;✓✔✅]) |(?<=[\w.!;%]) ?[(\[]){CHECK}(?: ?[:：]|,? (?=[\d($]))",
    re.IGNORECASE | re.MULTILINE,
)


def before_remark(text: str) -> str:
    """What comes before a line that explains the result; all of it where there is none, or nothing before it."""
    for match in REMARK.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


BRACES = re.compile(r"\\(f?box(?:ed)?) ?(?=\{)|\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[tuple[int, str]]:
    """Where each \\boxed{...} or \\fbox{...} begins and what it holds, in order; one cut short reaches to the end."""
    stack: list[tuple[int, int] | None] = []  # open braces: of a box its start and that of its content
    found, box = [], None
    for match in BRACES.finditer(text):
        if match[1]:
            box = match.start()
        elif match[0] == "{":
            stack.append(None if box is None else (box, match.end()))
            box = None
        elif match[0] == "}" and stack and (opened := stack.pop()) is not None:
            found.append((opened[0], text[opened[1] : match.start()]))
    cut = next((opened for opened in stack if opened is not None), None)
    if cut is not None:
        found.append((cut[0], text[cut[1] :]))
    return sorted(found)
