"""The rows that a selector picks, as files for any other trainer: `select.py selector=near n=5000 export=jsonl`.

subset.npy holds their ids, int64 (m,), in the selector's order; subset.jsonl or subset.parquet the rows themselves in
that order, each with the columns of its source as they are there (a line of text as `text`) and four more:

    rank             its place in the subset, from 1
    score            the selector's own; of one that gives none its highest similarity to any query in the matrix; null
                     where there is neither
    nearest_query    the id of that query, the lowest of several; null likewise
    source           its label: data.candidates.columns.source, the label of its path, or its file's name

Where a source has a column of one of these names, ours are near_rank, near_score, ... in all rows.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from near.common.config import differences, public
from near.common.errors import UserError, printable
from near.common.files import aside, digest, provenance, read_json, write_json, write_npy
from near.common.locks import lock_file, locked
from near.common.moved import class_names
from near.common.outputs import SUBSET, claim, remove
from near.common.processes import is_main
from near.data.loading import raw_rows, raw_types
from near.data.rows import Rows
from near.searching.find import Search
from near.searching.material import Material
from near.selection.embedding_similarity import EmbeddingSimilarity
from near.selection.needs import Needs, needs_of
from near.selection.round import Round, Subset, checked
from near.selection.selectors.base import selector_of
from near.selection.subset_files import COLUMNS, WRITERS, nearest

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours
import logging

log = logging.getLogger(__name__)


class SubsetExport:
    """The subset that `cfg` asks for by `selector`, `n` and `export`; none without a selector. A folder holds one
    selection: its manifest's `key` names the matrix, or the pool where there is none, and `subset` what was picked."""

    def __init__(self, cfg: DictConfig, folder: Path, cache_dir: str):
        self.cache_dir = cache_dir
        self.cfg, self.folder, self.selector, self.asked = cfg, folder, None, None
        self.needs = Needs()
        self._picked: Any = None  # a Subset, once it is made
        if cfg.get("selector") is None:
            return
        self.selector = selector_of(cfg.selector)
        self.name = HydraConfig.get().runtime.choices.get("selector") or type(self.selector).__name__
        if self.selector.only_in_training:
            raise UserError(f"selector={self.name} {self.selector.only_in_training}; use it in train.py")
        self.needs = needs_of(cfg, self.selector)
        self.asked = {
            "selector": class_names(public(cfg, decisive=True)["selector"]),
            "n": cfg.n,
            "seed": cfg.seed,
            "export": cfg.export,
        }
        if self.needs.asks_model:
            self.asked |= {
                name: class_names(public(cfg, decisive=True)[name]) for name in ("model", "scoring", "similarity")
            }

    @property
    def needs_matrix(self) -> bool:
        """Whether queries and their neighbours are needed: the matrix is what is asked for, or what is picked from."""
        return self.selector is None or self.needs.neighbours

    def check(self, candidates: Rows) -> None:
        """UserError for more rows than may be picked, and where the folder holds another subset."""
        if self.selector is None:
            return
        eligible = len(candidates.eligible())
        if self.cfg.n > eligible:
            raise UserError(f"n={self.cfg.n} is more than the {eligible} rows that may be selected; use n<={eligible}")
        there = self._manifest().get("subset")
        if there is not None and not self.cfg.overwrite:
            differing = differences(class_names({key: there.get(key) for key in self.asked}), self.asked)
            if differing:
                raise self._occupied(f"another subset ({differing[0]})")

    def without_matrix(self, material: Material) -> None:
        """What select.py does for a selector that needs no neighbours: the subset alone. Nothing is embedded, unless
        data.dedup=near asks for it."""
        if self.cfg.dry_run:
            if is_main():
                asked = f", and the model asked for {self.needs.asks_model}" if self.needs.asks_model else ""
                log.info(f"dry run: selector {self.name} looks at no neighbours: nothing would be embedded{asked}")
            return
        material = material.distinct(self.cfg.data, Search.of(self.cfg, self.cache_dir))
        candidates, queries = material.candidates, material.queries
        self.pick(candidates, queries, None)
        if not is_main():
            return
        eligible = candidates.eligible()
        made_of = {
            "candidates": {"fingerprint": candidates.fingerprint, "rows": len(candidates), "eligible": len(eligible)},
            "eligible_digest": hashlib.sha256(eligible).hexdigest()[:32],
        }
        if self.needs.asks_model and queries is not None:
            made_of["queries"] = {"fingerprint": queries.fingerprint, "rows": len(queries)}
        key = digest(["no matrix", made_of])
        with locked(lock_file(self.cache_dir, digest(str(self.folder.resolve())))):
            if not self.cfg.overwrite and self._manifest().get("key", key) != key:
                raise self._occupied("another selection")
            with self.prepared(key, candidates, queries, None) as place:
                claim(self.folder, "select")
                remove(self.folder, "manifest.json", "top_indices.npy", "top_scores.npy")
                manifest = {**made_of, "key": key, **place(), **provenance(), "config": public(self.cfg)}
                write_json(self.folder / "manifest.json", manifest)

    @contextlib.contextmanager
    def prepared(
        self, key: str, candidates: Rows, queries: Rows | None, neighbours: "Neighbours | None"
    ) -> Iterator[Callable[[], dict]]:
        """Pick the rows and write them aside, refusing what can be refused. What is yielded puts the files in their
        places, to be called while the folder has no manifest, and returns what the manifest says of them.

        Without a selector, a subset that is there stays while its matrix (`key`) is the same, and goes with it.
        """
        if self.selector is None:
            former = self._manifest()
            kept = {"subset": former["subset"]} if "subset" in former and former.get("key") == key else {}

            def place() -> dict:
                if not kept:
                    self._remove_but()
                return kept

            yield place
            return
        self.check(candidates)  # once more: others may have written into the folder, and duplicates are out now
        ids = self.pick(candidates, queries, neighbours).ids
        names = ["subset.npy"]
        with contextlib.ExitStack() as files:
            write_npy(files.enter_context(aside(self.folder / "subset.npy")), ids)
            if self.cfg.export is not None:
                names.append(f"subset.{self.cfg.export}")
                rows, types = self._rows(ids, candidates, queries, neighbours)
                WRITERS[self.cfg.export](files.enter_context(aside(self.folder / names[-1])), rows, types)

            def place() -> dict:
                files.close()
                self._remove_but(*names)
                sources = Counter(candidates.sources(ids).tolist()).most_common(3)
                shares = ", ".join(f"{printable(source, 40)} {count / len(ids):.0%}" for source, count in sources)
                log.info(f"wrote {self.folder / names[-1]} ({len(ids)} rows by selector {self.name}: {shares})")
                return {"subset": {**self.asked, "rows": len(ids)}}

            yield place

    def _manifest(self) -> dict:
        path = self.folder / "manifest.json"
        with contextlib.suppress(UserError if self.cfg.overwrite else ()):  # a damaged one is replaced
            return read_json(path) if path.is_file() else {}
        return {}

    def _occupied(self, by: str) -> UserError:
        return UserError(f"{self.folder} holds {by}; set overwrite=true or another output_dir")

    def _remove_but(self, *names: str) -> None:
        remove(self.folder, *(name for name in SUBSET if name not in names))

    def pick(self, candidates: Rows, queries: Rows | None, neighbours: "Neighbours | None") -> Subset:
        """The subset, made once. Processes that share the scoring by a model all call this."""
        if self._picked is not None or self.selector is None or not (is_main() or self.needs.asks_model):
            return self._picked
        cfg = self.cfg
        known = {"pool": candidates, "queries": queries, "neighbours": neighbours}
        if neighbours is not None:
            known["similarity"] = EmbeddingSimilarity(cfg.embedder, self.cache_dir, candidates, queries, neighbours)
        round = Round.alone(cfg.n, cfg.seed, candidates.eligible(), len(candidates), **known)
        if self.needs.asks_model:
            from near.selection.offline import with_model

            round = with_model(cfg, self.cache_dir, self.needs, round, candidates, queries)
        self._picked = checked(self.selector.select(round), round, self.name)
        if len(self._picked.ids) < cfg.n:
            width = None if neighbours is None else neighbours.ids.shape[1]
            more = f"; a larger max_K than {width} reaches more" if width and width < len(round.eligible) else ""
            log.warning(f"selector {self.name} picked {len(self._picked.ids)} rows, fewer than n={cfg.n}{more}")
        return self._picked

    def _rows(
        self, ids: np.ndarray, candidates: Rows, queries: Rows | None, neighbours: "Neighbours | None"
    ) -> tuple[list[dict], dict[str, pa.DataType]]:
        """The rows of the subset in its order, with our columns, and the types of these and of the sources' columns as
        far as they are known."""
        places = {row: place for place, row in enumerate(ids.tolist())}
        rows: list[dict] = [{}] * len(ids)
        for row, raw in raw_rows(self.cfg.data, candidates, ids, self.cache_dir):
            rows[places[row]] = dict(raw)
        prefix, taken = "", {name for row in rows for name in row}
        while any(prefix + name in taken for name in COLUMNS):
            prefix += "near_"
        names = [prefix + name for name in COLUMNS]
        if prefix:
            log.info(f"subset: the rows have columns of our names, so ours are {', '.join(names)}")
        sources = candidates.sources(ids)
        scores = self._picked.scores
        for place, (score, query) in enumerate(nearest(ids, queries, neighbours)):
            if scores is not None and np.isfinite(scores[place]):
                score = float(scores[place])
            rows[place].update(zip(names, (place + 1, score, query, str(sources[place])), strict=True))
        types = raw_types(self.cfg.data, candidates, self.cache_dir)
        return rows, types | dict(zip(names, COLUMNS.values(), strict=True))
