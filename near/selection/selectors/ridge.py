"""Ridge regression on few rows with many features, with the prediction for each row when it is left out."""

import numpy as np

PENALTIES = np.logspace(-3, 3, 13)  # times the mean square of the singular values


class Ridge:
    """min |y - a - X b|^2 + penalty |b|^2, the penalty with the least squared error of rows left out one by one.

    The errors have a closed form (Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2009, equation
    7.64): (y - y^) / (1 - h), h the diagonal of the matrix that makes y^ of y.

    Args:
        features: float (m, d), m >= 3.
        values: float (m, t).

    Attributes:
        penalty: the one of PENALTIES times the mean square of the singular values.
        left_out: float64 (m, t): for each row the prediction of the regression on all others.
    """

    def __init__(self, features: np.ndarray, values: np.ndarray):
        features, values = features.astype(np.float64), values.astype(np.float64)
        self._mean, self._value = features.mean(axis=0), values.mean(axis=0)
        left, singular, right = np.linalg.svd(features - self._mean, full_matrices=False)
        inner = left.T @ (values - self._value)  # (r, t)
        least, scale = np.inf, max(float((singular**2).mean()), 1e-300)
        for penalty in PENALTIES * scale:
            shrink = singular**2 / (singular**2 + penalty)  # (r,)
            fitted = self._value + left @ (shrink[:, None] * inner)  # (m, t)
            leverage = 1 / len(values) + (left**2) @ shrink  # (m,)
            errors = (values - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]
            if (error := float((errors**2).sum())) < least:
                least, self.penalty, self.left_out = error, penalty, values - errors
                self._slopes = right.T @ ((singular / (singular**2 + penalty))[:, None] * inner)  # (d, t)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """float64 (n, t) of features float (n, d)."""
        return self._value + (features - self._mean) @ self._slopes
