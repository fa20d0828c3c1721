"""A class's name says which one it is: none has another's."""

import ast
from collections import Counter

from tests.conftest import ROOT

# chosen in configurations as selector=random and mixer=random; a run is identified by these names
TWICE = {"Random"}


def test_class_names_are_unique():
    files = [path for folder in ("near", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")]
    nodes = (node for path in files for node in ast.parse(path.read_text()).body)
    counts = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert {name for name, count in counts.items() if count > 1} == TWICE
