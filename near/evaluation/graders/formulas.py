"""Formulas, by math-verify (the extra `maths`): the expressions of two texts, compared by their value."""

import importlib.util
import logging

from near.common.errors import UserError, one_line
from near.common.extras import install


class Formulas:
    """Whether two texts contain the same expression, set, interval or equation, as math-verify reads them:
    2\\sqrt{3} is \\sqrt{12}.

    math-verify takes seconds at most for each text and reads LaTeX well, but misses half of the numbers as people write
    them ("3½", "1 000 000", "#### 42 apples for 3"); near/evaluation/graders/number.py reads those.
    """

    def check(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                f"evaluation.graders.number.formulas=true: math-verify is not installed; {install('maths')}"
            )

    def read(self, text: str) -> list:
        """The expressions that math-verify extracts from a text; [] if none."""
        import math_verify

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs whole answers that it can't read
        try:
            return math_verify.parse(text)
        except ValueError as error:  # its timeouts are signals, which only the main thread may set
            raise UserError(f"evaluation.graders.number.formulas=true: {one_line(error)[:200]}; use false") from error

    def same(self, expected: list, actual: list) -> bool:
        import math_verify

        return bool(math_verify.verify(expected, actual))
