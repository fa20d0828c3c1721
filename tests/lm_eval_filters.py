"""What lm-eval 0.4.13 takes out of an answer to GSM8K and MMLU, for comparison with our graders.

Published constants: the `filter_list` and `metric_list` of lm_eval/tasks/gsm8k/gsm8k.yaml (version 3.0),
lm_eval/tasks/mmlu/flan_cot_zeroshot/_mmlu_flan_cot_zeroshot_template_yaml (3.0) and
lm_eval/tasks/mmlu/generative/_default_template_yaml (3.0) of the wheel lm_eval-0.4.13; what its filters `regex` and
`multi_choice_regex` and its metric `exact_match` do with them is written down here in our own words.
"""

import re
import string

STOPS = ("Question:", "</s>", "<|im_end|>")  # generation ends there
GSM8K_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
GSM8K_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")  # the last match
GSM8K_IGNORED = (r",", r"\$", r"(?s).*#### ", r"\.$")
MMLU_STRICT = re.compile(
    r"((?<=The answer is )(.*)(?=.)|(?<=answer is )(.*)(?=.)"
    r"|(?<=The answer: )(.*)(?=.)|(?<=The final answer: )(.*)(?=.))"
)
MMLU_FLEXIBLE = re.compile(r"(\([A-Z]\))")  # the last match
MMLU_LETTER = re.compile(r":[\s]*(A|B|C|D)")  # where the flexible one finds none, nor the text of an option


def _generated(text: str) -> str:
    ends = [place for stop in STOPS if (place := text.find(stop)) > 0]
    return text[: min(ends)] if ends else text


def gsm8k_strict(text: str) -> str:
    found = GSM8K_STRICT.search(_generated(text))
    return "" if found is None else _ignored(found[1])


def gsm8k_flexible(text: str) -> str:
    found = GSM8K_FLEXIBLE.findall(_generated(text))
    return _ignored(next(filter(None, found[-1]))) if found else ""


def _ignored(text: str) -> str:
    for pattern in GSM8K_IGNORED:
        text = re.sub(pattern, "", text.strip())
    return text


def mmlu_strict(text: str) -> str:
    found = MMLU_STRICT.search(text)
    return "" if found is None else _letter(next(filter(None, found.groups()), ""))


def mmlu_flexible(text: str) -> str:
    found = MMLU_FLEXIBLE.findall(text) or MMLU_LETTER.findall(text)
    return _letter(found[-1]) if found else ""


def mmlu_generative(text: str) -> str:
    return _letter(text.split("\n")[0].strip())


def _letter(text: str) -> str:
    """As exact_match compares with "(B)": without case and punctuation."""
    return text.translate(str.maketrans("", "", string.punctuation)).strip().upper()
