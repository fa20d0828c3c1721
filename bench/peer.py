"""DataFlex's offline NEAR selector (dataflex 1.1.0, from its wheel), as the peer that benchmarks compare with.

    from bench.peer import peer_ivf    # DataFlex's index on any vectors
    ids, seconds_build, seconds_search = peer_ivf(vectors, queries, k)

The wheel is downloaded from the package index once, verified by its SHA-256 and unpacked into the cache. Its code runs
unchanged in a separate process with that folder on PYTHONPATH; only timers are put around its methods. Its module
treats packages whose import fails as not installed, except numpy, faiss and its logger. So vllm is hidden from it,
because embed_method=sentence-transformer does not use it and would only wait for its import; sentence_transformers is
also hidden when only its index or its texts are needed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

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
    """Rows int64 (Q, k) of the k nearest of `vectors` (N, D) by DataFlex's IVF index with its defaults, -1 where it
    returns fewer; the seconds of building it; the seconds of the search. Neither includes the start of the process."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", vectors)
        np.save(f"{folder}/queries.npy", queries)
        seconds = common.apart(ivf, folder, k, env=environment())
        return np.load(f"{folder}/ids.npy"), seconds["build"], seconds["search"]


def peer_texts(path: str | Path) -> list[str]:
    """The texts that DataFlex embeds for the rows in an alpaca JSON file."""
    return common.apart(texts, path, env=environment())


def peer_select(candidates: Path, queries: Path, model: str, max_K: int, folder: Path) -> tuple[list[str], dict]:
    """Command and environment of one selection with DataFlex's defaults and embed_method=sentence-transformer.

    It writes top_indices.npy to `folder`, and the vectors it embedded to candidates.npy and queries.npy. The last line
    it prints is JSON: the seconds of its parts. `saving` is the time for saving the vectors, which this benchmark adds.
    """
    words = json.dumps([str(candidates), str(queries), model, max_K, str(folder)])
    return [sys.executable, __file__, common.APART, "select", words], environment()


def environment() -> dict[str, str]:
    """Environment variables for a process that imports DataFlex; UserError if its wheel cannot be downloaded."""
    paths = [str(unpacked()), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}


@functools.cache
def unpacked() -> Path:
    """The folder with DataFlex's package; UserError if its wheel cannot be downloaded."""
    from near.common.files import folder_aside
    from near.data.builtin.assets import Wheel, unpack

    folder = Path(os.environ.get("NEAR_CACHE", ".cache")).resolve() / "assets" / f"{NAME}-{VERSION}"
    if not folder.is_dir():
        with folder_aside(folder) as new:
            unpack(Wheel(NAME, VERSION, SHA256, ""), new, lambda member: member.startswith(f"{NAME}/"))
    return folder


# The functions below run in the separate process.


def peer(*hidden: str):
    """DataFlex's module, imported as if `hidden` were not installed."""
    sys.modules.update(dict.fromkeys(hidden))
    return importlib.import_module(MODULE)


def _timed(owner: type, method: str, seconds: dict[str, float], results: list) -> None:
    """Put a timer around a method of a class, and append its results to `results`."""
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def outer(*args, **kwargs):
        started = time.perf_counter()
        results.append(inner(*args, **kwargs))
        name = method.strip("_")
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return results[-1]

    setattr(owner, method, outer)


def ivf(folder: str, k: int) -> dict[str, float]:
    """Build DataFlex's index of the vectors in `folder` and search it; seconds."""
    module = peer("vllm", "sentence_transformers")
    vectors, queries = np.load(f"{folder}/vectors.npy"), np.load(f"{folder}/queries.npy")
    build, index = common.timed(lambda: module.FaissIndexIVFFlat(vectors))
    search, (_, ids) = common.timed(lambda: index.search(queries, k))
    np.save(f"{folder}/ids.npy", ids.astype(np.int64))
    return {"build": build, "search": search}


def texts(path: str) -> list[str]:
    """The texts that DataFlex embeds for the rows of a file."""
    return peer("vllm", "sentence_transformers").offline_near_Selector()._load_alpaca_json(path)


def select(candidates: str, queries: str, model: str, max_K: int, folder: str) -> dict[str, float]:
    """One selection by DataFlex; seconds of its parts."""
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
    started = time.perf_counter()
    for name, matrix in zip(("candidates", "queries"), vectors, strict=True):
        np.save(f"{folder}/{name}.npy", matrix)
    return {**seconds, "saving": time.perf_counter() - started}


def main() -> None:
    raise UserError("nothing to run here; python bench/select.py and python bench/search.py measure it")


if __name__ == "__main__":
    common.script(main, ivf, texts, select)
