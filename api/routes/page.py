"""The page and ``/docs``: static files of the package, and scripts out of packages of their own.

Nothing is loaded from elsewhere, so that both work in a closed network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


#: Files that other packages bring: name under ``/static`` → package, path in it, media type.
_BROUGHT = {
    "plotly.min.js": ("plotly", "package_data/plotly.min.js", "text/javascript"),
    "swagger-ui-bundle.js": (
        "fastapi_offline", "static/swagger-ui-bundle.js", "text/javascript",
    ),
    "swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css", "text/css"),
    "swagger-ui.png": ("fastapi_offline", "static/favicon.png", "image/png"),
}  # fmt: skip


def install(app: FastAPI) -> None:
    """Serve the page at ``/``, the interactive API at ``/docs``, their files under ``/static``."""
    folder = Path(__file__).parent.parent / "page"

    async def page(_: Request) -> Response:
        return FileResponse(folder / "index.html", headers=_HEADERS)

    async def docs(request: Request) -> Response:
        static = f"{request.scope.get('root_path', '')}/static"
        found = get_swagger_ui_html(
            openapi_url=f"{request.scope.get('root_path', '')}{app.openapi_url}",
            title="Salescast: API",
            swagger_js_url=f"{static}/swagger-ui-bundle.js",
            swagger_css_url=f"{static}/swagger-ui.css",
            swagger_favicon_url=f"{static}/swagger-ui.png",
        )
        found.headers.update(_HEADERS)
        return found

    app.add_route("/", page, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)
    for name, (package, path, kind) in _BROUGHT.items():
        file = Path(str(files(package).joinpath(path)))
        app.add_route(f"/static/{name}", _serving(file, kind), include_in_schema=False)
    app.mount("/static", _Files(directory=folder, check_dir=False))


class _Files(StaticFiles):
    """The page's own files, which change with a release: asked for again, and nothing else."""

    def file_response(self, *args: Any, **given: Any) -> Response:
        """A file with the headers of the page."""
        found = super().file_response(*args, **given)
        found.headers.update(_HEADERS)
        return found


def _serving(file: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """A route that serves one file, which changes with its package only."""
    headers = {**_HEADERS, "Cache-Control": "max-age=86400"}

    async def serve(_: Request) -> Response:
        return FileResponse(file, media_type=kind, headers=headers)

    return serve
