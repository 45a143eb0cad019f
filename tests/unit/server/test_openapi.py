"""What the server says of itself is what it does: each path and status that is described is answered as described."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("jsonschema")
pytest.importorskip("py3langid")

from jsonschema import Draft202012Validator
from test_attending import untrained
from test_interface import JSON, Client, served

from transformer_mt import __version__
from transformer_mt.server.app import Interface, Settings
from transformer_mt.server.description import description
from transformer_mt.server.metrics import Metrics
from transformer_mt.server.models import Models
from transformer_mt.text.tokenizer import Tokenizers

API = description()
GOOD: dict[str, Any] = {"q": "Where is the nearest railway station?", "source": "en", "target": "de"}

STEPS = ("/explain", "/candidates")

Operation = tuple[str, str]  # method and path
OPERATIONS: dict[Operation, dict[str, Any]] = {
    (method.upper(), path): of for path, methods in API["paths"].items() for method, of in methods.items()
}


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = API
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def check(value: object, schema: dict[str, Any]) -> None:
    """See that a value is what a schema of the description says."""
    validator = Draft202012Validator({**schema, "components": API["components"]})
    validator.check_schema(validator.schema)
    validator.validate(value)


class Answers:
    """What was answered, each compared with its description."""

    def __init__(self) -> None:
        self.seen: set[tuple[Operation, str]] = set()

    def add(self, operation: Operation, response: HTTPResponse, answer: object) -> None:
        status = str(response.status)
        described = resolved(OPERATIONS[operation]["responses"][status])
        kind = (response.getheader("Content-Type") or "").partition(";")[0]
        check(answer, described["content"][kind]["schema"])
        for name, header in described.get("headers", {}).items():
            if value := response.getheader(name):
                check(int(value), resolved(header)["schema"])
        self.seen.add((operation, status))

    def post(self, client: Client, path: str, body: str | dict[str, Any], kind: str = JSON) -> int:
        text = json.dumps(body) if isinstance(body, dict) else body
        response, answer = client.ask("POST", path, text, kind)
        if response.status == 200 and isinstance(body, dict):
            check(body, OPERATIONS["POST", path]["requestBody"]["content"][kind]["schema"])
        self.add(("POST", path), response, answer)
        return response.status

    def slow(self, client: Client, path: str) -> int:
        with closing(HTTPConnection("127.0.0.1", client.port, timeout=30)) as connection:
            connection.putrequest("POST", path)
            connection.putheader("Content-Type", JSON)
            connection.putheader("Content-Length", "9")
            connection.endheaders()
            response = connection.getresponse()
            self.add(("POST", path), response, json.loads(response.read()))
        return response.status


def test_every_status_is_answered_as_described(tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, translator = Answers(), untrained(tokenizers)
    paths = [path for method, path in OPERATIONS if method == "POST"]
    of_models = [path for path in paths if path != "/detect"]
    with served(Settings(2000, 5, timeout_seconds=20), max_waiting=80) as client:
        client.models.add(translator, {("is", "ko"): translator.tags_into("ko")}, 100_000)
        for method, path in OPERATIONS:
            if method == "GET":
                answers.add((method, path), *client.ask(method, path))
        for path, fields in (
            ("/translate", GOOD),
            ("/translate", GOOD | {"q": ["a", "b"], "alternatives": 1}),
            ("/translate", GOOD | {"source": "auto"}),
            ("/translate", GOOD | {"source": "auto", "q": ["<b>a</b>"], "format": "html", "alternatives": 2}),
            *((path, GOOD | {"prefix": ["A"]}) for path in STEPS),
            *((path, GOOD | {"source": "auto"}) for path in STEPS),
            ("/detect", {"q": GOOD["q"]}),
            ("/attention", {"q": "A dog.", "source": "is", "target": "ko"}),
        ):
            assert answers.post(client, path, fields) == 200
        assert answers.post(client, "/attention", GOOD) == 501
        client.models._routes["en", "de"][0].tells_attention = True  # and fails
        for path in paths:
            assert answers.post(client, path, {}) == 400
            assert answers.post(client, path, "x" * 100_000) == 413
            assert answers.post(client, path, "x", "text/plain") == 415
        for path in of_models:
            assert answers.post(client, path, GOOD | {"q": "fail"}) == 500
        [working] = client.models.submit(["wait"], "en", "de")
        assert client.translator.begun.acquire(timeout=30)
        [waiting] = client.models.submit(["a" * 70], "en", "de")
        for path in of_models:
            assert answers.post(client, path, GOOD) == 429
        waiting.cancel()
        client.translator.may_go.set()
        assert working.result(timeout=30).text == "de:WAIT"
        monkeypatch.setattr("transformer_mt.server.app.find_spec", lambda name: None)
        monkeypatch.setattr("transformer_mt.server.app.probable_languages", lambda text, langs: [])
        assert answers.post(client, "/detect", {"q": "a"}) == 501
        for path in ("/translate", *STEPS):
            assert answers.post(client, path, GOOD | {"source": "auto"}) == 501
    with served(Settings(2000, 5, timeout_seconds=0.3)) as client:
        client.models._routes["en", "de"][0].tells_attention = True
        client.models.submit(["wait"], "en", "de")
        for path in paths:
            assert answers.slow(client, path) == 408
        for path in of_models:
            assert answers.post(client, path, GOOD) == 503
    with served(Settings(2000, 5, 20, api_keys=frozenset([hashlib.sha256(b"secret").digest()]))) as client:
        for path in paths:
            assert answers.post(client, path, GOOD) == 400
            assert answers.post(client, path, GOOD | {"api_key": "wrong"}) == 403
        assert answers.post(client, "/translate", GOOD | {"api_key": "secret"}) == 200
    assert answers.seen == {(operation, status) for operation, of in OPERATIONS.items() for status in of["responses"]}


def test_every_path_is_described() -> None:
    """But for those that serve no program: a page, its pictures."""
    with Models() as models:
        routes = Interface(models, Settings(1, 1, 1), Metrics()).routes()
    found = {(method, route.path) for route in routes if route.include_in_schema for method in route.methods or ()}
    assert {operation for operation in found if operation[0] != "HEAD"} == set(OPERATIONS)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str | None] = set()
        self.names: set[str | None] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links |= {value for name, value in attrs if name in ("href", "src")}
        self.names |= {value for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_all_of_it_and_needs_nothing_else() -> None:
    with served() as client:
        response, text = client.ask("GET", "/docs")
        assert client.ask("GET", "/openapi.json")[1] == API and API["info"]["version"] == __version__
    assert str(response.getheader("Content-Security-Policy")).startswith("default-src 'none'")
    page = Page(text)
    assert page.links == {"openapi.json"} | {f"#{name}" for name in API["components"]["schemas"]} & page.links
    assert page.names == {of["operationId"] for of in OPERATIONS.values()} | API["components"]["schemas"].keys()
    for (method, path), of in OPERATIONS.items():
        assert f"{method} {path}" in page.text and of["summary"] in page.text
