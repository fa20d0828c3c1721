"""The format of a source's rows, detected from their columns, and informative columns that are not read."""

import re
from collections.abc import Iterable, Mapping

from near.common.errors import UserError, did_you_mean
from near.data.formats.formats import FORMATS, OTHER_NAMES, Form, fields_of

CHATS = ("messages", "sharegpt")
PROMPTED = "prompt_completion"  # whose answer may be turns
# Columns without information for a model: ids, ranks, scores, hashes.
UNINFORMATIVE = re.compile(
    r"(.*[_\-. ])?(id|ids|idx|index|uuid|guid|hash|sha256|md5|score|scores|rank|nearest_query)"
    r"|.*(Id|ID)|__.*__|unnamed: ?\d+",
)

UNINFORMATIVE_IN_TURN = re.compile(r"name|role|from|type|(.*_)?(time|timestamp|date|created|created_at|updated_at)")
PREFERENCES = {"chosen", "rejected"}


def decide(format: str, columns: Mapping[str, str], first: Mapping, where: str, file: str) -> tuple[str, list[str]]:
    """The format of a source, checked against the first row's columns.

    "auto" takes a format whose required columns all exist: of several a chat, then the one with most columns, then the
    first of FORMATS. If none is complete, as for rows without answers, a format whose prompt column exists.

    Args:
        format: "auto" or a key of FORMATS.
        columns: fields to column names, as configured.
        first: the first row.
        where: the source's dotted key.
        file: its path; both for error messages.

    Returns:
        The format's name, and the names of other formats that fit as well.

    Raises:
        UserError: an unknown key in `columns`, a missing prompt column, or preference data; the columns are listed.
    """
    others: list[str] = []
    if format == "auto":
        format, others = _chosen(columns, first, where, file)
    prompt = FORMATS[format].required[0]
    known = [*fields_of(format), "source"]
    available = shown_columns(first)
    for key, column in columns.items():
        if key not in known:
            raise UserError(
                f"{where}.path={file}: columns.{key} is not a field of {where}.format={format}"
                f"{did_you_mean(key, known)}"
            )
        if column and column not in first and key in (prompt, "source"):
            raise UserError(
                f"{where}.path={file}: no column '{column}' (columns.{key}); {available}; set {where}.columns.{key}, "
                "or data=files for files of your own"
            )
    if columns.get(prompt, prompt) not in first:
        raise UserError(
            f"{where}.path={file}: no column '{prompt}' ({where}.format={format}); {available}; set {where}.format or "
            f"{where}.columns.{prompt}"
        )
    return format, others


def _chosen(columns: Mapping[str, str], first: Mapping, where: str, file: str) -> tuple[str, list[str]]:
    """The best fitting format, and others that fit as well."""
    fields = {key for key in columns if columns[key] in first} | (set(first) - set(columns.values()))
    named = set(columns) - {"source"}
    possible = [n for n in FORMATS if FORMATS[n].required[0] in fields and named <= set(fields_of(n))]
    fits = [n for n in possible if fields >= set(FORMATS[n].required)] or possible
    if PREFERENCES <= first.keys() - set(columns.values()) and not _answers(fits, fields, first, columns):
        raise UserError(
            f"{where}.path={file}: chosen and rejected are preference data, which supervised training can't use; "
            + _chosen_alone(possible, first, where)
        )
    if not fits:
        raise UserError(
            f"{where}.path={file}: no known format fits; {shown_columns(first)}; set {where}.format and {where}.columns"
        )

    def rank(name: str) -> tuple:
        turns = first.get(columns.get(FORMATS[name].required[0], FORMATS[name].required[0]))
        is_chat = name in CHATS and isinstance(turns, list) and bool(turns)
        return is_chat, name != "text", len(fields & set(fields_of(name)))

    best = max(fits, key=rank)
    return best, [name for name in fits if name not in (best, "text")]


def _answers(fits: list[str], fields: set, first: Mapping, columns: Mapping[str, str]) -> bool:
    """Whether one of the formats is complete: all columns exist, or it is a chat that ends with an answer."""
    for name in fits:
        prompt = FORMATS[name].required[0]
        turns = first.get(columns.get(prompt, prompt))
        if name in CHATS and isinstance(turns, list) and turns and isinstance(turns[-1], Mapping):
            if not {"user", "human"} & {str(turns[-1].get("role")), str(turns[-1].get("from"))}:
                return True
        elif fields >= set(FORMATS[name].required):
            return True
    return False


def _chosen_alone(possible: list[str], first: Mapping, where: str) -> str:
    """The fix for preference data: how to train on the chosen answers alone."""
    chosen, turn = first["chosen"], None
    if isinstance(chosen, list) and chosen and isinstance(chosen[0], Mapping):
        turn = str(chosen[0].get("role", chosen[0].get("from")))
    prompts = [name for name in possible if len(FORMATS[name].required) > 1 and (turn is None or name == PROMPTED)]
    if turn in ("system", "user", "human"):  # the whole conversation
        key = "messages" if "role" in chosen[0] else "conversations"
    elif prompts and (turn is not None or isinstance(chosen, str)):
        key = FORMATS[prompts[0]].required[1]
    elif isinstance(chosen, str) and not possible:
        key = "text"
    else:
        return "write the chosen answer as the last turn of each row"
    return f"to train on the chosen answers set {where}.columns.{key}=chosen"


def shown_columns(row: Iterable) -> str:
    return f"its columns: {', '.join(map(str, row)) or 'none'}"


def read_columns(form: Form, names: Iterable[str]) -> list[str]:
    """The columns among `names` that contain a field of the format."""
    if form.entry:
        columns = set(form.columns.values())
    else:
        columns = set(form.columns.values()) | {f for f in fields_of(form.format) if f not in form.columns}
        for field, others in OTHER_NAMES.items():
            if field in fields_of(form.format) and field not in form.columns:
                columns |= set(others)
    return [name for name in names if name in columns]


def is_informative(column: str) -> bool:
    """Whether a column may contain more than an id, a rank or a score, judged by its name."""
    return not UNINFORMATIVE.fullmatch(str(column))


def is_informative_in_turn(key: str) -> bool:
    """The same for a key of a turn, where speakers and times are uninformative, too."""
    return is_informative(key) and not UNINFORMATIVE_IN_TURN.fullmatch(key)
