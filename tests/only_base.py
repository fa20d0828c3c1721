"""A folder with exactly what `pip install near` brings: the base dependencies of pyproject.toml and what they need."""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import ROOT


def project() -> dict[str, list[str]]:
    """Requirements of pyproject.toml by extra; "" has the base ones. Extras that an extra names are written out."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = told["optional-dependencies"]

    def flat(name: str) -> list[str]:
        others = [other for r in extras[name] if r.startswith("near[") for other in r[5:-1].split(",")]
        own = [requirement for requirement in extras[name] if not requirement.startswith("near[")]
        return own + [requirement for other in others for requirement in flat(other)]

    return {"": told["dependencies"], **{name: flat(name) for name in extras}}


def distributions(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """What is installed here of `requirements`, and of all that these need."""
    found: dict[tuple[str, str], metadata.Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name.lower(), extra) in found:
                continue
            found[wanted.name.lower(), extra] = here = metadata.distribution(wanted.name)
            needs = [Requirement(text) for text in here.requires or []]
            waiting += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
    return {name: here for (name, _), here in found.items()}


def link(requirements: list[str], folder: Path) -> Path:
    """`folder` with links to what `distributions` finds: on PYTHONPATH of `python -S`, nothing else is installed."""
    folder.mkdir()
    for here in distributions(requirements).values():
        for top in {file.parts[0] for file in here.files or []} - {"..", "__pycache__", "bin"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(here.locate_file(top))
    return folder
