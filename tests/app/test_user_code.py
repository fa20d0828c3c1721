"""Exceptions in classes that users add: one line with the class and the fix, and the traceback in the log."""

import numpy as np
import pytest

from near.app.faults import fault_line
from near.app.user_code import failed_class, traceback_of
from near.common.errors import UserError
from near.embedding.embedders.base import Embedder
from near.evaluation.graders.base import Compares, Grade, Grader
from near.searching.indexes.base import Index
from near.selection.mixers.base import Mixer
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector
from tests.conftest import ROOT, process


class Graded(Grader):
    def grade(self, answers, cache_dir):
        return [Grade(1.0, told="a reply") for _ in answers]


class Valued(Compares):
    def value(self, text):
        return text.no_such_attribute


class Selected(Selector):
    def select(self, round):
        return Subset(rows=round.eligible)


class Helped(Selector):
    def select(self, round):
        return _helper(round)


class Embedding(Embedder):
    space, dim = {}, 4

    def embed(self, texts, progress=lambda n: None):
        return np.zeros(4).reshape(3, 2)


class Shares(Mixer):
    def proportions(self, round, sources):
        return {"a": 1}["b"]


class Searched(Index):
    signature = {}

    def search(self, queries, pool, k, progress=None, cache=None):
        raise RuntimeError


def _helper(round):
    return [1, 2, 3][round.index + 7]


ROUND = Round.alone(2, 0, np.arange(4), 4)
CASES = [
    (lambda: Graded().grade([None], ""), "Graded.grade failed (TypeError: ", "; told is now detail; its traceback"),
    (lambda: Valued().grade([_Answer], ""), "Valued.value failed (AttributeError: ", "no_such_attribute"),
    (
        lambda: Selected().select(ROUND),
        "Selected.select failed (TypeError: ",
        "there are: fidelity, ids, mix, order, scores",
    ),
    (lambda: Helped().select(ROUND), "Helped.select failed (IndexError: list index out of range); mend it", ""),
    (lambda: Embedding().embed(["a"]), "Embedding.embed failed (ValueError: cannot reshape", "mend it"),
    (lambda: Shares().proportions(ROUND, None), "Shares.proportions failed (KeyError: 'b'); mend it", ""),
    (lambda: Searched().search(None, None, 1), "Searched.search failed (RuntimeError: RuntimeError)", ""),
]


class _Answer:
    reference = text = "a"


@pytest.mark.parametrize(("call", "start", "more"), CASES)
def test_a_failure_in_a_users_class_is_one_line_with_its_name(call, start, more):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        call()
    line = fault_line(raised.value)
    assert line.startswith(f"{__name__}.{start}") and more in line and "\n" not in line
    assert "its traceback is in the log" in line and "test_user_code.py" in traceback_of(raised.value)


def test_a_cause_counts_and_a_failure_of_near_is_a_bug():
    try:
        try:
            Helped().select(ROUND)
        except IndexError as error:
            raise RuntimeError("a library's own error") from error
    except RuntimeError as error:
        assert "Helped.select failed" in fault_line(error)
    with pytest.raises(AttributeError) as raised:
        Round.rng(None)  # type: ignore[arg-type]
    assert fault_line(raised.value) is None


def test_a_user_error_of_a_users_class_stays_as_it_is():
    class Strict(Selector):
        def select(self, round):
            raise UserError("n=2 is odd; use 3")

    with pytest.raises(UserError) as raised:
        Strict().select(ROUND)
    assert fault_line(raised.value) == "n=2 is odd; use 3"


@pytest.mark.process
def test_select_ends_with_the_line_and_logs_the_traceback(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from near.selection.round import Subset\n"
        "from near.selection.selectors.base import Selector\n"
        "class Mine(Selector):\n"
        "    def select(self, round):\n"
        "        return Subset(id=round.eligible)\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    words = ["data=files", "data.candidates.path=rows.jsonl", "selector=random", "selector._target_=mine.Mine", "n=1"]
    words += ["embedder=hashing", "output_dir=out"]
    done = process(str(ROOT / "select.py"), *words, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert done.returncode == 1 and "Traceback" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: mine.Mine.select failed (TypeError: ")
    assert "did you mean ids" in done.stderr
    logged = next(tmp_path.rglob("select.log")).read_text()
    assert "return Subset(id=round.eligible)" in logged


def test_a_failure_in_a_library_that_calls_our_classes_is_no_users():
    """The Trainer's loop is transformers', and its `self` is a class of ours."""
    from near.training.trainer import StaticTrainer

    with pytest.raises(AttributeError) as caught:
        object.__new__(StaticTrainer).get_train_dataloader()
    assert failed_class(caught.value) is None
