"""River's Bayesian linear regression, with row weights and forgetting.

Both are exact in River's own terms: a row of weight w is River's row with X and y times √w,
and forgetting decays precision and natural mean towards the prior before the next rows are
learned. With forgetting off, learning by columns equals River's ``learn_one`` row by row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
from river import linear_model

Floats = npt.NDArray[np.float64]


class ForgettingRegression(linear_model.BayesianLinearRegression):
    """Bayesian linear regression whose past fades by ``forget``, not by the row.

    Parameters
    ----------
    alpha, beta
        Precision of the prior and of the noise, as in River.
    """

    def __init__(self, alpha: float = 1, beta: float = 1) -> None:
        super().__init__(alpha=alpha, beta=beta)

    def forget(self, kept: float) -> None:
        """Let a share ``kept`` of what was learned survive; the prior is put back in full.

        Without the prior, a column that no longer varies would lose all precision, and its
        inverse would overflow.
        """
        n = len(self._idx)
        if n == 0 or kept == 1.0:
            return
        precision = self._ss_arr[:n, :n]
        precision *= kept
        precision[np.diag_indices(n)] += (1.0 - kept) / self.alpha
        self._eta_arr[:n] *= kept
        self._ss_inv_arr[:n, :n] = np.linalg.inv(precision)
        self._m_dirty = True


def weighted(X: pd.DataFrame, y: Floats, weights: Floats) -> tuple[pd.DataFrame, pd.Series[float]]:
    """Rows as River takes them, with their weights worked in.

    Parameters
    ----------
    X, y, weights
        Shapes (n, F), (n,), (n,).
    """
    root = np.sqrt(weights)
    rows = X.to_numpy() * root[:, None]
    return pd.DataFrame(rows, columns=X.columns, copy=False), pd.Series(y * root)
