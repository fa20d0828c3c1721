"""Numbers in letters, up to millions: "two hundred and five", "a dozen"."""

import re
from fractions import Fraction

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
VALUES = {word: value for value, word in enumerate(SMALL)} | {word: 20 + 10 * n for n, word in enumerate(TENS)}
FACTORS = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6}

BELOW_100 = rf"(?:(?:{'|'.join(TENS)})(?:[- ](?:{'|'.join(SMALL[1:10])}))?\b|(?:{'|'.join(SMALL)})\b)"
BELOW_1000 = rf"(?:(?:{BELOW_100}|an?)[- ]hundred(?:,?(?: and)?[- ]{BELOW_100})?|{BELOW_100})"
BELOW_MILLION = rf"(?:(?:{BELOW_1000}|a)[- ]thousand(?:,?(?: and)? {BELOW_1000})?|{BELOW_1000})"
ANY = (
    rf"(?:(?:{BELOW_1000}|a) million(?:,?(?: and)? {BELOW_MILLION})?"
    rf"|(?:{BELOW_100}|a)[- ]dozen|half a dozen|{BELOW_MILLION})"
)
# a part, an ordinal, a pronoun ("one of them") and a number that goes on are none
PART = (
    r"(?!\w|[- ]?(?:hundred|thousand|million|billion|trillion|dozen|half|halves|thirds?|quarters?|of\b|\w*ths?\b)"
    r"| and (?:a|one|three|two)[- ](?:half|third|quarter)|s? of\b| point \w)"
)
SPELLED = re.compile(rf"\b(?:(minus|negative) )?(?=(?P<said>{ANY}))(?P=said){PART}", re.IGNORECASE)
# words that point at things already mentioned, or name one of a row: "the two", "day one"
POINTS = re.compile(
    r"\b(?:the|these|those|other|another|last|first|next|both|any|no|each|every|this|that|which|step|day|week|part|"
    r"question|option|case|number|of) $",
    re.IGNORECASE,
)


def value(words: str) -> int:
    """Of a number in letters."""
    if words.lower() == "half a dozen":
        return 6
    whole = part = 0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word in VALUES:
            part += VALUES[word]
        elif word in ("hundred", "dozen"):
            part = max(part, 1) * FACTORS[word]
        elif word in FACTORS:
            whole, part = whole + max(part, 1) * FACTORS[word], 0
    return whole + part


def spelled(text: str) -> Fraction | None:
    """The number that a text begins with in letters."""
    match = SPELLED.match(text, re.match(r"[\W_]*", text).end())
    return None if match is None else Fraction(value(match["said"]) * (-1 if match[1] else 1))


def in_digits(text: str) -> str:
    """A text whose numbers in letters stand in digits, without a lone "one" and those that point at something."""

    def digits(match: re.Match) -> str:
        if match["said"].lower() == "one" or POINTS.search(text[max(0, match.start() - 12) : match.start()]):
            return match[0]
        return f"{'-' if match[1] else ''}{value(match['said'])}"

    return SPELLED.sub(digits, text)
