"""Starlette and nothing else, served as the API is: ``python -m tests.bench.bare_server PORT``."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def answer(request: Request) -> Response:
    """A small JSON object."""
    return JSONResponse({"store": request.path_params["store"], "mean": 1.5})


async def take(request: Request) -> Response:
    """Read the body; answer with as many bytes as were asked for."""
    await request.body()
    size = int(request.query_params.get("bytes", "2"))
    return Response(b"0" * size, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        Starlette(
            routes=[
                Route("/v1/forecasts/{store}/{product:path}", answer),
                Route("/take", take, methods=["POST"]),
            ]
        ),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
