"""The named chat templates, read from slots.yaml."""

from dataclasses import replace
from pathlib import Path

from near.common.files import read_yaml
from near.data.templates.chat_template import Template


def _templates(slots: dict[str, dict]) -> dict[str, Template]:
    templates: dict[str, Template] = {}
    for name, changes in slots.items():
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
        like = values.pop("like", None)
        templates[name] = replace(templates[like] if like else Template(name), name=name, **values)
    return templates


TEMPLATES = _templates(read_yaml(Path(__file__).parent / "slots.yaml"))
