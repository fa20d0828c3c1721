"""Secrets, and what configurations read of the environment: neither is written into files, or shown.

A secret belongs into an environment variable; a configuration refers to it (`${oc.env:HF_TOKEN}`), and what is written
of the configuration holds the reference.
"""

import contextlib
import contextvars
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from near.common.errors import UserError, VisibleFormatter

# the end of a key whose value is a secret; `is_secret` writes keys in this form
SECRET = re.compile(
    r"(^(key|pat|auth)|(^|_)(secrets?|pass(word|wd|phrase)?s?|pwd|credentials?|authorization|webhook_url"
    r"|(api|access|secret|private|auth|account|signing|encryption|license|ssh|wandb|openai|swanlab|hf)_?keys?))$"
)
TOKEN = re.compile(r"(^|_|api|hub|hf|auth|access|bearer|refresh|session|bot)token$")
# what `token` is part of a text by
OF_TEXT = re.compile(
    r"(^|_)(eos|bos|pad|unk|mask|sep|cls|image|video|audio|special|stop|end|start|begin|eot|eom|boi|eoi|next|first"
    r"|last|tool|think|system|user|assistant|added|new|skip|prompt|placeholder|per)_token$"
)
# keys that name columns, labels or sets of the user's, and the names that lead into a .json file
NAMES = re.compile(
    r"data\.((candidates|queries|eval|more_eval\.[^.]+)\.(key|(columns|filter|tags|path)\.[^.]+)|more_eval\.[^.]+)"
)
FORMS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bsk-[A-Za-z0-9_-]{16,}|\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"  # OpenAI, Anthropic and others; Stripe
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|\bxox[abeoprs]-[\w-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|AIza[\w-]{30,}|wandb_v\d_\w{20,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|\b(?:Bearer|Basic)\s+[\w.~+/=-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
)
HEX = re.compile(r"(?:local-)?[0-9a-f]{40}")  # W&B's older keys; a commit looks the same
COMMIT = re.compile(r"(^|_)(revision|commit|sha|sha1|hash|digest|ref|version)$")
PASSWORD = re.compile(r"(://[^\s/:@]*:)(?!\d+(?:/|$))([^\s@]+)(?=@)")
QUERY = re.compile(
    r"([?&;#](?:[\w-]*token|[\w-]*api_?key|key|password|passwd|pwd|secret|sig|[\w-]*signature|[\w-]*credential)=)([^&;\s'\"#]+)",
    re.IGNORECASE,
)
# a key and its value in a text: `a.token=b`, `"token": "b"`, `{token: b}`
VALUE = r"""((?!\$\{|\.\.\.|NAME|value\b|\*\*\*)[^\s'",;&{}\[\])]+)"""
WRITTEN = re.compile(rf"""((?<![\w.-])[\w.-]*\w)(=['"]?|['"]\s*:\s*['"]?){VALUE}|(?<=[{{,])(\s*\w+)(\s*:\s*){VALUE}""")
LEAST = 8  # characters of a value that is taken out of texts

PLAIN_REFERENCE = re.compile(r"""\$\{\s*oc\.env:\s*\w+\s*(,\s*(null|''|"")?\s*)?\}""")  # without a value of its own

_names: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("names", default=None)
_read: dict[str, str] = {}  # variables that were referred to in this process


def environment(*args: object) -> object:
    """OmegaConf's `oc.env`, which notes what is read."""
    name = str(args[0])
    if (names := _names.get()) is not None:
        names.add(name)
    if name in os.environ:
        _read[name] = os.environ[name]
    return oc.env(*args)


@contextlib.contextmanager
def watched() -> Iterator[set[str]]:
    """Yield the names of the environment's variables that are referred to while the block runs."""
    before, names = _names.get(), set()
    token = _names.set(names)
    try:
        yield names
    finally:
        _names.reset(token)
        if before is not None:
            before |= names


def is_secret(key: str) -> bool:
    """Whether the value of `key`, a dotted key or a variable's name, is a secret by that name."""
    if NAMES.fullmatch(key):
        return False
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.rpartition(".")[2])
    name = re.sub(r"[\W_]+", "_", name).lower()
    return bool(SECRET.search(name)) or bool(TOKEN.search(name)) and not OF_TEXT.search(name)


def has_secret(text: str) -> bool:
    """Whether `text` holds a secret by its form."""
    return any(form.search(text) for form in (FORMS, PASSWORD, QUERY))


def faults(node: object, path: str = "", key: str = "") -> list[str]:
    """Secrets that are written out in a configuration: they would end up in files and folder names.

    `node`: a configuration or plain values; `path`: its dotted key, `key`: the same without the places in lists.
    """
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, dict):
        pairs = [(v, f"{path}.{k}" if path else str(k), f"{key}.{k}" if key else str(k)) for k, v in node.items()]
        return [fault for pair in pairs for fault in faults(*pair)]
    if isinstance(node, list | tuple):
        return [fault for i, value in enumerate(node) for fault in faults(value, f"{path}.{i}", key)]
    if node is None or isinstance(node, bool) or node in ("", "???"):
        return []
    text = PLAIN_REFERENCE.sub("", str(node))
    if PASSWORD.search(text) or QUERY.search(text):
        return [f"{path} holds a password; put it into the environment, or leave it out of the address"]
    name = key.rpartition(".")[2]
    by_name = is_secret(key) and bool(text) and not re.match(r"\$\{(?!\s*oc\.env)|<|\[", text)
    if by_name or FORMS.search(text) or HEX.fullmatch(text) and not COMMIT.search(name):
        return [f"{path} is a secret written out; put it into the environment: {path}='${{oc.env:NAME}}'"]
    return []


def check_words(words: Sequence[str]) -> None:
    """UserError for the words of a command that write out a secret: before Hydra writes them into files."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    problems = []
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if "=" in word and not word.startswith("-"):
            with contextlib.suppress(HydraException):  # which Hydra tells better
                override = OverridesParser.create().parse_override(word)
                values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
                name = override.key_or_group
                problems += dict.fromkeys(fault for value in values for fault in faults(value, name, name))
                continue
        if has_secret(word):
            name = key if key != word else "the command"
            problems.append(f"{name} holds a secret; put it into the environment: '${{oc.env:NAME}}'")
    if problems:
        raise UserError(scrub("; ".join(problems)))


def scrub(text: str) -> str:
    """`text` for a terminal or a log, without secrets: by their form, by the key before them, and the values of
    variables that hold one or that a configuration refers to."""
    for name, value in _values():
        text = text.replace(value, f"${{oc.env:{name}}}")
    text = QUERY.sub(r"\1***", PASSWORD.sub(r"\1***", FORMS.sub("***", text)))
    return WRITTEN.sub(_hidden, text)


def without_values(node: object) -> object:
    """Plain values for a file: texts in them that were read from the environment as references, with 12 digits of the
    value's SHA-256."""
    if isinstance(node, dict):
        return {key: without_values(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [without_values(value) for value in node]
    if isinstance(node, str):
        for name, value in _values():
            if value in node:
                node = node.replace(value, reference(f"${{oc.env:{name}}}", value))
    return node


def reference(raw: str, value: object) -> str:
    """`raw`, and what tells one value of it from another."""
    content = json.dumps(value, sort_keys=True, default=str).encode()
    return f"{raw} ({hashlib.sha256(content).hexdigest()[:12]})"


def _hidden(match: re.Match) -> str:
    key, between = (match[1], match[2]) if match[1] else (match[4], match[5])
    return f"{key}{between}***" if is_secret(key.strip()) else match[0]


def _values() -> list[tuple[str, str]]:
    """What is not shown of the environment, the longest first: variables named like secrets, and those that were
    referred to but for the project's own."""
    known = {name: value for name, value in os.environ.items() if is_secret(name)}
    known |= {name: value for name, value in _read.items() if not name.startswith("NEAR_")}
    return sorted(((n, v) for n, v in known.items() if len(v) >= LEAST), key=lambda pair: -len(pair[1]))


class Formatter(VisibleFormatter):
    """Log lines without secrets, and without what steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))
