"""What the server answers, described for programs (/openapi.json) and for people (/docs), from one file."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from transformer_mt import __version__
from transformer_mt.system.pages import page_templates

_ROOM = "transformer_mt.server"
_STYLE_ONLY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def description() -> dict[str, Any]:
    """Return the description, as OpenAPI 3.1 has it."""
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(files(_ROOM).joinpath("openapi.yaml").read_text("utf-8"))
    found["info"]["version"] = __version__
    return found


def description_routes() -> list[Route]:
    whole = description()
    as_json = JSONResponse(whole)
    as_page = HTMLResponse(page_templates(_ROOM).get_template("docs.html").render(api=whole), headers=_STYLE_ONLY)

    async def openapi(request: Request) -> Response:
        return as_json

    async def docs(request: Request) -> Response:
        return as_page

    return [Route("/openapi.json", openapi), Route("/docs", docs)]
