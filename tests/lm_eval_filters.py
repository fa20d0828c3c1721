"""What lm-eval 0.4.13 extracts from an answer to GSM8K and MMLU, for comparison with near's graders.

Published constants: the `filter_list` and `metric_list` of lm_eval/tasks/gsm8k/gsm8k.yaml (version 3.0),
lm_eval/tasks/mmlu/flan_cot_zeroshot/_mmlu_flan_cot_zeroshot_template_yaml (3.0) and
lm_eval/tasks/mmlu/generative/_default_template_yaml (3.0) of the wheel lm_eval-0.4.13; its filters `regex` and
`multi_choice_regex` and its metric `exact_match` are implemented here again.
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
MMLU_LETTER = re.compile(r":[\s]*(A|B|C|D)")  # if the flexible pattern and the text of an option do not match


def _generated(text: str) -> str:
    ends = [position for stop in STOPS if (position := text.find(stop)) > 0]
    return text[: min(ends)] if ends else text


def gsm8k_strict(text: str) -> str:
    match = GSM8K_STRICT.search(_generated(text))
    return "" if match is None else _ignored(match[1])


def gsm8k_flexible(text: str) -> str:
    matches = GSM8K_FLEXIBLE.findall(_generated(text))
    return _ignored(next(filter(None, matches[-1]))) if matches else ""


def _ignored(text: str) -> str:
    for pattern in GSM8K_IGNORED:
        text = re.sub(pattern, "", text.strip())
    return text


def mmlu_strict(text: str) -> str:
    match = MMLU_STRICT.search(text)
    return "" if match is None else _letter(next(filter(None, match.groups()), ""))


def mmlu_flexible(text: str) -> str:
    matches = MMLU_FLEXIBLE.findall(text) or MMLU_LETTER.findall(text)
    return _letter(matches[-1]) if matches else ""


def mmlu_generative(text: str) -> str:
    return _letter(text.split("\n")[0].strip())


def _letter(text: str) -> str:
    """As exact_match compares with "(B)": without case and punctuation."""
    return text.translate(str.maketrans("", "", string.punctuation)).strip().upper()
