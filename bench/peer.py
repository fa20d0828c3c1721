"""The seed system's offline NEAR selector, dataflex 1.1.0 out of its own wheel, for benchmarks to measure against.

    from peer import peer_ivf    # its index on any vectors
    ids, seconds_build, seconds_search = peer_ivf(vectors, queries, k)

The wheel is fetched from the package index, checked against its SHA-256 and unpacked into a temporary folder that goes
when the process ends. Its code runs as it is, in a process of its own with that folder on PYTHONPATH; around its own
methods there are timers and nothing else. It needs no stand-ins: what its module imports besides numpy, faiss and its
own logger it takes for not installed where the import fails. So vllm is hidden from it, which
embed_method=sentence-transformer has no use for and would only wait for, and from its index and its texts
sentence_transformers too.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NAME, VERSION = "dataflex", "1.1.0"
SHA256 = "82abc8a0915e93cc25b33e13846187b08ca291c31dc633097bdf58ff06d6758f"
MODULE = "dataflex.offline_selector.offline_near_selector"


def peer_ivf(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, float, float]:
    """Rows int64 (Q, k) of the k nearest of `vectors` (N, D) by its IVF index with its defaults, -1 where it found
    fewer; the seconds its building took; the seconds of the search. In a process of its own, which is not in them."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", vectors)
        np.save(f"{folder}/queries.npy", queries)
        seconds = told(_run("ivf", folder, str(k)))
        return np.load(f"{folder}/ids.npy"), seconds["build"], seconds["search"]


def peer_texts(path: str | Path) -> list[str]:
    """What it embeds of the rows in an alpaca JSON file."""
    return told(_run("texts", str(path)))


def peer_select(candidates: Path, queries: Path, model: str, max_K: int, folder: Path) -> tuple[list[str], dict]:
    """Command and environment of one whole selection with its defaults and embed_method=sentence-transformer.

    It leaves top_indices.npy in `folder`, and beside it candidates.npy and queries.npy: the vectors it embedded. The
    last line it prints (`told`) holds the seconds of its parts, `saving` being those of the vectors, which are ours.
    """
    words = ["select", str(candidates), str(queries), model, str(max_K), str(folder)]
    return [sys.executable, __file__, *words], environment()


def told(printed: str):
    """What a process of this file says in its last line."""
    return json.loads(printed.splitlines()[-1])


def environment() -> dict[str, str]:
    """The environment of a process that can import its package."""
    paths = [_unpacked().name, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


@functools.cache
def _unpacked() -> tempfile.TemporaryDirectory:
    from near.data.builtin.assets import Wheel, unpack

    folder = tempfile.TemporaryDirectory(prefix=f"{NAME}-")
    unpack(Wheel(NAME, VERSION, SHA256, ""), Path(folder.name), lambda member: member.startswith(f"{NAME}/"))
    return folder


def _run(*words: str) -> str:
    from near.common.errors import UserError

    done = subprocess.run([sys.executable, __file__, *words], env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{NAME} {words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


# What follows runs in the process of its own.


def _peer(*hidden: str):
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


def _ivf(folder: str, k: str) -> dict[str, float]:
    module = _peer("vllm", "sentence_transformers")
    vectors, queries = np.load(f"{folder}/vectors.npy"), np.load(f"{folder}/queries.npy")
    begun = time.perf_counter()
    index = module.FaissIndexIVFFlat(vectors)
    built = time.perf_counter()
    ids = index.search(queries, int(k))[1]
    seconds = {"build": built - begun, "search": time.perf_counter() - built}
    np.save(f"{folder}/ids.npy", ids.astype(np.int64))
    return seconds


def _texts(path: str) -> list[str]:
    return _peer("vllm", "sentence_transformers").offline_near_Selector()._load_alpaca_json(path)


def _select(candidates: str, queries: str, model: str, max_K: str, folder: str) -> dict[str, float]:
    module, seconds, vectors = _peer("vllm"), {}, []
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
        max_K=int(max_K),
    ).selector()
    begun = time.perf_counter()
    for name, matrix in zip(("candidates", "queries"), vectors, strict=True):
        np.save(f"{folder}/{name}.npy", matrix)
    return {**seconds, "saving": time.perf_counter() - begun}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("error: nothing to run here; python bench/select.py does")
    print(json.dumps({"ivf": _ivf, "texts": _texts, "select": _select}[sys.argv[1]](*sys.argv[2:])))
