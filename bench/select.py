"""select.py against DataFlex's offline NEAR selector, the peer: one pool, one set of queries, one model.

    python bench/select.py [rows=20000 queries=64 embed=prompt,both peer_sweep=measure|estimate]
                           [swept=64,256,1000,2000 cold=1000 larger=1200,1500,2000 smaller=512,256,128 tasks=all|demo]

Rows are questions and answers of OpenAI's evals, the model is all-MiniLM-L6-v2. Every run is a process, timed from its
start to its end and without the model hub: `python select.py` with a cache that has only the model (cold), then with
the cache of that run (`larger` and `smaller` max_K than its `cold`, and 1% new rows), and a sweep over max_K from an
empty cache again; the peer (see bench/peer.py) with its defaults, once for each max_K, because it caches nothing.
Imports are listed separately: the seconds of a process that only imports the modules of that run, the median of
`turns`. peer_sweep=estimate runs the peer once and assumes that its other runs take as long, except the search, which
is measured with its index for each max_K.

The peer embeds instruction, input, output and an empty prediction with their names before them. The closest to that is
embed=both, question and answer; embed=prompt is near's default. The amount of text that each embeds is printed. The
indexes are also compared alone, on the vectors that the peer embedded.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from bench import common
from bench.material import evals_rows
from bench.peer import environment, peer_ivf, peer_select, peer_texts
from near.common.errors import UserError

MODEL = "builtin:all-MiniLM-L6-v2"
FIELDS = ("prompt", "answer", "both")
PEER = "dataflex"
# On the path of every timed process: lists at its end the modules that it imported.
NOTES = """import atexit, os, sys
def note():
    with open(os.path.join(os.environ["BENCH_MODULES"], str(os.getpid())), "w") as file:
        file.write("\\n".join(sys.modules))
atexit.register(note)
"""
EMPTY = """import importlib, sys
for name in open(sys.argv[1]).read().split():
    try:
        importlib.import_module(name)
    except Exception:  # created by another module, without a file
        pass
"""


@dataclass(frozen=True)
class Depths:
    """max_K of the cold run, of those after it, and of the sweep. `larger` grows, so that each value needs a search."""

    cold: int
    larger: list[int]
    smaller: list[int]
    swept: list[int]

    @property
    def warm(self) -> dict[str, list[int]]:
        return {"a larger max_K": self.larger, "a smaller max_K": self.smaller}

    def check(self, rows: int) -> None:
        """Raise UserError if the numbers are not in this order, or more than `rows`."""
        if sorted({self.cold, *self.larger}) != [self.cold, *self.larger] or max(self.smaller) >= self.cold:
            raise UserError(
                f"cold={self.cold} larger={self.larger} smaller={self.smaller}: use smaller < cold < larger, and "
                "larger in increasing order"
            )
        most = max(*self.larger, *self.swept)
        if min(*self.smaller, *self.swept) < 1 or most > rows:
            raise UserError(f"rows={rows}: use rows>={most}, the largest max_K, and each max_K >= 1")


@dataclass
class Run:
    """One process: total seconds, seconds of its imports, its output."""

    seconds: float
    imports: float
    printed: str = ""

    @property
    def work(self) -> float:
        return self.seconds - self.imports

    def __str__(self) -> str:
        return f"{self.seconds:.1f} ({self.imports:.1f})"


class Timer:
    """Runs processes, times them and prints the seconds to stderr. `turns`: runs that measure the imports."""

    def __init__(self, folder: Path, turns: int):
        self.folder, self.turns = folder, turns
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(NOTES)
        # So that the first timed run does not read the libraries from the disk.
        subprocess.run([sys.executable, "-c", "import faiss, sentence_transformers"], cwd=common.ROOT, check=True)

    def run(self, name: str, words: list[str], env: dict[str, str]) -> Run:
        modules = Path(tempfile.mkdtemp(dir=self.folder))
        hooked = os.pathsep.join(p for p in (str(self.folder / "hook"), env.get("PYTHONPATH")) if p)
        offline = {"HF_HUB_OFFLINE": "1", "BENCH_MODULES": str(modules)}  # nothing here needs the hub
        env = {**env, **offline, "PYTHONPATH": hooked}
        started = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=common.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        printed, complaints = process.communicate()
        seconds = time.perf_counter() - started
        if process.returncode:
            last = (complaints.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{name} ended with status {process.returncode}: {last.removeprefix('error: ')}")
        run = Run(seconds, self._empty(modules / str(process.pid), env), printed)
        print(f"{name:52}{run}", file=sys.stderr, flush=True)
        return run

    def _empty(self, modules: Path, env: dict[str, str]) -> float:
        """Seconds of a process that only imports the modules listed in the file `modules`."""
        seconds = []
        for _ in range(self.turns):
            started = time.perf_counter()
            words = [sys.executable, "-c", EMPTY, str(modules)]
            subprocess.run(words, cwd=common.ROOT, env=env, check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)


def ours(timer: Timer, folder: Path, assets: Path, field: str, depths: Depths) -> dict[str, Run]:
    """All runs of select.py with embedder.embed=`field`: cold, the warm ones, 1% new rows, the sweep."""

    def run(name: str, cache: str, pool: str, max_K: str, *more: str) -> Run:
        home = folder / f"{cache}-{field}"
        home.mkdir(exist_ok=True)
        if not (home / "assets").exists():
            (home / "assets").symlink_to(assets)
        out = folder / f"out-{field}-{name.replace(' ', '-')}"
        words = [f"embedder.model={MODEL}", f"embedder.embed={field}", f"max_K={max_K}", f"output_dir={out}"]
        data = ["data=files", f"data.candidates.path={folder / pool}", f"data.queries.path={folder}/queries.json"]
        done = timer.run(
            f"near, {field}: {name}",
            [sys.executable, "select.py", *more, *data, *words],
            {**os.environ, "NEAR_CACHE": str(home)},
        )
        widths = sorted(np.load(p, mmap_mode="r").shape[1] for p in out.rglob("top_indices.npy"))
        if widths != sorted(map(int, max_K.split(","))):
            raise UserError(f"near, {field}: {name}: wrote matrices of {widths} columns, not max_K={max_K}")
        return done

    runs = {"cold": run("cold", "cache", "pool.json", str(depths.cold))}
    for name, values in depths.warm.items():
        warm = [run(f"warm {k}", "cache", "pool.json", str(k)) for k in values]
        runs[name] = Run(*(statistics.median(getattr(w, part) for w in warm) for part in ("seconds", "imports")))
    runs["new"] = run("1% new rows", "cache", "more.json", str(depths.cold))
    runs["sweep"] = run("sweep", "swept", "pool.json", ",".join(map(str, depths.swept)), "-m")
    return runs


def peer(timer: Timer, folder: Path, model: str, max_K: int) -> Run:
    out = folder / f"peer-{max_K}"
    out.mkdir()
    words, env = peer_select(folder / "pool.json", folder / "queries.json", model, max_K, out)
    run = timer.run(f"{PEER}: max_K={max_K}", words, {**os.environ, **env})
    run.seconds -= parts(run)["saving"]
    return run


def parts(run: Run) -> dict[str, float]:
    """The seconds of its parts, which a run of the peer prints in its last line."""
    return json.loads(run.printed.splitlines()[-1])


def lengths(folder: Path, model: str, fields: list[str]) -> None:
    """Print how much text of a pool row each embeds: characters, and tokens cut at the model's length."""
    from tokenizers import Tokenizer

    from near.data.formats.formats import embedded_text

    most = json.loads((Path(model) / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = json.loads((folder / "pool.json").read_text())
    chats = [
        [{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["output"]}] for r in rows
    ]
    texts = {f"near, embed={field}": [embedded_text(chat, field) for chat in chats] for field in fields}
    print(f"\n{'embedded of a row, mean':28}{'characters':>12}{'tokens':>10}{f'cut at {most}':>14}")
    for name, all_texts in {**texts, PEER: peer_texts(folder / "pool.json")}.items():
        tokens = np.array([len(encoded) for encoded in _encoded(tokenizer, all_texts)])
        characters = np.mean([len(text) for text in all_texts])
        print(f"{name:28}{characters:12.1f}{np.minimum(tokens, most).mean():10.1f}{(tokens > most).mean():14.1%}")


def _encoded(tokenizer, texts: list[str]):
    for start in range(0, len(texts), 1000):
        yield from tokenizer.encode_batch(texts[start : start + 1000])


def indexes(vectors: np.ndarray, queries: np.ndarray, swept: list[int]) -> dict[int, float]:
    """Print both indexes on the same vectors for each max_K; return the seconds of the peer's searches.

    recall: the share of a query's max_K results that are as near as the max_K-th in a plain product with all rows.
    """
    from hydra.utils import instantiate

    from near.searching.vectors import ArrayVectors

    index, searches = instantiate(common.composed("select").index), {}
    print(f"\nthe indexes on the same {len(vectors)} vectors, {len(queries)} queries; seconds")
    heads = f"{'max_K':>8}{'near':>12}{'recall':>9}{PEER:>12}{'build':>12}{'recall':>9}"
    print(f"{heads}{'rows with -1':>14}{'-1 in all':>11}")
    for k in swept:
        seconds, (_, ids) = common.timed(lambda k=k: index.search(queries, ArrayVectors(vectors), k))
        theirs, build, searches[k] = peer_ivf(vectors, queries, k)
        exact = np.sort(queries @ vectors.T, axis=1)[:, -k]
        shares = [_recall(vectors, queries, rows, exact) for rows in (ids, theirs)]
        missing = theirs < 0
        print(
            f"{k:8}{seconds:12.3f}{shares[0]:9.3f}{searches[k]:12.3f}{build:12.3f}{shares[1]:9.3f}"
            f"{f'{missing.any(axis=1).sum()}/{len(queries)}':>14}{missing.sum():11}"
        )
    return searches


def _recall(vectors: np.ndarray, queries: np.ndarray, ids: np.ndarray, least: np.ndarray) -> float:
    scores = np.stack([vectors[rows] @ query for rows, query in zip(ids, queries, strict=True)])
    return float(((ids >= 0) & (scores >= least[:, None] - 1e-5)).mean())


def print_row(name: str, cells: list[str], goal: str = "") -> None:
    print(f"{name:40}{''.join(f'{cell:>18}' for cell in cells)}{goal:>10}".rstrip(), flush=True)


def compare(runs: dict[str, dict[str, Run]], single: Run, sweep: list[Run], how: str, depths: Depths) -> None:
    """Print the seconds of both, then the factors with their goals."""
    all_ours = list(runs.values())
    whole = Run(sum(r.seconds for r in sweep), sum(r.imports for r in sweep))
    print()
    print_row("seconds (of them imports)", [*(f"near, {field}" for field in runs), PEER])
    print_row(f"cold, max_K={depths.cold}", [*(str(r["cold"]) for r in all_ours), str(single)])
    print_row(f"sweep, max_K={','.join(map(str, depths.swept))}", [*(str(r["sweep"]) for r in all_ours), str(whole)])
    for name, values in depths.warm.items():
        print_row(f"warm, {name} (median of {len(values)})", [*(str(r[name]) for r in all_ours), str(single)])
    print_row("1% new rows", [str(r["new"]) for r in all_ours])
    print(f"{PEER}'s sweep: {how}\n")

    def factor(theirs: float, mine: float) -> str:
        return f"{theirs / mine:.2f}x" if mine > 0.05 else "too short to compare"

    print_row("", [f"near, {field}" for field in runs], "goal")
    print_row(f"cold: {PEER} / near", [factor(single.seconds, r["cold"].seconds) for r in all_ours], ">= 1x")
    print_row(f"sweep: {PEER} / near", [factor(whole.seconds, r["sweep"].seconds) for r in all_ours], ">= 3.5x")
    for name in depths.warm:
        print_row(f"{name}: {PEER} / near", [factor(single.seconds, r[name].seconds) for r in all_ours], ">= 50x")
        print_row("  both without imports", [factor(single.work, r[name].work) for r in all_ours], ">= 50x")
    print_row("1% new rows: near / near, cold", [f"{r['new'].seconds / r['cold'].seconds:.1%}" for r in all_ours])
    print_row("  both without imports", [f"{r['new'].work / r['cold'].work:.1%}" for r in all_ours], "<= 3%")


def main(
    rows: int = 20_000,
    queries: int = 64,
    embed: list[str] = ("prompt", "both"),
    peer_sweep: str = "measure",
    swept: list[int] = (64, 256, 1000, 2000),
    cold: int = 1000,
    larger: list[int] = (1200, 1500, 2000),
    smaller: list[int] = (512, 256, 128),
    tasks: str = "all",
    turns: int = 3,
) -> None:
    from near.data.builtin.assets import resolve

    if peer_sweep not in ("measure", "estimate"):
        raise UserError(f"peer_sweep={peer_sweep}: use measure or estimate")
    if unknown := set(embed) - set(FIELDS):
        raise UserError(
            f"embed={','.join(embed)}: no such field: {', '.join(unknown)}; use one or more of {','.join(FIELDS)}"
        )
    if queries < 1 or turns < 1:
        raise UserError(f"queries={queries} turns={turns}: use 1 or more of each")
    depths = Depths(cold, list(larger), list(smaller), list(swept))
    depths.check(rows)
    environment()  # downloads the peer's package before anything is measured
    cache_dir = str(Path(common.composed("select").cache_dir).expanduser().resolve())
    model = resolve(MODEL, cache_dir)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(folder, cache_dir, rows, queries, tasks)
        print(f"{rows} rows and {queries} queries of OpenAI's evals")
        lengths(folder, model, list(embed))
        timer = Timer(folder, turns)
        runs = {field: ours(timer, folder, Path(cache_dir) / "assets", field, depths) for field in embed}
        single = peer(timer, folder, model, cold)
        vectors, target = (np.load(folder / f"peer-{cold}" / f"{name}.npy") for name in ("candidates", "queries"))
        searches = indexes(vectors, target, depths.swept)
        if peer_sweep == "measure":
            sweep = [single if k == cold else peer(timer, folder, model, k) for k in swept]
            how = "measured, one run for each max_K"
        else:
            fixed = single.seconds - parts(single)["search"]
            sweep = [Run(fixed + searches[k], single.imports) for k in swept]
            how = f"estimated, {len(swept)} times its one run with the search of each max_K"
        compare(runs, single, sweep, how, depths)


def write_rows(folder: Path, cache_dir: str, rows: int, queries: int, tasks: str) -> None:
    """queries.json, pool.json and more.json, the pool with 1% new rows, in `folder`; alpaca."""
    drawn = [
        {"instruction": question, "input": "", "output": answer}
        for question, answer in evals_rows(cache_dir, queries + rows + max(1, rows // 100), tasks, answered=True)
    ]
    for name, part in {
        "queries": drawn[:queries],
        "pool": drawn[queries:][:rows],
        "more": drawn[queries:],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")


if __name__ == "__main__":
    common.script(main)
