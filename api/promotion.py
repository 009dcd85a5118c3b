"""Whether a challenger may be champion: the gates over what all partitions' heads have lost.

The cut is each partition's head, for losses are what learning has scored last; where nothing is
published yet, the log's beginning stands. Guarantees: nothing is written. Leaves out: the tests
themselves (``learner.gates``), and what a promotion does (the fold). All of it blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from api.catalog import Catalog
from api.problems import Problem
from api.search import close_names
from learner.evaluation import role
from learner.gates import Gate, evidence, failed, judge, told
from learner.manifest import Manifest, settings_of
from learner.replay import START
from learner.served import read_losses
from learner.store import Pointers
from stream.settings import TWIN


class Judged(NamedTuple):
    """A cut, the champion in it, and what the gates found of a challenger."""

    cut: dict[int, str]
    champion: str
    gates: list[Gate]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return not failed(self.gates)


class Standing(NamedTuple):
    """What is judged over: the heads, the champion they agree on, and all models."""

    heads: list[Manifest]
    champion: str
    models: tuple[str, ...]


class Promotions:
    """Judges challengers.

    Parameters
    ----------
    catalog
        The snapshots there are.
    partitions
        How many the log has.
    """

    def __init__(self, catalog: Catalog, partitions: int) -> None:
        self._catalog = catalog
        self._partitions = partitions

    def standing(self, pointers: Mapping[int, Pointers]) -> Standing:
        """The heads, if they can be judged together.

        Raises
        ------
        Problem
            Nothing is published, a replay is under way, or partitions serve different champions.
        """
        heads = [
            self._catalog.manifest(partition, one.head.snapshot)
            for partition, one in sorted(pointers.items())
            if one.head is not None
        ]
        if not heads:
            raise Problem(
                409, "no-snapshots", "Nothing to operate on", "no snapshot was published yet",
                remedy="start the learner, and wait for its first snapshot",
            )  # fmt: skip
        behind = [str(one.partition) for one in heads if one.replay is not None]
        if behind:
            raise Problem(
                409, "replaying", "A replay is under way",
                f"partitions {', '.join(behind)} learn again: what they have lost will change",
                remedy="wait until GET /v1/status says that nothing is replaying",
            )  # fmt: skip
        champions = sorted({one.champion for one in heads})
        if len(champions) > 1:
            raise Problem(
                409, "champions-differ", "Partitions have different champions",
                f"{' and '.join(champions)} are served: a promotion is still on its way",
                remedy="wait until it is applied in every partition; see GET /v1/operations",
            )  # fmt: skip
        return Standing(heads, champions[0], settings_of(heads[0]).models)

    def judge(self, model: str, pointers: Mapping[int, Pointers]) -> Judged:
        """What the gates say of a model.

        Raises
        ------
        Problem
            It is no challenger, or ``standing`` says why nothing can be judged.
        """
        standing = self.standing(pointers)
        _challenger(model, standing)
        cut = dict.fromkeys(range(self._partitions), START)
        cut |= {one.partition: one.snapshot for one in standing.heads}
        (gates,) = self.gates(standing, [model]).values()
        return Judged(cut, standing.champion, gates)

    def gates(self, standing: Standing, models: Sequence[str]) -> dict[str, list[Gate]]:
        """Gates of several challengers, by name."""
        found = evidence([read_losses(self._catalog.store, one) for one in standing.heads])
        return {model: judge(found, standing.models, standing.champion, model) for model in models}

    def require(self, judged: Judged, model: str) -> str:
        """What the audit trail says of gates that hold.

        Raises
        ------
        Problem
            409: the first gate that does not, and all of them in ``gates``.
        """
        wrong = failed(judged.gates)
        if wrong:
            raise Problem(
                409, "gate-failed", "A gate does not let it pass",
                f"`{model}` is not promoted over `{judged.champion}`: "
                + "; ".join(f"gate `{name}`: {why}" for name, why in wrong.items()),
                field="model",
                remedy="let both be scored longer, or mend the challenger; there is no way round "
                "the gates, only a rollback to a snapshot of before a promotion",
                more={"gate": next(iter(wrong)), "gates": told(judged.gates)},
            )  # fmt: skip
        best = min(
            (test for gate in judged.gates if gate.gate == "better" for test in gate.tests),
            key=lambda test: test.p,
        )
        return (
            f"over {judged.champion}: squared loss {best.champion:.4f} → {best.challenger:.4f} at "
            f"horizon {best.horizon} over {best.blocks} blocks, p = {best.p:.2g}; "
            f"{sum(gate.tested for gate in judged.gates)} tests in {len(judged.gates)} gates"
        )


def challengers(standing: Standing) -> list[str]:
    """Models that may be judged."""
    return [one for one in standing.models if role(one, standing.champion) == "challenger"]


def _challenger(model: str, standing: Standing) -> None:
    there = challengers(standing)
    if model in there:
        return
    what = {standing.champion: "is the champion already", TWIN: "learns nothing"}
    raise Problem(
        409 if model in standing.models else 404,
        "unknown-model" if model not in standing.models else "not-a-challenger",
        "Not a challenger",
        f"`{model[:300]}` {what.get(model, 'is no model that is scored here')}",
        field="model",
        remedy=(f"choose one of {', '.join(there)}" if there else "there is no challenger")
        + "; the setting `challengers` names those that learn beside the champion",
        near=close_names(model, there) or None,
    )
