"""near: pick the training examples nearest to your task, train on them, and see whether it helped."""

__version__ = "0.1.0"
__all__ = ["search", "select"]


def __getattr__(name: str):
    if name in __all__:  # only when asked for: it imports FAISS, datasets and Hydra
        from near.app import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
