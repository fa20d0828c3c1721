"""Which answers may be handed to a scorer that evaluates them.

Some of reasoning-gym's scorers read an answer with sympy's parser, which runs any Python. They get arithmetic alone.
"""

import ast
import math
from collections.abc import Mapping

EVALUATED = {"countdown", "intermediate_integration", "polynomial_multiplication", "simple_integration"}  # tasks
FUNCTIONS = set("Abs acos acosh asin asinh atan atanh cos cosh cot csc exp ln log sec sin sinh sqrt tan tanh".split())
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
LONGEST = 1000  # characters of an expression
LARGEST = 1e4  # digits of a number in it, once its powers are computed


def is_harmless(task: str, entry: Mapping, answer: str) -> bool:
    """Whether nothing that the scorer of `task` evaluates for this answer does more than arithmetic."""
    if task not in EVALUATED:
        return True
    metadata = entry.get("metadata")
    integrand = metadata.get("integrand", "0") if isinstance(metadata, Mapping) else "0"
    return all(isinstance(text, str) and is_arithmetic(text) for text in (answer, entry.get("answer"), integrand))


def is_arithmetic(text: str) -> bool:
    """Whether a text is an expression of numbers, letters, pi, FUNCTIONS and + - * / **, of bounded size."""
    if len(text) > LONGEST or not text.isascii():
        return False
    try:
        return _digits(ast.parse(text, mode="eval").body)[0] <= LARGEST
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _digits(node: ast.expr) -> tuple[float, bool]:
    """A bound of the digits of any number in an expression once it is computed, and whether it has a variable.

    Raises ValueError for anything but arithmetic.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and abs(node.value) < 1e300:
        return math.log10(abs(node.value) + 1) + 1, False
    if isinstance(node, ast.Name) and (node.id == "pi" or len(node.id) == 1 and node.id.isalpha()):
        return 1.0, True
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, OPERATORS):
        return _digits(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        (left, in_left), (right, in_right) = _digits(node.left), _digits(node.right)
        is_power = isinstance(node.op, ast.Pow) and not in_left and not in_right
        return left * 10 ** min(right - 1, 300) if is_power else left + right, in_left or in_right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if len(node.args) == 1 and not node.keywords:
            return _digits(node.args[0])
    raise ValueError
