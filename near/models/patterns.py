"""Checks the patterns of an adapter_config.json: regular expressions that peft matches with a model's module names.

Matching may never end, so the patterns are tried first in a process with limited time.
"""

import re
from collections.abc import Iterable

from near.common.bounded import Bounded, Overrun
from near.common.errors import UserError

SECONDS = 2  # of processor time, for all names
PLAIN = re.compile(r"[\w.-]*")


def check_patterns(path: object, config: dict, names: Iterable[str]) -> None:
    """UserError for a pattern that is invalid or takes too long to match, and for a module to import.

    Args:
        path: the adapter's folder, for error messages.
        config: its adapter_config.json.
        names: the model's module names.
    """
    if config.get("megatron_config"):
        raise UserError(f"{path}/adapter_config.json sets megatron_config, which imports a module; remove it")
    patterns = list(_patterns(config))
    if not patterns:
        return
    try:
        fault = Bounded(_match, SECONDS).ask([patterns, list(names)])
    except Overrun as error:
        listed = ", ".join(dict.fromkeys(key for key, _, _ in patterns))
        raise UserError(f"{path}/adapter_config.json: {error} to match {listed} with the model's parts") from error
    if fault is not None:
        raise UserError(f"{path}/adapter_config.json: {fault}")


def _patterns(config: dict) -> Iterable[tuple[str, str, str]]:
    """Key, pattern and peft's whole expression, for every pattern that is not a plain name."""
    forms = {
        "target_modules": "{}",
        "exclude_modules": "{}",
        "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
        "modules_to_save": r"(^|.*\.){}($|\..*)",
        "rank_pattern": r"(.*\.)?({})$",
        "alpha_pattern": r"(.*\.)?({})$",
    }
    for key, form in forms.items():
        value = config.get(key)
        if isinstance(value, list) and key in ("target_modules", "exclude_modules"):
            continue  # names
        for pattern in [value] if isinstance(value, str) else value if isinstance(value, list | dict) else []:
            if not PLAIN.fullmatch(str(pattern)):
                yield key, str(pattern), form.replace("{}", str(pattern))


def _match(request: list) -> str | None:
    patterns, names = request
    for key, pattern, whole in patterns:
        try:
            expression = re.compile(whole)
        except (re.error, OverflowError, RecursionError) as error:
            return f"{key}={pattern[:80]!r} is not a valid pattern ({error})"
        for name in names:
            expression.match(name)
            expression.fullmatch(name)
    return None
