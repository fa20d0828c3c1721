"""`embedder.launcher=ray`: missing texts are embedded by actors of a Ray cluster that shares the cache folder."""

import numpy as np

from near.common.cluster import cluster, unwrapped_errors
from near.common.progress import Progress
from near.embedding.embedders.base import Embedder
from near.embedding.missing import Lookup, RowTexts, embed_chunk, embed_missing, look_up
from near.embedding.store import Store

COUNTS = ("tokens", "padding", "truncated")


def embed_on_ray(store: Store, lookup: Lookup, read: RowTexts, embedder: Embedder, progress: Progress) -> int:
    """Like embed_missing, on the cluster that RAY_ADDRESS names or on this machine.

    Each actor loads a model and embeds whole chunks into the shared store. If one dies, Ray starts another, which
    embeds its chunk again.
    """
    with cluster():
        embedded = _run(store, lookup.missing, read, embedder, progress)
    again = look_up(store, read, len(read.ids), embedder.chunk)
    lookup.offsets[:], lookup.missing = again.offsets, again.missing
    return embedded + embed_missing(store, lookup, read, embedder)  # what other runs are embedding


def _run(store: Store, missing: np.ndarray, read: RowTexts, embedder: Embedder, progress: Progress) -> int:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = embedder.workers or gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
    chunks = -(-len(missing) // embedder.chunk)
    done = ray.data.range(chunks, override_num_blocks=chunks).map_batches(
        _Worker,
        fn_constructor_args=(store, ray.put(missing), read, embedder),
        compute=ray.data.ActorPoolStrategy(size=min(workers, chunks)),
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    embedded = 0
    with unwrapped_errors():
        for row in done.iter_rows():
            embedded += row["embedded"]
            for name in COUNTS:
                setattr(embedder, name, getattr(embedder, name) + row[name])
            progress(row["embedded"])
    return embedded


class _Worker:
    """Embeds chunks of the missing texts by number, and returns how much was embedded."""

    def __init__(self, store: Store, missing, read: RowTexts, embedder: Embedder):
        import ray

        self.missing = ray.get(missing) if isinstance(missing, ray.ObjectRef) else missing
        self.store, self.read, self.embedder = store, read, embedder

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        size, counts = self.embedder.chunk, {name: [] for name in ("embedded", *COUNTS)}
        for number in batch["id"]:
            before = {name: getattr(self.embedder, name) for name in COUNTS}
            positions = self.missing[number * size : (number + 1) * size]
            is_ours, _ = embed_chunk(self.store, self.read(positions), self.embedder)
            counts["embedded"].append(int(is_ours.sum()))
            for name in COUNTS:
                counts[name].append(getattr(self.embedder, name) - before[name])
        return {name: np.array(values) for name, values in counts.items()}
