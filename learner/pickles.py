"""The one place where pickles are read: an allow-list of what models are made of.

The boundary is the signature of the snapshot (``manifest``); this stands behind it. Leaves out:
verifying where the bytes come from.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection
from typing import Any

from stream.errors import SnapshotCorrupt, SnapshotForeign

_ALLOWED = {
    ("learner.ensemble", "Ensemble"),
    ("learner.models", "Ratio"),
    ("learner.models", "Simple"),
    ("learner.twin", "Twin"),
    ("learner.regression", "ForgettingRegression"),
    ("river.linear_model.bayesian_lin_reg", "BayesianLinearRegression"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


#: What River's regressors are made of; allowed only where the settings name one by its path.
_ALLOWED_FOREIGN = {
    *(("builtins", name) for name in ("set", "frozenset", "dict", "list", "tuple", "object", "bool",
                                      "int", "float", "complex", "str", "bytes")),
    ("copyreg", "_reconstructor"), ("collections", "Counter"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "deque"),
    ("functools", "partial"), ("random", "Random"), ("learner.imported", "RowByRow"),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Allows classes of models only; ``packages``: those that the settings name by a path."""

    def __init__(self, file: io.BytesIO, packages: frozenset[str]) -> None:
        super().__init__(file)
        self._packages = packages

    def find_class(self, module: str, name: str) -> Any:
        listed = (module, name) in _ALLOWED or (
            bool(self._packages) and (module, name) in _ALLOWED_FOREIGN
        )
        if listed or self._named(module):
            found = super().find_class(module, name)
            # A module holds more than what is its package's own, and a name may lead through it.
            if listed or self._named(getattr(found, "__module__", None) or ""):
                return found
        raise SnapshotForeign(f"a snapshot's models name `{module}.{name}`, which no model is")

    def _named(self, module: str) -> bool:
        """Whether a module is of one of the packages."""
        return module.partition(".")[0] in self._packages


def load_models(data: bytes | bytearray, names: Collection[str] = ()) -> dict[str, Any]:
    """Models of a verified snapshot.

    Parameters
    ----------
    names
        The models' names; those that are import paths may hold classes of their packages.

    Raises
    ------
    SnapshotCorrupt
        They cannot be unpickled; ``SnapshotForeign``: they name a class that is no model's.
    """
    packages = {name.replace(":", ".").partition(".")[0] for name in names if "." in name}
    if packages:
        packages.add("river")
    try:
        models: dict[str, Any] = _Unpickler(io.BytesIO(data), frozenset(packages)).load()
    except SnapshotForeign:
        raise
    except Exception as error:
        raise SnapshotCorrupt(f"a snapshot's models cannot be read: {error!r}") from error
    return models
