"""Old module paths of this package's classes, for earlier configurations and runs.

A run is identified by class names and arguments, never by modules.
"""

from omegaconf import DictConfig, ListConfig

# old modules or packages to new ones; the longest matching prefix counts
MOVED: dict[str, str] = {
    "near.embedders": "near.embedding.embedders",
    "near.gradient_similarity": "near.selection.gradient_similarity",
    "near.graders": "near.evaluation.graders",
    "near.indexes": "near.searching.indexes",
    "near.jobs": "near.app.jobs",
    "near.mixers": "near.selection.mixers",
    "near.scoring": "near.selection.scoring.scoring",
    "near.secrets": "near.common.secrets",
    "near.selectors": "near.selection.selectors",
    "near.selectors.mix": "near.selection.mixers.selector",
    "near.similarity": "near.selection.similarity",
    "near.trackers": "near.training.trackers",
    "near.trainer": "near.training.trainer",
    "near.weighters": "near.training.weighters",
    "near.weighting": "near.training.weighting",
}


def current(target: str) -> str:
    """The current dotted path of class `target`.

    >>> current("mylab.selectors.Mine")
    'mylab.selectors.Mine'
    """
    for old in sorted(MOVED, key=len, reverse=True):
        if target.startswith(f"{old}."):
            return MOVED[old] + target.removeprefix(old)
    return target


def update_targets(node: DictConfig | ListConfig) -> None:
    """Replace old class paths in `node`, in place; references are not resolved."""
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        raw = node._get_node(key)
        if isinstance(raw, DictConfig | ListConfig):
            if not raw._is_none() and not raw._is_missing() and not raw._is_interpolation():
                update_targets(raw)
        elif key == "_target_" and isinstance(value := raw._value(), str):
            raw._set_value(current(value))


def class_names(values: object) -> object:
    """A copy of nested plain values with classes of this package as bare names.

    Classes of other packages keep their paths, as two of the same name may differ.
    """
    if isinstance(values, list):
        return [class_names(value) for value in values]
    if not isinstance(values, dict):
        return values
    named = {key: class_names(value) for key, value in values.items()}
    target = named.get("_target_")
    if isinstance(target, str) and target.startswith("near."):
        named["_target_"] = target.rpartition(".")[2]
    return named
