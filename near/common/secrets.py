"""Keeps secrets and values of environment variables out of files and logs.

Put secrets into environment variables and refer to them in the configuration (`${oc.env:HF_TOKEN}`); what is written of
the configuration contains the reference.
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
# names of tokens of text, which are no secrets
OF_TEXT = re.compile(
    r"(^|_)(eos|bos|pad|unk|mask|sep|cls|image|video|audio|special|stop|end|start|begin|eot|eom|boi|eoi|next|first"
    r"|last|tool|think|system|user|assistant|added|new|skip|prompt|placeholder|per)_token$"
)
# keys whose last part is the user's: columns, labels, sets, and paths into a .json file
NAMES = re.compile(
    r"data\.((candidates|queries|eval|(more_eval|decontaminate\.benchmarks)\.[^.]+)"
    r"\.(key|(columns|filter|tags|path)\.[^.]+)|(more_eval|decontaminate\.benchmarks)\.[^.]+)"
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
SHELLS = {"PWD"}  # variables of every shell that only look like a secret's: here the working directory
LEAST = 8  # characters; shorter values are not removed from texts

PLAIN_REFERENCE = re.compile(r"""\$\{\s*oc\.env:\s*\w+\s*(,\s*(null|''|"")?\s*)?\}""")  # without a default value

_names: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("names", default=None)
_read: dict[str, str] = {}  # environment variables that this process resolved


def environment(*args: object) -> object:
    """OmegaConf's resolver `oc.env`; records the variables that are read."""
    name = str(args[0])
    if (names := _names.get()) is not None:
        names.add(name)
    if name in os.environ:
        _read[name] = os.environ[name]
    return oc.env(*args)


@contextlib.contextmanager
def watched() -> Iterator[set[str]]:
    """Yield a set that collects the names of environment variables resolved in the block."""
    before, names = _names.get(), set()
    token = _names.set(names)
    try:
        yield names
    finally:
        _names.reset(token)
        if before is not None:
            before |= names


def is_secret(key: str) -> bool:
    """Whether the name `key` (a dotted key or a variable) means that its value is a secret."""
    if NAMES.fullmatch(key):
        return False
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.rpartition(".")[2])
    name = re.sub(r"[\W_]+", "_", name).lower()
    return bool(SECRET.search(name)) or bool(TOKEN.search(name)) and not OF_TEXT.search(name)


def has_secret(text: str) -> bool:
    """Whether `text` contains something that has the form of a secret."""
    return any(form.search(text) for form in (FORMS, PASSWORD, QUERY))


def faults(node: object, path: str = "", key: str = "") -> list[str]:
    """Error lines for literal secrets in a configuration, which would end up in files and folder names.

    Args:
        node: a configuration or plain values.
        path: its dotted key.
        key: the same without list indices.
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
        return [f"{path} holds a password; put it into an environment variable, or remove it from the URL"]
    name = key.rpartition(".")[2]
    by_name = is_secret(key) and bool(text) and not re.match(r"\$\{(?!\s*oc\.env)|<|\[", text)
    if by_name or FORMS.search(text) or HEX.fullmatch(text) and not COMMIT.search(name):
        return [f"{path} is a literal secret; put it into an environment variable: {path}='${{oc.env:NAME}}'"]
    return []


def check_words(words: Sequence[str]) -> None:
    """UserError for a command with a literal secret, before Hydra writes the command to files."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    problems = []
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if "=" in word and not word.startswith("-"):
            with contextlib.suppress(HydraException):  # Hydra reports it better
                override = OverridesParser.create().parse_override(word)
                values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
                name = override.key_or_group
                problems += dict.fromkeys(fault for value in values for fault in faults(value, name, name))
                continue
        if has_secret(word):
            name = key if key != word else "the command"
            problems.append(f"{name} holds a secret; put it into an environment variable: '${{oc.env:NAME}}'")
    if problems:
        raise UserError(scrub("; ".join(problems)))


def scrub(text: str) -> str:
    """`text` for a terminal or log with secrets masked.

    Secrets are recognised by form, by the key before them, and as values of environment variables that are secret or
    that the configuration refers to.
    """
    for name, value in _values():
        text = text.replace(value, f"${{oc.env:{name}}}")
    text = QUERY.sub(r"\1***", PASSWORD.sub(r"\1***", FORMS.sub("***", text)))
    return WRITTEN.sub(_hidden, text)


def without_values(node: object) -> object:
    """Plain values for a file: values of environment variables become references with 12 hex digits of SHA-256."""
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
    """`raw` with 12 hex digits of the SHA-256 of its value."""
    content = json.dumps(value, sort_keys=True, default=str).encode()
    return f"{raw} ({hashlib.sha256(content).hexdigest()[:12]})"


def _hidden(match: re.Match) -> str:
    key, between = (match[1], match[2]) if match[1] else (match[4], match[5])
    return f"{key}{between}***" if is_secret(key.strip()) else match[0]


def _values() -> list[tuple[str, str]]:
    """Names and values of environment variables to mask, longest values first.

    That is variables named like secrets, and those that were resolved, except for NEAR_*.
    """
    known = {name: value for name, value in os.environ.items() if is_secret(name) and name not in SHELLS}
    known |= {name: value for name, value in _read.items() if not name.startswith("NEAR_")}
    return sorted(((n, v) for n, v in known.items() if len(v) >= LEAST), key=lambda pair: -len(pair[1]))


class Formatter(VisibleFormatter):
    """Log formatter that masks secrets and escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))
