"""Formulas, by math-verify (the extra `maths`): the expressions of two texts, compared by their value."""

import importlib.util
import logging

from near.common.errors import UserError, one_line
from near.common.extras import install


class Formulas:
    """Whether two texts hold the same expression, set, interval or equation, as math-verify finds them: 2\\sqrt{3} is
    \\sqrt{12}. It is given seconds for each and reads LaTeX well; of numbers as people write them ("3½", "1 000 000",
    "#### 42 apples for 3") it misses half, which near/evaluation/graders/number.py reads itself."""

    def check(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                f"evaluation.graders.number.formulas=true: math-verify is not installed; {install('maths')}"
            )

    def read(self, text: str) -> list:
        """What math-verify takes out of a text; [] where it finds nothing."""
        import math_verify

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it prints whole answers where it gives up
        try:
            return math_verify.parse(text)
        except ValueError as error:  # its limits of time are signals
            raise UserError(f"evaluation.graders.number.formulas=true: {one_line(error)[:200]}") from error

    def same(self, wanted: list, found: list) -> bool:
        import math_verify

        return bool(math_verify.verify(wanted, found))
