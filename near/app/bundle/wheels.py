"""The wheels of a bundle: what near requires for another Python and platform, and what that requires in turn.

pip evaluates markers (`; python_version < "3.13"`) for the Python that runs it, and can't leave a package out together
with what only that package requires. So the requirements are followed here, wheel by wheel, and pip downloads.
"""

import errno
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from near.common.errors import UserError, reading
from near.common.files import NO_SPACE
from near.common.secrets import scrub

PLATFORM = re.compile(r"manylinux_2_(\d{1,2})_(x86_64|aarch64)")
OLDER = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # older names, by the minor version of glibc
PURE = re.compile(r"-py3-none-any\.whl|-py2\.py3-none-any\.whl")
# What pip says of a package without a wheel: the second, if its version is among the constraints
UNAVAILABLE = re.compile(r"No matching distribution found for ([\w.-]*\w)|Cannot install ([\w.-]*\w)\S* because")
ADDRESS = re.compile(r"[a-z][a-z+]*:/\S+")


@dataclass(frozen=True)
class Target:
    """The machine that a bundle is for: python such as 3.11, platform such as manylinux_2_28_x86_64."""

    python: str
    platform: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"

    def options(self) -> list[str]:
        """Options of `pip download`; pip accepts only the platforms that are named, not those with an older glibc."""
        minor, machine = PLATFORM.fullmatch(self.platform).groups()
        names = [name for n in range(int(minor), 4, -1) for name in (f"manylinux_2_{n}", OLDER.get(n)) if name]
        platforms = [word for name in names for word in ("--platform", f"{name}_{machine}")]
        return ["--python-version", self.python, "--implementation", "cp", *platforms]

    def environments(self) -> Iterator[dict[str, str]]:
        """Values for markers, for the first and for a late patch release of the Python."""
        for patch in ("0", "99"):
            full = f"{self.python}.{patch}"
            yield {
                **default_environment(),
                "implementation_name": "cpython",
                "implementation_version": full,
                "os_name": "posix",
                "platform_machine": PLATFORM.fullmatch(self.platform)[2],
                "platform_python_implementation": "CPython",
                "platform_release": "",
                "platform_system": "Linux",
                "platform_version": "",
                "python_full_version": full,
                "python_version": self.python,
                "sys_platform": "linux",
            }


@dataclass
class Wheels:
    """The wheels in `folder` that near needs on a target.

    Attributes:
        without: names of packages that are left out, and so is what only they require.
        constraints: files with versions, as for `pip install -c`.
        temporary: a folder for pip's temporary files, on the disk of the bundle.
        chosen: path by name of package.
        bounds: the versions by name of package that the others accept, also of packages that are left out.
    """

    folder: Path
    target: Target
    without: Sequence[str]
    constraints: Sequence[Path]
    temporary: Path
    chosen: dict[str, Path] = field(default_factory=dict)
    bounds: dict[str, SpecifierSet] = field(default_factory=dict)

    def build(self, source: str | Path) -> Path:
        """Build a wheel of one project, a folder or a requirement; UserError if it is for this machine only."""
        before = set(self.folder.glob("*.whl"))
        done = self._pip("wheel", "--no-deps", "--wheel-dir", str(self.folder), str(source))
        made = set(self.folder.glob("*.whl")) - before
        if done.returncode or len(made) != 1:
            name = "near" if isinstance(source, Path) else source
            raise UserError(f"{name}: no wheel can be built ({reason(done.stderr)}); {NETWORK}")
        (path,) = made
        if not PURE.search(path.name):
            raise UserError(f"{path.name} is for this machine only")
        self.chosen[parse_wheel_filename(path.name)[0]] = path
        return path

    def add(self, requirements: Iterable[Requirement]) -> None:
        """Download the wheels of `requirements` and of all that they require; UserError if one is not to be had."""
        visited, todo = set(), list(requirements)
        while todo:
            wanted: dict[str, dict[str, None]] = {}
            for requirement in todo:
                name = canonicalize_name(requirement.name)
                self.bounds[name] = self.bounds.get(name, SpecifierSet()) & requirement.specifier
                if name not in self.chosen and name not in self.without:
                    text = f"@ {requirement.url}" if requirement.url else str(requirement.specifier)
                    wanted.setdefault(name, {})[f"{requirement.name} {text}"] = None
            self._download({name: list(texts) for name, texts in wanted.items()})
            following = []
            for requirement in todo:
                name = canonicalize_name(requirement.name)
                for extra in ("", *requirement.extras):
                    if name in self.chosen and (name, extra) not in visited:
                        visited.add((name, extra))
                        following += self.required(name, extra)
            todo = following
        for name, path in self.chosen.items():
            version = parse_wheel_filename(path.name)[1]
            if not self.bounds.get(name, SpecifierSet()).contains(version, prereleases=True):
                raise UserError(
                    f"{name}: the newest version is {version}, the others accept {self.bounds[name]}; add the version "
                    "to requirements.txt"
                )

    def versions(self) -> dict[str, str]:
        """The version by name of each package."""
        return {name: str(parse_wheel_filename(path.name)[1]) for name, path in sorted(self.chosen.items())}

    def accepted(self, name: str) -> str:
        """The versions of a package that the others accept, such as `>=2.11`, with the highest lower bound alone."""
        bounds = sorted(self.bounds[name], key=lambda bound: (bound.operator != ">=", str(bound)))
        lowest = [bound for bound in bounds if bound.operator == ">="]
        highest = sorted(lowest, key=lambda bound: Version(bound.version))[-1:]
        return ",".join(map(str, [*highest, *bounds[len(lowest) :]]))

    def required(self, name: str, extra: str = "") -> list[Requirement]:
        """What a chosen package, or an extra of it, requires on the target."""
        result = [Requirement(text) for text in metadata(self.chosen[name]).get_all("Requires-Dist", [])]
        environments = [{**values, "extra": extra} for values in self.target.environments()]
        return [r for r in result if r.marker is None or any(r.marker.evaluate(values) for values in environments)]

    def _download(self, wanted: dict[str, list[str]]) -> None:
        """Download a wheel for each name of `wanted`; one that is published only as a source is built here."""
        while wanted:
            texts = [text for texts in wanted.values() for text in texts]
            words = ("--no-deps", "--only-binary", ":all:", *self.target.options(), "--dest", str(self.folder), *texts)
            done = self._pip("download", *words)
            if not done.returncode:
                break
            match = UNAVAILABLE.search(done.stderr)
            name = canonicalize_name(match[1] or match[2]) if match else ""
            if name not in wanted or "Retrying (" in done.stderr:
                raise UserError(f"pip can't download the wheels ({reason(done.stderr)}); {NETWORK}")
            try:
                self.build(" ".join(wanted[name][:1]))
            except UserError as error:
                raise UserError(
                    f"{name}: there is no wheel for {self.target}, and no source to build one for every machine "
                    f"({error}); choose another --python or --platform, or leave it out: --without {name}"
                ) from error
            del wanted[name]
        for path in self.folder.glob("*.whl"):
            self.chosen[parse_wheel_filename(path.name)[0]] = path

    def _pip(self, command: str, *words: str) -> subprocess.CompletedProcess:
        start = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--retries", "1"]
        pins = [word for path in self.constraints for word in ("--constraint", str(path))]
        env = {**os.environ, "TMPDIR": str(self.temporary)}
        done = subprocess.run([*start, *pins, *words], capture_output=True, text=True, env=env)
        if NO_SPACE.search(done.stderr):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        return done


NETWORK = "check the network and pip's settings, then run again"


def metadata(wheel: Path):
    """The headers of a wheel's METADATA."""
    with reading(wheel.name, "the download was damaged; run again"), zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return HeaderParser().parsestr(archive.read(name).decode("utf-8"))


def reason(stderr: str) -> str:
    """The first line of pip's errors, without addresses: those of an index may contain a password."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip wrote no wheel"]
    return scrub(ADDRESS.sub("...", errors[0].removeprefix("ERROR:").strip()))[:200]
