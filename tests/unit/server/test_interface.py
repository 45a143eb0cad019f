"""LibreTranslate's interface over real sockets, in front of a translator that is no model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NoReturn
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from transformer_mt.decoding.explanations import Candidate, ExplainedPart, Explanation, Token
from transformer_mt.decoding.translations import Alternative, Translation
from transformer_mt.server.app import Interface, Settings
from transformer_mt.server.markup import Page
from transformer_mt.server.metrics import Metrics
from transformer_mt.server.models import Models
from transformer_mt.server.running import Server, listening

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
SETTINGS = Settings(max_characters=2000, max_texts=5, timeout_seconds=20)


class Fake:
    """Translates "x" into "de:X" where 7 stands for German, with alternatives; some texts fail, or wait."""

    can_align, tells_attention, num_at_once, is_pytorch = True, False, 1, True

    def __init__(self) -> None:
        self.begun, self.may_go = threading.Semaphore(0), threading.Event()
        self.seen: list[str] = []
        self.threads: set[int] = set()  # that have translated

    def attention_maps(self, *args: object, **options: object) -> NoReturn:
        raise NotImplementedError

    def found_at_most(self, n_best: int | None) -> int | None:
        return n_best

    def translate(
        self, lines: Sequence[str], *, tags: Sequence[int], align: bool, n_best: int | None
    ) -> list[Translation]:
        self.seen.extend(lines)
        self.threads.add(threading.get_ident())
        if "fail" in lines:
            raise RuntimeError("failed on purpose")
        if "wait" in lines:
            self.begun.release()
            assert self.may_go.wait(30)
        return [self._translation(line, {7: "de", 8: "fr"}[tags[0]], align, n_best or 1) for line in lines]

    def explain(
        self, lines: Sequence[str], *, tags: Sequence[int], prefix: Sequence[str] | None = None, n_best: int
    ) -> list[Explanation]:
        found = self.translate(lines, tags=tags, align=False, n_best=n_best)
        tokens = [Token(one.text, one.text, 0, -0.5) for one in found]
        parts = [ExplainedPart(one.source, one.text, "", [token]) for one, token in zip(found, tokens, strict=True)]
        return [Explanation(part.text, [], "", [part]) for part in parts]

    def candidates(
        self, lines: Sequence[str], *, tags: Sequence[int], prefix: Sequence[str], count: int
    ) -> list[list[Candidate]]:
        found = self.translate(lines, tags=tags, align=False, n_best=None)
        return [[Candidate(one.text, -0.5, one.text, one.text)] for one in found]

    def _translation(self, line: str, lang: str, align: bool, n_best: int) -> Translation:
        links = [(i, i) for i in range(len(line.split()))] if align else None
        texts = (line.upper(), line, line.upper(), f"{line}!")
        found = [Alternative(f"{lang}:{text}", 0.0, [], links) for text in texts[:n_best]]
        return Translation(line, *found[0][:3], found, 0, False)


class Client:
    def __init__(self, port: int, translator: Fake, models: Models) -> None:
        self.port, self.translator, self.models = port, translator, models

    def ask(
        self, method: str, path: str, body: str | bytes = b"", kind: str = JSON, **headers: str
    ) -> tuple[HTTPResponse, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, {"Content-Type": kind, **headers})
            response = connection.getresponse()
            text = response.read().decode()
            return response, json.loads(text) if response.getheader("Content-Type") == JSON else text

    def post(self, path: str, **fields: object) -> tuple[int, Any]:
        response, answer = self.ask("POST", path, json.dumps(fields))
        return response.status, answer

    def translate(self, **fields: object) -> tuple[int, Any]:
        return self.post("/translate", **({"source": "en", "target": "de"} | fields))

    def refused(self, status: int, body: str | bytes, kind: str = JSON) -> str:
        response, answer = self.ask("POST", "/translate", body, kind)
        assert response.status == status and list(answer) == ["error"]
        assert self.translate(q="alive") == (200, {"translatedText": "de:ALIVE"})
        return str(answer["error"])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextlib.contextmanager
def listens(models: Models, settings: Settings, metrics: Metrics) -> Iterator[int]:
    """A server in a thread, at this port."""
    with listening("127.0.0.1", 0) as listener:
        server = Server(Interface(models, settings, metrics), settings)
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def served(settings: Settings = SETTINGS, max_waiting: int = 100_000) -> Iterator[Client]:
    """English into German and French by one translator, Dutch into German by another."""
    translator, metrics = Fake(), Metrics()
    other = Fake()
    other.is_pytorch = False  # as an export, which has threads of its own
    with Models() as models:
        models.add(translator, {("en", "de"): [7], ("en", "fr"): [8]}, max_waiting, metrics.batch_texts.observe)
        models.add(other, {("nl", "de"): [7]}, max_waiting)
        metrics.watch(lambda: models.num_waiting)
        with listens(models, settings, metrics) as port:
            client = Client(port, translator, models)
            try:
                yield client
            finally:
                client.translator.may_go.set()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def test_translate(client: Client) -> None:
    assert client.translate(q="a b") == (200, {"translatedText": "de:A B"})
    assert client.translate(q=["a", "b"]) == (200, {"translatedText": ["de:A", "de:B"]})
    assert client.translate(q=["a"], target="fr", format="text") == (200, {"translatedText": ["fr:A"]})
    body = '\ufeff{"q": "a", "source": "en", "target": "de"}'
    assert client.ask("POST", "/translate", body)[1] == {"translatedText": "de:A"}
    body = urlencode({"q": "Ä & b", "source": "nl", "target": "de", "format": ""})
    assert client.ask("POST", "/translate", body, FORM)[1] == {"translatedText": "de:Ä & B"}


def test_a_form_of_parts(client: Client) -> None:
    fields = {"q": "Ä\r\nb", "source": "en", "target": "de", "alternatives": "1"}
    body = "".join(f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items())
    for charset in ("", "; charset=latin-1", "; charset=undefined"):  # UTF-8, whatever it says
        _, answer = client.ask("POST", "/translate", f"{body}--x--\r\n", f"multipart/form-data; boundary=x{charset}")
        assert answer == {"translatedText": "de:Ä\r\nB", "alternatives": ["de:Ä\r\nb"]}


def test_fields_in_the_address(client: Client) -> None:
    assert client.ask("POST", "/translate?q=%C3%A4+b&source=en&target=de", "", "")[1] == {"translatedText": "de:Ä B"}
    assert client.ask("POST", "/translate?target=fr", "q=a&source=en", FORM)[1] == {"translatedText": "fr:A"}


def test_a_field_given_twice_is_not_lost(client: Client) -> None:
    part = '--x\r\nContent-Disposition: form-data; name="q"\r\n\r\na\r\n'
    for path, body, kind in (
        ("/translate", "q=a&q=b&source=en&target=de", FORM),
        ("/translate?q=b", "q=a&source=en&target=de", FORM),
        ("/translate?source=en&target=de", f"{part}{part}--x--\r\n", "multipart/form-data; boundary=x"),
    ):
        response, answer = client.ask("POST", path, body, kind)
        assert (response.status, answer) == (400, {"error": "Invalid request: q is given twice"})


def test_alternatives(client: Client) -> None:
    """As many as are asked for, or as there are, each once; of those that ask for none no more than the best."""
    assert client.translate(q="a", alternatives=1)[1] == {"translatedText": "de:A", "alternatives": ["de:a"]}
    assert client.translate(q="a", alternatives=2)[1]["alternatives"] == ["de:a"]  # the third is the first again
    assert client.translate(q=["a"], alternatives="9")[1]["alternatives"] == [["de:a", "de:a!"]]
    assert "alternatives" not in client.translate(q="a", alternatives=0)[1]


def test_html(client: Client) -> None:
    """Markup stays, also where a translation has some of its own; texts of all blocks are translated together."""
    page = '<p>A <a href="x?y&amp;z">dog</a> runs.</p><ul><li>one<li>&lt;script&gt;</ul><script>a < b</script>'
    assert client.translate(q=page, format="html", alternatives=1)[1] == {
        "translatedText": '<p>de:A <a href="x?y&amp;z">DOG</a> RUNS.</p>'
        "<ul><li>de:ONE</li><li>de:&lt;SCRIPT&gt;</li></ul><script>a < b</script>",
        "alternatives": [],
    }
    answer = client.translate(q=["", "a <b>b</b>", "<hr>"], format="html", alternatives=1)[1]
    assert answer == {"translatedText": ["", "de:A <b>B</b>", "<hr>"], "alternatives": [[], [], []]}
    body = urlencode({"q": "<b>ä</b>", "source": "en", "target": "fr", "format": "html"})
    assert client.ask("POST", "/translate", body, FORM)[1] == {"translatedText": "<b>fr:Ä</b>"}
    for broken in ("<b>" * 200, "<!doctype html>"):
        whole = {"q": broken, "source": "en", "target": "de", "format": "html"}
        assert "Invalid request" in client.refused(400, json.dumps(whole))


def test_others_are_answered_while_html_is_read_and_written(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Seen(Page):
        def __init__(self, text: str) -> None:
            seen.append(threading.get_ident())
            super().__init__(text)

        def __str__(self) -> str:
            seen.append(threading.get_ident())
            return super().__str__()

    monkeypatch.setattr("transformer_mt.server.app.Page", Seen)
    monkeypatch.setattr("transformer_mt.server.app._alternatives", lambda *_: seen.append(threading.get_ident()))
    client.translate(q="a", alternatives=1)
    assert client.translate(q="<b>a", format="html")[0] == 200
    answering, *working = seen
    assert len(working) == 2 and answering not in working


def test_languages_are_told_apart(client: Client) -> None:
    pytest.importorskip("py3langid")
    english, dutch = "Where is the nearest railway station?", "Waar is het dichtstbijzijnde treinstation?"
    status, found = client.post("/detect", q=dutch)
    assert status == 200 and found[0]["language"] == "nl" and 50 < found[0]["confidence"] <= 100
    assert len(found) == 3 and all(one["language"] in ("de", "en", "fr", "nl") for one in found)
    _, answer = client.translate(q=english, source="auto")
    assert answer["translatedText"] == f"de:{english.upper()}" and answer["detectedLanguage"]["language"] == "en"
    _, answer = client.translate(q=[dutch, "een"], source="auto")
    assert [one["language"] for one in answer["detectedLanguage"]] == ["nl", "nl"]
    assert client.translate(q="x", source="auto", target="ja")[0] == 400


def test_without_an_identifier(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.server.app.find_spec", lambda name: None)
    monkeypatch.setattr("transformer_mt.server.app.probable_languages", lambda text, langs: [])
    status, answer = client.post("/detect", q="a")
    assert status == 501 and "langid" in answer["error"]
    status, answer = client.translate(q="a", source="auto")
    assert status == 501 and "one of en, nl" in answer["error"]
    only = {"translatedText": "fr:A", "detectedLanguage": {"language": "en", "confidence": 0}}
    assert client.translate(q="a", source="auto", target="fr") == (200, only)


def test_what_a_server_tells_of_itself(client: Client) -> None:
    assert client.ask("GET", "/languages")[1] == [
        {"code": "de", "name": "German", "targets": []},
        {"code": "en", "name": "English", "targets": ["de", "fr"]},
        {"code": "fr", "name": "French", "targets": []},
        {"code": "nl", "name": "Dutch", "targets": ["de"]},
    ]
    assert client.ask("GET", "/health")[1] == {"status": "ok"}
    settings = client.ask("GET", "/frontend/settings")[1]
    assert settings["charLimit"] == 2000 and settings["keyRequired"] is False
    assert settings["language"]["source"] == {"code": "en", "name": "English"}


def test_what_is_refused(client: Client) -> None:
    whole = {"q": "a", "source": "en", "target": "de"}
    for name in whole:
        for value in (None, ""):
            assert client.refused(400, json.dumps({**whole, name: value})).endswith(f"missing {name} parameter")
    wrong: list[tuple[str, object, str]] = [
        ("q", [], "q parameter is not text"),
        ("q", 7, "q parameter is not text"),
        ("q", ["a", None], "q parameter is not text"),
        ("q", {"a": "b"}, "q parameter is not text"),
        ("q", "\ud800", "q parameter is not Unicode"),
        ("source", ["en"], "source parameter is not text"),
        ("source", "xx", "xx is not supported; supported are en, nl"),
        ("source", "\ud800", "source parameter is not Unicode"),
        ("source", "x" * 500, "x… is not supported"),
        ("target", "nl\r\n", "is not supported; supported are de, fr"),
        ("format", "xml", "xml format is not supported"),
        ("format", 7, "format parameter is not text"),
        ("alternatives", "many", "alternatives parameter is not a number"),
        ("alternatives", 1.5, "alternatives parameter is not a number"),
        ("alternatives", -1, "alternatives parameter is not a number from 0 on"),
        ("alternatives", True, "alternatives parameter is not a number"),
        ("alternatives", "9" * 5000, "alternatives parameter is not a number"),
    ]
    for field, found, message in wrong:
        assert message in client.refused(400, json.dumps({**whole, field: found}))
    assert "fr is not available as a target language from nl" in client.refused(
        400, json.dumps({**whole, "source": "nl", "target": "fr"})
    )
    assert client.post("/detect") == (400, {"error": "Invalid request: missing q parameter"})


def test_broken_bodies(client: Client) -> None:
    for body in ("", "{", "[1]", "null", "[" * 100_000, '{"q": ' + "9" * 5000 + "}", '{"q": NaN}', '"text"'):
        assert "Invalid" in client.refused(400, body[:80_000])
    for kind in (JSON, FORM, "multipart/form-data; boundary=x"):
        assert "not UTF-8" in client.refused(400, b'{"q": "\xff"}', kind)
    assert "not UTF-8" in client.refused(400, "q=%ff&source=en&target=de", FORM)
    assert "what its Content-Type says" in client.refused(400, "&".join(f"a{i}=" for i in range(99)), FORM)
    assert "boundary" in client.refused(400, "q=a", "multipart/form-data")
    assert "Invalid" in client.refused(400, "--y\r\nx", "multipart/form-data; boundary=x")
    file = '--x\r\nContent-Disposition: form-data; name="q"; filename="f"\r\n\r\na\r\n--x--\r\n'
    assert "Too many files" in client.refused(400, file, "multipart/form-data; boundary=x")
    assert "Content-Type: application/json" in client.refused(415, "a", "text/plain")
    assert "missing q" in client.refused(400, '{"q": "a"}', FORM)  # as curl -d sends it


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["en", "de", "html"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["q", "source", "target", "format", "alternatives", "api_key", "prefix", "number"])
PATHS = st.sampled_from(["/translate", "/explain", "/candidates"])
KINDS = st.sampled_from(
    [JSON, FORM, "multipart/form-data; boundary=x", "multipart/form-data; boundary=", "text/html", ""]
)


@given(st.dictionaries(NAMES, ANYTHING), st.binary(max_size=60), KINDS, PATHS)
def test_whatever_comes_is_answered_or_refused(client: Client, fields: Any, data: bytes, kind: str, path: str) -> None:
    whole = {"q": "<p>a", "source": "en", "target": "de"} | fields
    for body, its_kind in (
        (json.dumps(whole), JSON),
        (urlencode(whole, errors="surrogatepass"), FORM),
        (data, kind),
        (b"--x\r\n" + data + b"\r\n\r\n" + data + b"\r\n--x--", kind),
    ):
        response, answer = client.ask("POST", path, body, its_kind)
        assert list(answer) == ["error"] if response.status in (400, 415) else response.status == 200


def test_a_broken_form_is_told_to_its_sender_only(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.refused(400, "--x\r\n{: 1\r\n\r\na\r\n--x--", "multipart/form-data; boundary=x")
    assert not caplog.records


def test_limits(client: Client) -> None:
    whole = {"source": "en", "target": "de"}
    assert client.translate(q=["a" * 1000] * 2)[0] == client.translate(q=[""] * 4 + ["a"])[0] == 200
    assert "2001 characters" in client.refused(400, json.dumps({**whole, "q": ["a" * 1000, "b" * 1001]}))
    assert "6 texts" in client.refused(400, json.dumps({**whole, "q": ["a"] * 6}))
    assert "6 texts" in client.refused(400, json.dumps({**whole, "q": "<p>a" * 6, "format": "html"}))
    longest = "\N{GRINNING FACE}" * 2000  # in the longest spelling
    assert client.translate(q=longest)[1] == {"translatedText": f"de:{longest}"}
    response, answer = client.ask("POST", "/translate", urlencode({**whole, "q": longest}), FORM)
    assert response.status == 200 and answer == {"translatedText": f"de:{longest}"}
    assert "bytes" in client.refused(413, "x" * 100_000)
    assert client.post("/detect", q="a" * 2001)[0] == 400


def test_paths_and_methods(client: Client) -> None:
    for method, path, status in (
        ("GET", "/translate", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/health/", 404),
        ("POST", "/%ff", 404),
    ):
        response, answer = client.ask(method, path)
        assert response.status == status and list(answer) == ["error"]
    response, _ = client.ask("GET", "/languages", Origin="http://elsewhere.example")
    assert not any(name.lower().startswith("access-control") for name in response.headers)


def test_a_failure_is_one_clients(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    assert client.translate(q=["fail", "a"]) == (500, {"error": "The server failed"})
    wait_until(lambda: "failed on purpose" in caplog.text)  # for whoever runs the server
    assert client.translate(q="a")[0] == 200


def test_many_clients(client: Client) -> None:
    """None gets another's answer."""
    wrong: list[object] = []

    def one_client(number: int) -> None:
        for i in range(20):
            texts, lang = [f"n{number} i{i} t{j}" for j in range(1 + (number + i) % 3)], ("de", "fr")[i % 2]
            answer = client.translate(q=texts, target=lang)
            if answer != (200, {"translatedText": [f"{lang}:{text.upper()}" for text in texts]}):
                wrong.append(answer)

    threads = [threading.Thread(target=one_client, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_metrics() -> None:
    with served() as client:
        assert client.translate(q=["ab", "c"])[0] == 200
        assert client.translate(q="a", source="xx")[0] == 400
        assert client.ask("GET", "/nowhere/else")[0].status == 404
        found = dict(line.rsplit(" ", 1) for line in client.ask("GET", "/metrics")[1].splitlines() if line[0] != "#")
    assert found['tmt_requests_total{path="/translate",status="200"}'] == "1.0"
    assert found['tmt_requests_total{path="/translate",status="400"}'] == "1.0"
    assert found['tmt_requests_total{path="other",status="404"}'] == "1.0"
    assert found["tmt_characters_total"] == "3.0" and found["tmt_waiting_characters"] == "0.0"
    assert found["tmt_batch_texts_count"] == "1.0" and found["tmt_batch_texts_sum"] == "2.0"
    assert found['tmt_request_seconds_count{path="/translate"}'] == "2.0"


def test_keys() -> None:
    keys = frozenset(hashlib.sha256(key.encode()).digest() for key in ("secret", "schlüssel"))
    with served(Settings(2000, 5, 20, api_keys=keys)) as client:
        for key in ("secret", "schlüssel"):
            assert client.translate(q="a", api_key=key)[0] == 200
        body = urlencode({"q": "a", "source": "en", "target": "de", "api_key": "secret"})
        assert client.ask("POST", "/translate", body, FORM)[0].status == 200
        for path in ("/translate", "/detect"):
            assert client.post(path, q="a", api_key="wrong") == (403, {"error": "Invalid API key"})
            assert client.post(path, q="a", api_key=["secret"])[0] == 400
            status, answer = client.post(path, q="a")
            assert status == 400 and "API key" in answer["error"]
        assert client.ask("GET", "/languages")[0].status == 200
        assert client.ask("GET", "/frontend/settings")[1]["keyRequired"] is True


def test_other_origins_where_asked_for() -> None:
    with served(Settings(2000, 5, 20, cors_origins=("http://page.example",))) as client:
        response, _ = client.ask("GET", "/languages", Origin="http://page.example")
        assert response.getheader("Access-Control-Allow-Origin") == "http://page.example"
        response, _ = client.ask("GET", "/languages", Origin="http://elsewhere.example")
        assert response.getheader("Access-Control-Allow-Origin") is None
        asks = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST"}
        response, _ = client.ask("OPTIONS", "/translate", **asks, **{"Access-Control-Request-Headers": "content-type"})
        assert response.status == 200


def test_a_full_queue_and_a_late_answer() -> None:
    with served(Settings(2000, 5, timeout_seconds=0.5), max_waiting=10) as client:
        answers: list[tuple[int, Any]] = []
        first = threading.Thread(target=lambda: answers.append(client.translate(q="wait")))
        first.start()
        assert client.translator.begun.acquire(timeout=30)
        waits = threading.Thread(target=lambda: answers.append(client.translate(q="a" * 9)))
        waits.start()
        wait_until(lambda: client.models.num_waiting > 0)
        response, answer = client.ask("POST", "/translate", json.dumps({"q": "b", "source": "en", "target": "de"}))
        assert response.status == 429 and answer["error"].startswith("Slowdown")
        assert int(response.getheader("Retry-After") or 0) >= 1
        assert client.translate(q="b", source="nl")[0] == 200  # another model's queue
        first.join()
        waits.join()
        assert [status for status, _ in answers] == [503, 503] and "0.5 seconds" in answers[0][1]["error"]
        client.translator.may_go.set()
        assert client.translate(q="a")[0] == 200  # who gave up takes no room


def test_a_text_that_fails_takes_those_back_that_nobody_waits_for() -> None:
    texts = ["fail", "wait", *"a" * 68]  # a batch, of which each is tried by itself, and six more
    with served(Settings(2000, 100, timeout_seconds=30)) as client:
        assert client.translate(q=texts)[0] == 500
        assert client.translator.begun.acquire(timeout=30)
        client.translator.may_go.set()
        assert client.translate(q="b")[0] == 200
        assert len(client.translator.seen) == 64 + 64 + 1


def test_models_of_pytorch_share_a_thread() -> None:
    translators = [Fake() for _ in range(3)]
    translators[2].is_pytorch = False
    with Models() as models:
        for translator, source in zip(translators, ("en", "nl", "fr"), strict=True):
            models.add(translator, {(source, "de"): [7]}, 100)
        found = [models.submit(["a"], source, "de")[0].result(30).text for source in ("en", "nl", "fr") for _ in "12"]
    assert found == ["de:A"] * 6
    assert translators[0].threads == translators[1].threads and len(translators[0].threads) == 1
    assert not translators[2].threads & translators[0].threads


def test_an_end_that_does_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    """As of a second Ctrl-C, or past the time that an end may take."""
    translator = Fake()
    with Models() as models, listening("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as pool:
        models.add(translator, {("en", "de"): [7]}, 100)
        server = Server(Interface(models, SETTINGS, Metrics()), SETTINGS)
        running = threading.Thread(target=server.run, args=[[listener]])
        running.start()
        asked = pool.submit(Client(listener.getsockname()[1], translator, models).translate, q="wait")
        assert translator.begun.acquire(timeout=30)
        server.should_exit = server.force_exit = True
        running.join()
        translator.may_go.set()
        assert asked.result() == (503, {"error": "The server is ending"}) and not caplog.text


def test_a_client_that_leaves_takes_its_texts_with_it() -> None:
    with served() as client:
        first = threading.Thread(target=client.translate, kwargs={"q": "wait"})
        first.start()
        assert client.translator.begun.acquire(timeout=30)
        body = json.dumps({"q": "left", "source": "en", "target": "de"}).encode()
        head = b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head % len(body) + body)
            wait_until(lambda: client.models.num_waiting > 0)
        wait_until(lambda: 'status="499"} 1.0' in client.ask("GET", "/metrics")[1])
        client.translator.may_go.set()
        first.join()
        assert client.translate(q="a")[0] == 200 and client.translator.seen == ["wait", "a"]


def test_an_end_answers_what_was_accepted() -> None:
    with served() as client:
        answers: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(client.translate(q="wait")))
        asking.start()
        assert client.translator.begun.acquire(timeout=30)
        threading.Timer(0.3, client.translator.may_go.set).start()
        client.translator = Fake()  # the server's is let go by the timer, not by the end of the block
    asking.join()
    assert answers == [(200, {"translatedText": "de:WAIT"})]
