"""A folder with exactly what `pip install near` installs: the base dependencies of pyproject.toml and theirs."""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import ROOT


def project() -> dict[str, list[str]]:
    """Requirements of pyproject.toml by extra; "" has the base ones. Extras within an extra are expanded."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = table["optional-dependencies"]

    def flat(name: str) -> list[str]:
        others = [other for r in extras[name] if r.startswith("near[") for other in r[5:-1].split(",")]
        direct = [requirement for requirement in extras[name] if not requirement.startswith("near[")]
        return direct + [requirement for other in others for requirement in flat(other)]

    return {"": table["dependencies"], **{name: flat(name) for name in extras}}


def distributions(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions of `requirements` and of everything they require."""
    installed: dict[tuple[str, str], metadata.Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name.lower(), extra) in installed:
                continue
            installed[requirement.name.lower(), extra] = distribution = metadata.distribution(requirement.name)
            needs = [Requirement(text) for text in distribution.requires or []]
            waiting += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
    return {name: distribution for (name, _), distribution in installed.items()}


def link(requirements: list[str], folder: Path) -> Path:
    """Fill `folder` with links to `distributions`: with it as PYTHONPATH of `python -S`, nothing else is installed."""
    folder.mkdir()
    for distribution in distributions(requirements).values():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__", "bin"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder
