"""The page at `/`: a few static files, which a browser keeps to this server by what it is told with each."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = files("transformer_mt.server") / "static"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    # Nothing from outside and nothing inline: text of a translation can never become a script.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked for again: its tag tells whether it has changed
}


def page_routes() -> list[Route]:
    """`/`, which is index.html, and each file of the folder under `/static/`."""
    return [
        _route("/" if file.name == "index.html" else f"/static/{file.name}", file.name, file.read_bytes())
        for file in sorted(_FOLDER.iterdir(), key=lambda file: file.name)
    ]


def _route(path: str, name: str, content: bytes) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    media_type = _TYPES[name.rpartition(".")[2]]

    async def answer(request: Request) -> Response:
        headers = {**_HEADERS, "ETag": tag}
        if tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return Route(path, answer, include_in_schema=False)
