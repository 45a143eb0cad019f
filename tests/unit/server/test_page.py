"""The files of the page, as a browser gets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from test_interface import Client, served

STATIC = files("transformer_mt.server") / "static"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def test_every_file_comes_with_its_type_and_stays_here(client: Client) -> None:
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for file in STATIC.iterdir():
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        response, text = client.ask("GET", path)
        assert response.status == 200 and text == file.read_text(encoding="utf-8")
        assert (response.getheader("Content-Type") or "").startswith(types[file.name.rpartition(".")[2]])
        assert (response.getheader("Content-Security-Policy") or "").startswith("default-src 'self';")
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        tag = response.getheader("ETag") or ""
        again, _ = client.ask("GET", path, **{"If-None-Match": tag})
        assert again.status == 304 and again.getheader("ETag") == tag
    assert client.ask("HEAD", "/")[0].status == 200
    for path in ("/static/", "/static/page.py", "/static/../page.py", "/static/%2e%2e/page.py", "/index.html"):
        assert client.ask("GET", path)[0].status == 404


def test_a_wheel_has_them() -> None:
    """What is no module is in a wheel only where its ending is named."""
    import tomllib

    from harness import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "server/static/*" in project["tool"]["setuptools"]["package-data"]["transformer_mt"]


def test_nothing_is_inline_nor_markup_made_of_text() -> None:
    """What the policy forbids would fail in silence; what it allows must not be needed."""
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", html)
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", text), file
