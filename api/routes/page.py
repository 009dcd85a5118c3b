"""The page: static files of the package, and plotly's script out of its own package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def install(app: FastAPI) -> None:
    """Serve the page at ``/``, and its files under ``/static``."""
    folder = Path(__file__).parent.parent / "page"
    plotly = Path(str(files("plotly").joinpath("package_data", "plotly.min.js")))

    async def page(_: Request) -> Response:
        return FileResponse(folder / "index.html", headers=_HEADERS)

    async def script(_: Request) -> Response:
        headers = {**_HEADERS, "Cache-Control": "max-age=86400"}
        return FileResponse(plotly, media_type="text/javascript", headers=headers)

    app.add_route("/", page, include_in_schema=False)
    app.add_route("/static/plotly.min.js", script, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=folder, check_dir=False))
