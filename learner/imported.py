"""Any River regressor or pipeline, by its import path.

Leaves out: the features that it learns, and whether it fits into a snapshot (``models``).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from river import base
from river.compose import Pipeline

from stream.errors import SettingsError


def regressor_of(name: str) -> Any:
    """The regressor of a path: one that has ``learn_many`` as it is, others row by row.

    Raises
    ------
    SettingsError
        It cannot be imported, is no regressor, or draws numbers without a seed.
    """
    found = _imported(name)
    try:
        regressor = found if isinstance(found, base.Estimator) else found()
    except TypeError as error:
        raise SettingsError(
            f"model `{name}` cannot be made of nothing: {error}",
            remedy="Name a function that takes nothing and gives it with what it needs",
        ) from None
    last = list(regressor.steps.values())[-1] if isinstance(regressor, Pipeline) else regressor
    if not isinstance(last, base.Regressor):
        raise SettingsError(
            f"model `{name}` is no River regressor, but {type(last).__name__}",
            remedy="Name a regressor, or a pipeline that ends in one",
        )
    _check_seeds(name, regressor)
    regressor = regressor.clone()
    many = isinstance(regressor, base.MiniBatchRegressor)
    return regressor if many else RowByRow(regressor)


def _imported(path: str) -> Any:
    module, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"model `{path}` cannot be imported: {error}",
            remedy="Give package.module.Name, importable where the learner and the API run",
        ) from None


def _check_seeds(name: str, estimator: Any) -> None:
    """Refuse what would draw other numbers at every start: no state could be reproduced."""
    params = estimator.steps if isinstance(estimator, Pipeline) else estimator._get_params()
    for key, value in params.items():
        if key == "seed" and value is None:
            raise SettingsError(
                f"model `{name}` draws random numbers without a seed ({type(estimator).__name__})",
                remedy="Name a function that gives it with seed=...",
            )
        for part in _parts(value):
            _check_seeds(name, part)


def _parts(value: Any) -> Iterator[base.Estimator]:
    """Estimators in a parameter: itself, or those it holds."""
    if isinstance(value, base.Estimator):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _parts(one)
    elif isinstance(value, (list, tuple, set)):
        for one in value:
            yield from _parts(one)


class RowByRow:
    """A River regressor that learns row by row, behind ``learn_many`` and ``predict_many``."""

    def __init__(self, regressor: Any) -> None:
        self.regressor = regressor

    def learn_many(self, X: pd.DataFrame, y: pd.Series[float]) -> None:
        """Learn rows in order."""
        for x, target in zip(X.to_dict("records"), y.tolist(), strict=True):
            self.regressor.learn_one(x=x, y=target)

    def predict_many(self, X: pd.DataFrame) -> list[float]:
        """Predict rows in order; a fault of the regressor is no number."""
        return [float(self.regressor.predict_one(x=x) or 0.0) for x in X.to_dict("records")]
