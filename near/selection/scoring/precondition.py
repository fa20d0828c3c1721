"""Gradient features in units of how much they vary over the pool: products with the inverse of a damped Fisher."""

from collections.abc import Iterable

import numpy as np

from near.common.errors import UserError

MOST_DIM = 8192  # of features; the matrix takes 8 * dim^2 bytes, 0.5 GB then


def check_precondition(dim: int | None) -> None:
    """UserError for a `scoring.dim` whose matrix is too large."""
    if dim is None or dim > MOST_DIM:
        raise UserError(
            "scoring.precondition=fisher factors a matrix of scoring.dim x scoring.dim numbers, and scoring.dim is "
            f"{dim}; use scoring.dim<={MOST_DIM}"
        )


def preconditioned(
    queries: np.ndarray, pool: Iterable[tuple[np.ndarray, np.ndarray]], rows: int, damping: float
) -> np.ndarray:
    """(F + lambda I)^-1 q of every query q, scaled to length 1 (zeros stay zero); float32 (n_queries, dim).

    F is the mean of g g' over the pool's unit features g, an empirical Fisher of the projected gradients, as in TRAK
    (Park et al. 2023, arXiv 2303.14186) and bergson. lambda is `damping` times the mean eigenvalue of F, as in Grosse
    et al. 2023 (arXiv 2308.03296), who use 0.1. A row's score is the product of its unit feature with the result. So
    directions in which all rows of the pool agree count less, and those that few rows have count more.

    Computed in float64 by one Cholesky factorisation, in place: 8 * dim^2 bytes.

    Args:
        queries: unit features, float32 (n_queries, dim).
        pool: the pool's features, block by block: positions, and unit features float32 (m, dim).
        rows: of the pool.
        damping: see above.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.linalg.blas import dsyrk

    dim = queries.shape[1]
    fisher = np.zeros((dim, dim), order="F")  # its lower triangle
    for _, block in pool:
        fisher = dsyrk(1 / rows, block.T.astype(np.float64, order="F"), 1.0, fisher, lower=1, overwrite_c=1)
    mean_eigenvalue = np.trace(fisher) / dim
    if mean_eigenvalue == 0:  # no row has a gradient
        return queries
    fisher[np.diag_indices(dim)] += damping * mean_eigenvalue
    factor = cho_factor(fisher, lower=True, overwrite_a=True, check_finite=False)
    solved = cho_solve(factor, queries.T.astype(np.float64), check_finite=False).T  # (n_queries, dim)
    lengths = np.linalg.norm(solved, axis=1, keepdims=True)
    return (solved / np.where(lengths > 0, lengths, 1)).astype(np.float32)
