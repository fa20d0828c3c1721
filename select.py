"""Find every query's max_K nearest candidates: python select.py data=demo embedder=minilm max_K=1000."""

if __name__ == "select":  # imported in place of the standard library's `select`, which this file's name hides:
    import importlib.machinery as machinery  # hand over the real one (a compiled module further down the path)
    import importlib.util
    import sys

    _spec = next(
        spec
        for spec in (machinery.PathFinder.find_spec("select", [folder]) for folder in sys.path)
        if spec is not None and isinstance(spec.loader, machinery.ExtensionFileLoader)
    )
    sys.modules["select"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["select"])
else:
    from near.app.entry import start

    if __name__ == "__main__":
        start("select")
