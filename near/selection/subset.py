"""The rows that a selector picks, as files for any other trainer: `select.py selector=near n=5000 export=jsonl`.

subset.npy holds their ids, int64 (m,), in the selector's order; subset_scores.npy the selector's scores of them,
float32 (m,), NaN for a row without one, if it has scores; subset.jsonl or subset.parquet the rows themselves in that
order, each with the columns of its source (a line of text as `text`) and five more:

    row              its id in the pool
    rank             its position in the subset, from 1
    score            the selector's own; if it has none, the row's highest similarity to any query in the matrix; null
                     if there is neither
    nearest_query    the id of that query, the lowest of several; null if the row is not in the matrix
    source           its label: data.candidates.columns.source, the label of its path, or its file's name

If a source has a column of one of these names, ours are near_rank, near_score, ... in all rows.
"""

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from near.common.config import as_before, differences, public
from near.common.errors import UserError, printable
from near.common.files import aside, digest, write_npy
from near.common.moved import class_names
from near.common.outputs import SUBSET, remove
from near.common.processes import is_main
from near.common.records import SelectionManifest
from near.common.text import plural
from near.data.columns import columns_of
from near.data.loading import raw_types
from near.data.row_keys import content_digest
from near.models.start import by_content
from near.searching.material import Material
from near.searching.neighbours import Neighbours
from near.searching.settings import SearchSettings
from near.selection.beyond import similarity_of
from near.selection.needs import Needs, needs_of
from near.selection.round import Round, Subset, checked
from near.selection.selectors.base import Selector, selector_of
from near.selection.subset_files import COLUMNS, WRITERS, nearest, our_names, rows_of

log = logging.getLogger(__name__)


def round_of(cfg: DictConfig, cache_dir: str, needs: Needs, material: Material, neighbours: Neighbours | None) -> Round:
    """The round of a selection outside training, without columns and without a model. `cfg`: of select.py."""
    candidates, queries = material.candidates, material.queries
    context = {"pool": candidates, "queries": queries, "neighbours": neighbours}
    if neighbours is not None or needs.vectors:
        search = SearchSettings.of(cfg, cache_dir)
        context["similarity"] = similarity_of(search, candidates, queries, neighbours)
    return Round.alone(cfg.n, cfg.seed, candidates.eligible(), len(candidates), **context)


class SubsetExport:
    """The subset that `selector`, `n` and `export` ask for; none without a selector. A folder has one selection: its
    manifest's `key` identifies the matrix, or the pool if there is none, and `subset` the settings of the subset."""

    def __init__(self, cfg: DictConfig, folder: Path, cache_dir: str):
        self.cfg, self.folder, self.cache_dir, self.needs = cfg, folder, cache_dir, Needs()
        self.selector: Selector | None = None
        self.name: str | None = None  # of the selector
        self.subset: Any = None  # a Subset, after `pick`
        self.columns: dict[str, list] = {}  # of the pool, after `check`
        self.query_columns: dict[str, list] = {}
        if cfg.get("selector") is None:
            return
        self.selector = selector_of(cfg.selector)
        self.name = HydraConfig.get().runtime.choices.get("selector") or type(self.selector).__name__
        if self.selector.only_in_training:
            raise UserError(f"selector={self.name} {self.selector.only_in_training}; use it in train.py")
        self.needs = needs_of(cfg, self.selector)
        groups = ("selector", *(("model", "scoring", "similarity") if self.needs.requires else ()))
        groups += ("embedder",) if self.needs.vectors else ()  # otherwise the matrix depends on it
        decisive = as_before(public(cfg, decisive=True))
        self.settings = {"n": cfg.n, "seed": cfg.seed, "export": cfg.export}
        self.settings |= by_content({group: class_names(decisive[group]) for group in groups}, cfg)

    @property
    def needs_matrix(self) -> bool:
        """Whether the neighbours are needed: as the result, or because the selector reads them."""
        return self.selector is None or self.needs.neighbours

    def check(self, material: Material) -> None:
        """Load the columns that the selector reads; UserError if `n` is more than the eligible rows, or the folder has
        another subset."""
        if self.selector is None:
            return
        pool, queries, needs = material.candidates, material.queries, self.needs
        if (needs.columns or needs.query_columns) and "columns" not in self.settings:  # the rows stay the same
            self.columns = columns_of(self.cfg.data, pool, needs.columns, self.cache_dir)
            self.query_columns = columns_of(self.cfg.data, queries, needs.query_columns, self.cache_dir)
            self.settings["columns"] = digest([self.columns, self.query_columns])
        eligible = len(pool.eligible())
        if self.cfg.n > eligible:
            raise UserError(
                f"n={self.cfg.n} is more than the {plural(eligible, 'row')} that may be selected; use n<={eligible}"
            )
        self.selector.check_pool(pool, pool.eligible())
        self.selector.check_columns(self.columns, pool.eligible())
        self.selector.check_queries(queries, [self.cfg.n])
        if (self.selector.budgets is not None or self.selector.reads_query_sources) and queries is not None:
            self.settings["tasks"] = queries.labels
        existing = self._manifest().subset
        if existing is not None and not self.cfg.overwrite:
            existing = class_names({key: existing.get(key) for key in self.settings})
            if differing := differences(existing, self.settings):
                raise self.occupied(f"another subset ({differing[0]})")

    def pick(self, material: Material, neighbours: Neighbours | None) -> None:
        """Let the selector pick the subset. If it needs the model, all processes share the work; else only the main one
        picks."""
        if self.selector is None or not (is_main() or self.needs.requires):
            return
        cfg = self.cfg
        round = round_of(cfg, self.cache_dir, self.needs, material, neighbours)
        round = dataclasses.replace(round, columns=self.columns, query_columns=self.query_columns)
        if self.needs.requires:
            from near.selection.offline import with_model

            round = with_model(cfg, self.cache_dir, self.needs, round)
        self.subset = checked(self.selector.select(round), round, self.name)
        if len(self.subset.ids) < cfg.n:
            width = None if neighbours is None else neighbours.ids.shape[1]
            more = f"; a larger max_K than {width} reaches more" if width and width < len(round.eligible) else ""
            log.warning(
                f"selector {self.name} picked {plural(len(self.subset.ids), 'row')}, fewer than n={cfg.n}{more}"
            )

    def existing_ids(self, manifest: SelectionManifest) -> np.ndarray | None:
        """The subset in the folder, int64 (m,), in the selector's order; None if one of its files is missing or
        damaged. `manifest`: the folder's, with the settings of this subset (`check`)."""
        if self.cfg.export is not None and not (self.folder / f"subset.{self.cfg.export}").is_file():
            return None
        with contextlib.suppress(OSError, ValueError, EOFError):
            ids = np.load(self.folder / "subset.npy", allow_pickle=False)
            if ids.dtype == np.int64 and ids.shape == (manifest.subset.get("rows"),):
                return ids
        return None

    @contextlib.contextmanager
    def prepared(
        self, key: str, material: Material, neighbours: Neighbours | None
    ) -> Iterator[Callable[[], dict[str, Any]]]:
        """Write the subset's files aside; raises UserError if they can't be written.

        Without a selector, an existing subset stays if the folder's matrix has the same key, else it is removed.

        Yields:
            a function that moves the files into the folder and returns their part of the manifest. Call it while the
            folder has no manifest.
        """
        if self.selector is None:
            existing = self._manifest()
            stays = existing.subset is not None and existing.key == key

            def keep() -> dict[str, Any]:
                if not stays:
                    self._remove_except()
                return {"subset": existing.subset} if stays else {}

            yield keep
            return
        candidates, subset = material.candidates, self.subset
        self.check(material)  # again: others may have written into the folder, and duplicates are excluded now
        names = ["subset.npy"]
        with contextlib.ExitStack() as files:
            write_npy(files.enter_context(aside(self.folder / "subset.npy")), subset.ids)
            if subset.scores is not None:
                names.insert(0, "subset_scores.npy")
                scores = np.asarray(subset.scores, dtype=np.float32)
                write_npy(files.enter_context(aside(self.folder / "subset_scores.npy")), scores)
            if self.cfg.export is not None:
                names.append(f"subset.{self.cfg.export}")
                rows, types = self._rows(subset, material, neighbours)
                WRITERS[self.cfg.export](files.enter_context(aside(self.folder / names[-1])), rows, types)

            def move() -> dict[str, Any]:
                files.close()
                self._remove_except(*names)
                count = len(subset.ids)
                sources = Counter(candidates.sources(subset.ids).tolist()).most_common(3)
                shares = ", ".join(f"{printable(source, 40)} {rows / count:.0%}" for source, rows in sources)
                log.info(f"wrote {self.folder / names[-1]} ({plural(count, 'row')} by selector {self.name}: {shares})")
                content = content_digest(candidates.content_keys(), subset.ids)
                known = {} if subset.fidelity is None else {"fidelity": subset.fidelity}
                return {"subset": {**self.settings, "rows": count, "content": content, **known}}

            yield move

    def occupied(self, content: str) -> UserError:
        return UserError(f"{self.folder} holds {content}; set overwrite=true or another output_dir")

    def _manifest(self) -> SelectionManifest:
        path = self.folder / "manifest.json"
        with contextlib.suppress(UserError if self.cfg.overwrite else ()):  # a damaged one is replaced
            return SelectionManifest.read(path) if path.is_file() else SelectionManifest()
        return SelectionManifest()

    def _remove_except(self, *names: str) -> None:
        remove(self.folder, *(name for name in SUBSET if name not in names))

    def _rows(
        self, subset: Subset, material: Material, neighbours: Neighbours | None
    ) -> tuple[list[dict], dict[str, pa.DataType]]:
        """The rows of the subset in its order, with our columns; and the known types of columns."""
        ids, candidates = subset.ids, material.candidates
        rows = rows_of(self.cfg.data, candidates, ids, self.cache_dir)
        names = our_names(rows)
        if names != list(COLUMNS):
            log.info(f"subset: the rows have columns of our names, so ours are {', '.join(names)}")
        sources = candidates.sources(ids)
        for position, (score, query) in enumerate(nearest(ids, material.queries, neighbours)):
            if subset.scores is not None and np.isfinite(subset.scores[position]):
                score = float(subset.scores[position])
            rows[position].update(
                zip(names, (int(ids[position]), position + 1, score, query, str(sources[position])), strict=True)
            )
        types = raw_types(self.cfg.data, candidates, self.cache_dir)
        return rows, types | dict(zip(names, COLUMNS.values(), strict=True))
