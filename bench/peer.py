"""The seed system's offline NEAR selector, dataflex 1.1.0 out of its own wheel, for benchmarks to measure against.

    from bench.peer import peer_ivf    # its index on any vectors
    ids, seconds_build, seconds_search = peer_ivf(vectors, queries, k)

The wheel is fetched from the package index once, checked against its SHA-256 and unpacked into the cache. Its code runs
as it is, in a process of its own with that folder on PYTHONPATH; around its own methods there are timers and nothing
else. It needs no stand-ins: what its module imports besides numpy, faiss and its own logger it takes for not installed
where the import fails. So vllm is hidden from it, which embed_method=sentence-transformer has no use for and would only
wait for, and from its index and its texts sentence_transformers too.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in place of this folder, whose select.py hides another

import functools
import importlib
import json
import os
import tempfile
import time

import numpy as np

from bench import common
from near.common.errors import UserError

NAME, VERSION = "dataflex", "1.1.0"
SHA256 = "82abc8a0915e93cc25b33e13846187b08ca291c31dc633097bdf58ff06d6758f"
MODULE = "dataflex.offline_selector.offline_near_selector"


def peer_ivf(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, float, float]:
    """Rows int64 (Q, k) of the k nearest of `vectors` (N, D) by its IVF index with its defaults, -1 where it found
    fewer; the seconds its building took; the seconds of the search. In a process of its own, which is not in them."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", vectors)
        np.save(f"{folder}/queries.npy", queries)
        seconds = common.apart(ivf, folder, k, env=environment())
        return np.load(f"{folder}/ids.npy"), seconds["build"], seconds["search"]


def peer_texts(path: str | Path) -> list[str]:
    """What it embeds of the rows in an alpaca JSON file."""
    return common.apart(texts, path, env=environment())


def peer_select(candidates: Path, queries: Path, model: str, max_K: int, folder: Path) -> tuple[list[str], dict]:
    """Command and environment of one whole selection with its defaults and embed_method=sentence-transformer.

    It leaves top_indices.npy in `folder`, and beside it candidates.npy and queries.npy: the vectors it embedded. The
    last line it prints is JSON, the seconds of its parts, `saving` being those of the vectors, which are ours.
    """
    words = json.dumps([str(candidates), str(queries), model, max_K, str(folder)])
    return [sys.executable, __file__, common.APART, "select", words], environment()


def environment() -> dict[str, str]:
    """What to add to the environment of a process that imports its package; UserError where that can't be had."""
    paths = [str(unpacked()), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}


@functools.cache
def unpacked() -> Path:
    """The folder that holds its package; UserError where it can't be fetched."""
    from near.common.files import folder_aside
    from near.data.builtin.assets import Wheel, unpack

    folder = Path(os.environ.get("NEAR_CACHE", ".cache")).resolve() / "assets" / f"{NAME}-{VERSION}"
    if not folder.is_dir():
        with folder_aside(folder) as new:
            unpack(Wheel(NAME, VERSION, SHA256, ""), new, lambda member: member.startswith(f"{NAME}/"))
    return folder


# What follows runs in the process of its own.


def peer(*hidden: str):
    """Its module, imported as if `hidden` were not installed."""
    sys.modules.update(dict.fromkeys(hidden))
    return importlib.import_module(MODULE)


def _timed(owner: type, method: str, seconds: dict[str, float], results: list) -> None:
    """Put a timer around a method of its class, and keep what the method returns."""
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def outer(*args, **kwargs):
        begun = time.perf_counter()
        results.append(inner(*args, **kwargs))
        name = method.strip("_")
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begun
        return results[-1]

    setattr(owner, method, outer)


def ivf(folder: str, k: int) -> dict[str, float]:
    """Build its index of the vectors in `folder` and search it; seconds."""
    module = peer("vllm", "sentence_transformers")
    vectors, queries = np.load(f"{folder}/vectors.npy"), np.load(f"{folder}/queries.npy")
    build, index = common.timed(lambda: module.FaissIndexIVFFlat(vectors))
    search, (_, ids) = common.timed(lambda: index.search(queries, k))
    np.save(f"{folder}/ids.npy", ids.astype(np.int64))
    return {"build": build, "search": search}


def texts(path: str) -> list[str]:
    """What it embeds of the rows of a file."""
    return peer("vllm", "sentence_transformers").offline_near_Selector()._load_alpaca_json(path)


def select(candidates: str, queries: str, model: str, max_K: int, folder: str) -> dict[str, float]:
    """Its whole selection; seconds of its parts."""
    module, seconds, vectors = peer("vllm"), {}, []
    selector, index = module.offline_near_Selector, module.FaissIndexIVFFlat
    _timed(selector, "_embed_texts", seconds, vectors)
    _timed(index, "build", seconds, [])
    _timed(index, "search", seconds, [])
    selector(
        candidate_path=candidates,
        query_path=queries,
        embed_model=model,
        embed_method="sentence-transformer",
        save_indices_path=f"{folder}/top_indices.npy",
        max_K=max_K,
    ).selector()
    begun = time.perf_counter()
    for name, matrix in zip(("candidates", "queries"), vectors, strict=True):
        np.save(f"{folder}/{name}.npy", matrix)
    return {**seconds, "saving": time.perf_counter() - begun}


def main() -> None:
    raise UserError("nothing to run here; python bench/select.py and python bench/search.py measure it")


if __name__ == "__main__":
    common.script(main, ivf, texts, select)
