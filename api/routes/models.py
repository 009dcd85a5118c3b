"""Champion, challengers and twin, and what the gates say of each challenger now."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api import operation_schemas as schemas
from api.context import Context, answer, documented
from api.promotion import Promotions, challengers
from learner.evaluation import role
from learner.gates import failed, told


def routes(context: Context) -> APIRouter:
    """The route of models. Not a coroutine: it reads the heads, in a thread."""
    router = APIRouter(tags=["operations"])
    promotions = Promotions(context.catalog, context.events.partitions)

    def get_models() -> Response:
        """Every model, its role, and the gates that a challenger would have to pass."""
        standing = promotions.standing(context.catalog.pointers())
        gates = promotions.gates(standing, challengers(standing))
        return answer(
            {
                "champion": standing.champion,
                "items": [
                    {
                        "model": model,
                        "role": role(model, standing.champion),
                        "promotable": model in gates and not failed(gates[model]),
                        "gates": told(gates.get(model, [])),
                    }
                    for model in standing.models
                ],
            }
        )

    router.add_api_route(
        "/v1/models",
        get_models,
        responses={200: {"model": schemas.Models}, **documented(409, 503)},
    )
    return router
