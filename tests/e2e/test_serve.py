"""`tmt serve`: our models and exports behind LibreTranslate's interface, from its start to its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from harness import Trained, environment, free_port, is_served, serving, tmt_here, translated

pytest.importorskip("starlette")


def ask(port: int, path: str, **fields: object) -> Any:
    """As `libretranslatepy` asks: a form."""
    body = urlencode(fields).encode() if fields else None
    with urlopen(Request(f"http://127.0.0.1:{port}{path}", data=body), timeout=60) as response:
        return json.loads(response.read())


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[int]:
    with serving(trained.run, "--set", "search.n_best=2") as (_, port):
        yield port


def test_its_translations_are_those_of_tmt_translate(trained: Trained, server: int, sources: list[str]) -> None:
    expected = translated(trained, sources)
    found: dict[str, str] = {}

    def one_client(own: list[str]) -> None:
        for line in own:
            found[line] = ask(server, "/translate", q=line, source="src", target="tgt")["translatedText"]

    clients = [threading.Thread(target=one_client, args=[sources[i::4]]) for i in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [found[line] for line in sources] == expected
    body = json.dumps({"q": [*sources, "", "a b\nc"], "source": "auto", "target": "tgt", "alternatives": 3}).encode()
    request = Request(f"http://127.0.0.1:{server}/translate", body, {"Content-Type": "application/json"})
    answer = json.loads(urlopen(request, timeout=60).read())
    assert answer["translatedText"][:-2] == expected and answer["translatedText"][-2] == ""
    assert answer["translatedText"][-1] == "\n".join(translated(trained, ["a b", "c"]))
    assert answer["detectedLanguage"] == [{"language": "src", "confidence": 0}] * len(answer["translatedText"])
    assert all(len(own) <= 1 for own in answer["alternatives"]) and any(answer["alternatives"])


def test_the_text_of_html_is_that_of_tmt_translate(trained: Trained, server: int, sources: list[str]) -> None:
    """With an element around all but the first word, by the model's own alignment."""
    page = "".join(f"<p>{line.replace(' ', ' <b>', 1)}</b></p>" for line in sources)
    found = ask(server, "/translate", q=page, source="src", target="tgt", format="html")["translatedText"]
    assert re.sub("</?b>", "", found) == "".join(f"<p>{line}</p>" for line in translated(trained, sources))
    assert found.count("<b>") == page.count("<b>") == found.count("</b>")


def test_a_client_of_libretranslate(trained: Trained, server: int, sources: list[str]) -> None:
    client = pytest.importorskip("libretranslatepy").LibreTranslateAPI(f"http://127.0.0.1:{server}/")
    assert client.translate(sources[0], "src", "tgt") == translated(trained, sources[:1])[0]
    assert [(one["code"], one["targets"]) for one in client.languages()] == [("src", ["tgt"]), ("tgt", [])]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_answers_what_was_accepted(trained: Trained, number: signal.Signals) -> None:
    lines = trained.train_src.read_text().splitlines()[:600]
    with serving(trained.run) as (running, port):
        answers = []
        body = json.dumps({"q": lines, "source": "src", "target": "tgt"}).encode()
        request = Request(f"http://127.0.0.1:{port}/translate", body, {"Content-Type": "application/json"})
        asking = threading.Thread(target=lambda: answers.append(json.loads(urlopen(request, timeout=60).read())))
        asking.start()
        running.wait_until(lambda: "tmt_waiting_characters 0.0" not in metrics_of(port))
        running.signal(number)
        asking.join()
        done = running.end()
    assert len(answers[0]["translatedText"]) == 600 and done.ok().stdout == b""
    assert done.stderr == f"serving src-tgt at http://127.0.0.1:{port}; Ctrl-C ends it\n"


def metrics_of(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        return str(response.read().decode())


def test_what_cannot_be_served(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> str:
        done = tmt_here("serve", *args)
        assert (done.status, done.stdout) == (2, b"")
        return done.refusal

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot be listened on (Address already in use)" in refused(trained.run, "--port", port)
    assert "--host no.such.host.invalid --port 5000" in refused(trained.run, "--host", "no.such.host.invalid")
    assert "no such model directory" in refused(tmp_path / "none", "--port", 0)
    assert f"translates src-tgt, as {trained.run} does" in refused(trained.run, trained.run, "--port", 0)
    (tmp_path / "keys").write_text("# none yet\n\n")
    assert "no keys" in refused(trained.run, "--api-keys", tmp_path / "keys")
    assert "none: cannot be used (No such file" in refused(trained.run, "--api-keys", tmp_path / "none")
    monkeypatch.setattr("transformer_mt.cli.serve.find_spec", lambda name: None)
    assert "pip install 'transformer-mt[serve]'" in refused(trained.run)


WITHOUT_TORCH = """
import sys
from transformer_mt.cli.main import main
try:
    main()
finally:
    assert "ctranslate2" in sys.modules and "starlette" in sys.modules and "torch" not in sys.modules
"""


def test_an_export_is_served_without_pytorch(trained: Trained, tmp_path: Path) -> None:
    """Keys too, from a file. (The harness's forks have PyTorch: this is a process of its own.)"""
    pytest.importorskip("ctranslate2")
    export, keys, port = tmp_path / "export", tmp_path / "keys", free_port()
    tmt_here("export", trained.run, "--format", "ctranslate2", "--output", export).ok()
    keys.write_text("secret  # somebody's\n\nother\n")
    [expected] = tmt_here("translate", export, stdin="a b c\n").ok().lines
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", str(export), "--port", str(port), "--api-keys", str(keys)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while not is_served(port):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            answer = ask(port, "/translate", q="a b c", source="src", target="tgt", api_key="secret")
            assert answer == {"translatedText": expected}
            page = {"q": "<p>a <b>b</b> c", "source": "src", "target": "tgt", "format": "html", "api_key": "other"}
            assert re.sub("</?[bp]>", "", ask(port, "/translate", **page)["translatedText"]) == expected
            with pytest.raises(URLError, match="403"):
                ask(port, "/translate", q="a b c", source="src", target="tgt", api_key="secret  # somebody's")
            assert ask(port, "/frontend/settings")["attention"] is False
            with pytest.raises(URLError, match="501"):
                ask(port, "/attention", q="a b c", source="src", target="tgt", api_key="secret")
        finally:
            os.kill(process.pid, signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0 and b"Traceback" not in told
