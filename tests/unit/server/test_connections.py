"""Bytes that no honest client sends, too slowly or too often: each gets the right status, and the server lives."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")

from test_interface import Client, served, wait_until

from transformer_mt.errors import InputError
from transformer_mt.server.app import Settings
from transformer_mt.server.connections import Connection
from transformer_mt.server.running import allow_files

POST = b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(Settings(2000, 5, timeout_seconds=1)) as client:
        yield client


def connected(client: Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=30)


def answered(connection: socket.socket) -> list[int]:
    """The status of the next answer, which is read whole."""
    answer = b""
    while not answer.endswith(b"}"):
        chunk = connection.recv(65536)
        assert chunk, answer
        answer += chunk
    return statuses(answer)


def rest(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def raw(client: Client, *pieces: bytes) -> bytes:
    with connected(client) as connection:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):
                connection.sendall(piece)
        return rest(connection)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def test_no_part_of_an_answer_waits_for_an_acknowledgement(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    options, usual = [], Connection.connection_made

    def made(self: Connection, transport: Any) -> None:
        usual(self, transport)
        options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Connection, "connection_made", made)
    with connected(client) as connection:
        connection.sendall(HEALTH)
        assert answered(connection) == [200]
    assert len(options) == 1 and options[0]


HOSTILE = {
    "nothing": (b"", []),
    "TLS": (b"\x16\x03\x01\x02\r\n\r\n", [400]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [404, 400]),
    "no HTTP": (b"translate a dog\r\n\r\n", [400]),
    "zeros": (b"\0" * 100_000, [400]),
    "many headers": (POST + b"a: b\r\n" * 100_000, [400]),
    "a long header": (POST + b"a: " + b"b" * 1_000_000 + b"\r\n\r\n", [400]),
    "a long path": (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n", [400]),
    "a header without a colon": (POST + b"header\r\n\r\n", [400]),
    "a header with NUL": (POST + b"a: \0\r\n\r\n", [400]),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", [400]),
    "a path that is not ASCII": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
    "a path that is not UTF-8": (b"GET /%ff%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [404]),
    "a path upwards": (b"GET /static/../../x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [404]),
    "a query that is not UTF-8": (b"GET /health?%ff=%0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [200]),
    "another method": (b"BREW /translate HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [405]),
    "a web socket": (HEALTH[:-2] + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", [200]),
    "a length below zero": (POST + b"Content-Length: -1\r\n\r\n", [400]),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", [400]),
    "a huge length": (POST + b"Content-Length: 99999999999999\r\n\r\n", [413]),
    "a length beyond numbers": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", [400]),
    "endless chunks": (CHUNKED + (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 4, [413]),
    "a chunk without a size": (CHUNKED + b"x\r\n{}\r\n0\r\n\r\n", [400]),
    "a chunk of another size": (CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", [400]),
    "a chunk beyond numbers": (CHUNKED + b"f" * 100 + b"\r\n{}", [400]),
    "a huge chunk that does not come": (CHUNKED + b"fffffffffffff\r\n{}", [408]),
    "a body that does not come": (POST + b"Content-Length: 9\r\n\r\n{", [408]),
    "a head that does not come": (POST, [408]),
    "rubbish behind a request": (HEALTH + b"rubbish\r\n\r\n", [200, 400]),
    "many requests at once": (HEALTH * 200 + b"\0\r\n\r\n", [200] * 200 + [400]),
    "a broken body where none is read": (CHUNKED.replace(b"translate", b"nowhere") + b"x\r\n", [400]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_http(client: Client, name: str, caplog: pytest.LogCaptureFixture) -> None:
    sent, expected = HOSTILE[name]
    started = time.monotonic()
    answer = raw(client, sent)
    assert statuses(answer) == expected and time.monotonic() - started < 10
    for head in answer.split(b"HTTP/1.1 ")[1:]:
        assert b"application/json" in head and b"nosniff" in head
    assert client.translate(q="alive") == (200, {"translatedText": "de:ALIVE"})
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_broken_body_behind_an_answer(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with connected(client) as connection:
        connection.sendall(CHUNKED.replace(b"translate", b"nowhere"))
        assert answered(connection) == [404]
        connection.sendall(b"x\r\n")
        assert rest(connection) == b""
    assert client.translate(q="alive")[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_body_without_end_behind_an_answer(client: Client) -> None:
    with connected(client) as connection:
        connection.sendall(CHUNKED.replace(b"translate", b"nowhere"))
        assert answered(connection) == [404]
        with pytest.raises(ConnectionError):
            for _ in range(200):
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.05)


def test_a_client_that_is_gone(client: Client) -> None:
    for sent in (b"", POST, POST + b"Content-Length: 10\r\n\r\n{", HEALTH, HEALTH * 1000):
        with connected(client) as connection:
            connection.sendall(sent)
    assert client.translate(q="alive")[0] == 200


def test_a_head_byte_by_byte(client: Client) -> None:
    """The time is for all of it, also of a connection's second; one that asks nothing is closed without a word."""
    for first in (b"", HEALTH):
        with connected(client) as connection:
            connection.sendall(first)
            assert not first or answered(connection) == [200]
            started = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for i in range(40):
                    connection.sendall(POST[i : i + 1])
                    time.sleep(0.05)
            assert statuses(rest(connection)) == [408] and time.monotonic() - started < 10
    assert client.translate(q="alive")[0] == 200


def test_more_connections_than_allowed() -> None:
    with served(Settings(2000, 5, 20, max_connections=20)) as client, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(client)) for _ in range(20)]
        busy = [stack.enter_context(connected(client)) for _ in range(20)]
        assert rest(stack.enter_context(connected(client))) == b""  # as if it had not been accepted
        busy[0].sendall(HEALTH)
        answer = rest(busy[0])
        assert statuses(answer) == [503] and b"retry-after: 1\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "Too many connections"}
        idle[0].sendall(HEALTH)
        assert answered(idle[0]) == [200]
        stack.close()
        wait_until(lambda: client.ask("GET", "/health")[0].status == 200)
        assert client.translate(q="alive")[0] == 200


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system does not end what is not read")
def test_answers_that_nobody_reads() -> None:
    """Their connection counts until it is ended."""
    ask = HEALTH.replace(b"health", b"openapi.json")
    with served(Settings(2000, 5, timeout_seconds=1, max_connections=1)) as client, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", client.port))
        deaf.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                deaf.sendall(ask * 100)
        assert client.ask("GET", "/health")[0].status == 503
        wait_until(lambda: client.ask("GET", "/health")[0].status == 200)


def test_files_that_the_system_does_not_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: found.append(limits))
    allow_files(20)
    allow_files(500)
    assert found == [(1064, 4096)]
    with pytest.raises(InputError, match=r"--max-connections 5000: takes 10064 open files, .* may have 4096"):
        allow_files(5000)


def test_script_is_text(client: Client) -> None:
    """As JSON where text was asked for; in HTML what was text is escaped, and what was script is not text."""
    script = "<script>alert(1)</script>"
    for sent, form, expected in (
        (script, "text", f"de:{script.upper()}"),
        ("a &lt;script&gt; b", "html", "de:A &lt;SCRIPT&gt; B"),
        (script, "html", script),
        ("a\0b", "text", "de:A\0B"),
        ("<p>a\0b</p>", "html", "<p>de:AB</p>"),
    ):
        body = json.dumps({"q": sent, "source": "en", "target": "de", "format": form})
        response, answer = client.ask("POST", "/translate", body)
        assert answer == {"translatedText": expected}
        assert response.getheader("X-Content-Type-Options") == "nosniff"
    response, answer = client.ask("POST", "/translate", json.dumps({"q": "a", "source": script, "target": "de"}))
    assert response.status == 400 and response.getheader("Content-Type") == "application/json"
    assert answer["error"].startswith(script)
