"""Kernel ridge regression on few rows, with the prediction for each row when it is left out."""

from collections.abc import Sequence

import numpy as np

PENALTIES = np.logspace(-3, 2, 11)  # times the mean of the kernel's diagonal
BLOCK = 4096  # rows predicted at a time


class KernelRidge:
    """Ridge regression under a sum of Gaussian kernels, one for each part p of the features:

        k(x, z) = sum_p exp(-|x_p - z_p|^2 / width_p)

    The penalty is that with the least squared error of rows left out one by one, which has a closed form (Rasmussen and
    Williams, Gaussian Processes for Machine Learning, 2006, equation 5.12). The values' mean is subtracted before.

    Args:
        parts: float (m, d_p) each, of m rows.
        values: float (m, t).
        widths: one for each part; see `widths`.

    Attributes:
        penalty: the one of PENALTIES times the mean of the kernel's diagonal.
        left_out: float64 (m, t): for each row the prediction of the regression on all others.
    """

    def __init__(self, parts: Sequence[np.ndarray], values: np.ndarray, widths: Sequence[float]):
        self._parts, self._widths, self._mean = parts, widths, values.mean(axis=0, dtype=np.float64)
        kernel = self._kernel(parts)
        eigenvalues, vectors = np.linalg.eigh(kernel)
        inner, least = vectors.T @ (values - self._mean), np.inf
        for penalty in PENALTIES * np.trace(kernel) / len(kernel):
            inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
            weights = vectors @ (inverse[:, None] * inner)  # (m, t)
            errors = weights / (vectors**2 @ inverse)[:, None]
            if (error := float((errors**2).sum())) < least:
                least, self.penalty, self.left_out, self._weights = error, penalty, values - errors, weights

    def predict(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """float64 (n, t) of features float (n, d_p) each."""
        blocks = [[part[start : start + BLOCK] for part in parts] for start in range(0, len(parts[0]), BLOCK)]
        return self._mean + np.concatenate([self._kernel(block) @ self._weights for block in blocks])

    def _kernel(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Of n rows and those of the regression, float64 (n, m)."""
        pairs = zip(parts, self._parts, self._widths, strict=True)
        return sum(np.exp(squared_distances(of, known) / -width) for of, known, width in pairs)


def squared_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (n, m) of rows float (n, d) and others (m, d)."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    distances = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * (rows @ others.T)
    return np.maximum(distances, 0)


def widths(parts: Sequence[np.ndarray]) -> list[float]:
    """The median squared distance of two rows, in each part, float (m, d_p), m >= 2."""
    pairs = np.triu_indices(len(parts[0]), 1)
    return [float(np.median(squared_distances(part, part)[pairs])) or 1.0 for part in parts]
