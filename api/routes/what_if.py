"""What if, and why: questions to the champion itself."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asked import DEFAULT_HORIZON, NAMES, check, named, short, unknown_series
from api.context import Context, answer, documented
from api.planning import known_covariate
from api.problems import Problem, invalid
from api.replica import View
from api.schemas import Flag, Number, ShortName
from learner.forecaster import ALL_PARTS, Wishes
from stream.event import MAX_COVARIATE

DECIMALS = 4

Covariate = Annotated[Number, Field(ge=-MAX_COVARIATE, le=MAX_COVARIATE, allow_inf_nan=False)]


class WhatIf(BaseModel):
    """What to suppose of one series; a single value counts for every step."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"store": "330", "product": "SOFT DRINKS", "horizon": 7, "promotion": 0.4},
                {"store": "330", "product": "SOFT DRINKS", "horizon": 3, "price": [None, 1.5, 1.5]},
            ]
        },
    )

    store: ShortName
    product: ShortName
    horizon: int | None = Field(None, ge=1, strict=True, description="Buckets ahead; by default 14")
    promotion: (
        Annotated[Number, Field(ge=0, le=1)]
        | list[Annotated[Number, Field(ge=0, le=1)] | None]
        | None
    ) = Field(None, description="Promotion in [0, 1]; null: as planned")
    price: (
        Annotated[Number, Field(gt=0, le=1e6)]
        | list[Annotated[Number, Field(gt=0, le=1e6)] | None]
        | None
    ) = Field(None, description="Price; null: as planned")
    closed: Flag | list[Flag | None] | None = Field(None, description="Closed; null: as planned")
    covariates: dict[ShortName, Covariate | list[Covariate | None] | None] | None = Field(
        None, description="By the names of the setting `covariates`; null: as planned"
    )


class Supposed(BaseModel):
    """One step of a what-if, in units."""

    start: str
    end: str
    base: float = Field(
        description="The model's mean as things are planned: of the whole bucket, whatever of it "
        "is sold already, which the forecast of an open bucket takes in"
    )
    mean: float = Field(description="The mean under what is supposed")
    baseline: float = Field(
        description="The mean without promotion, at the usual price; at none, where prices are "
        "told of promotions alone"
    )
    uplift: float = Field(description="What `mean` is above `baseline`")


class WhatIfAnswer(BaseModel):
    """A what-if beside the forecast as planned."""

    store: str
    product: str
    category: str
    origin: str
    model: str
    snapshot: str
    steps: list[Supposed]


class ExpertShare(BaseModel):
    """What one expert says, weighed."""

    name: str
    weight: float = Field(
        description="With the factor that balances the whole: weights need not add up to 1"
    )
    units: float = Field(description="Weight times what it says")


class Explanation(BaseModel):
    """A forecast in parts that add up to `mean`, and in experts that do so too; in units."""

    store: str
    product: str
    category: str
    origin: str
    model: str
    snapshot: str
    horizon: int
    start: str
    end: str
    mean: float = Field(description="Of the whole bucket, whatever of it is sold already")
    parts: dict[str, float] = Field(
        description=f"{', '.join(ALL_PARTS)}; 0 where the model does not tell one apart"
    )
    experts: list[ExpertShare]


def routes(context: Context) -> APIRouter:
    """The routes of what-if and explanations."""
    router = APIRouter(tags=["forecasts"])
    settings = context.settings
    default = min(DEFAULT_HORIZON, settings.horizons)

    @router.post(
        "/v1/forecasts:what-if",
        response_model=WhatIfAnswer,
        responses=documented(404, 422, 503),
    )
    async def what_if(wanted: WhatIf) -> Response:
        """Forecast one series under other prices, promotions or closures than planned."""
        asked = check(wanted.horizon or default, None, settings.horizons)
        view, row = await _find(context, wanted.store, wanted.product)
        return answer(await run_sync(_suppose, context, wanted, asked.horizon, view, row))

    @router.get(
        "/v1/explain/{store:name}/{product:name}",
        response_model=Explanation,
        responses=documented(404, 422, 503),
        openapi_extra={"parameters": NAMES},
    )
    async def explain(
        request: Request,
        horizon: int = Query(1, ge=1, le=settings.horizons, description="Which bucket ahead"),
    ) -> Response:
        """Split a forecast into parts, and into experts, that add up to it."""
        view, row = await _find(context, *named(request.scope["raw_path"], b"/v1/explain/"))
        return answer(await run_sync(_explain, context, horizon, view, row))

    return router


async def _find(context: Context, store: str, product: str) -> tuple[View, int]:
    found = context.replica.find(store, product)
    if found is None:
        raise await run_sync(unknown_series, context.replica, store, product)
    return found


def _head(view: View, row: int) -> dict[str, Any]:
    serving = view.serving
    return {
        "store": serving.stores[row],
        "product": serving.products[row],
        "category": serving.categories[row],
        "origin": view.origin,
        "model": serving.champion,
        "snapshot": serving.snapshot,
    }


def _steps(name: str, value: Any, horizon: int) -> npt.NDArray[np.float64]:
    """Values a step, shape (horizon,); ``nan`` where plans hold.

    Raises
    ------
    Problem
        A list is longer than the horizon.
    """
    if not isinstance(value, list):
        return np.full(horizon, np.nan if value is None else float(value))
    if len(value) > horizon:
        raise invalid(
            name, f"{len(value)} values for {horizon} steps", "give one a step, or raise `horizon`"
        )
    out = np.full(horizon, np.nan)
    out[: len(value)] = [np.nan if one is None else float(one) for one in value]
    return out


def _covariates(
    context: Context, wanted: WhatIf, horizon: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Covariates to suppose, by name.

    Raises
    ------
    Problem
        One is not of the setting `covariates`, or has more values than there are steps.
    """
    found = {}
    for name, value in (wanted.covariates or {}).items():
        known_covariate(name, context.settings.covariates)
        found[name] = _steps(f"covariates.{name}", value, horizon)
    return found


def _suppose(
    context: Context, wanted: WhatIf, horizon: int, view: View, row: int
) -> dict[str, Any]:
    """The answer of a what-if."""
    wishes = Wishes(
        promotion=_steps("promotion", wanted.promotion, horizon),
        price=_steps("price", wanted.price, horizon),
        closed=_steps("closed", wanted.closed, horizon),
        covariates=_covariates(context, wanted, horizon),
    )
    supposed = (wishes.promotion, wishes.price, wishes.closed, *wishes.covariates.values())
    if not any(np.isfinite(one).any() for one in supposed):
        raise Problem(
            422, "invalid", "Invalid request", "nothing is supposed", field="promotion",
            remedy="give `promotion`, `price`, `closed` or `covariates`: a value, or one a step",
        )  # fmt: skip
    if horizon > len(view.serving.mean):
        raise short(horizon, len(view.serving.mean))
    forecaster = context.recaller.of(view)
    if np.isfinite(wishes.price).any() and not forecaster.usual_price(row) > 0:
        raise invalid(
            "price", "no sale of this series had a price, so its effect is unknown",
            "send sales with prices, or leave `price` out",
        )  # fmt: skip
    base = forecaster.forecast(row, horizon)
    mean = forecaster.forecast(row, horizon, wishes)
    baseline = forecaster.baseline(row, horizon, wishes)
    uplift = (mean - baseline).round(DECIMALS) + 0.0  # no minus before a zero
    columns = zip(
        view.times[:horizon], base.round(DECIMALS).tolist(), mean.round(DECIMALS).tolist(),
        baseline.round(DECIMALS).tolist(), uplift.tolist(), strict=True,
    )  # fmt: skip
    steps = [
        {"start": start, "end": end, "base": b, "mean": m, "baseline": plain, "uplift": more}
        for (start, end), b, m, plain, more in columns
    ]
    return {**_head(view, row), "steps": steps}


def _explain(context: Context, horizon: int, view: View, row: int) -> dict[str, Any]:
    """The answer of an explanation."""
    if horizon > len(view.serving.mean):
        raise short(horizon, len(view.serving.mean))
    found = context.recaller.of(view).explain(row, horizon)
    start, end = view.times[horizon - 1]
    experts = [
        {"name": name, "weight": round(weight, DECIMALS), "units": round(units, DECIMALS) + 0.0}
        for name, (weight, units) in found.experts.items()
    ]
    return {
        **_head(view, row),
        "horizon": horizon,
        "start": start,
        "end": end,
        "mean": round(found.mean, DECIMALS),
        "parts": {name: round(units, DECIMALS) + 0.0 for name, units in found.parts.items()},
        "experts": experts,
    }
