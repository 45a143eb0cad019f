"""`tmt serve` under load: requests a second and their times with 1, 8 and 64 clients, beside the same server without
batches, and every answer compared with its own text's.

    python scripts/load_server.py MODEL --texts FILE --json load.json

Each client has one connection, and asks for the next text of FILE as soon as it has the last answer. What is expected
is computed before by the same engine, each text by itself. Both servers run from the beginning to the end, and take
turns; the one without batches makes ones of a single text.

It prints requests a second, the median, 95th and 99th percentile of their milliseconds, the server's milliseconds of
processor time for each, and the texts of a batch; how many requests had no answer (lost), another text's (mixed) or one
that is of none (other: `search.precision` below float32 may round otherwise in a batch); the servers' memory before
and after. The exit status is 1 where an answer was lost or mixed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformer_mt.decoding.translator import Translator
from transformer_mt.system.lines import read_lines

# The same server, its batches of at most so many texts.
PROGRAM = """
import sys
from transformer_mt.cli.main import main
from transformer_mt.server import batcher
batcher.MOST_TEXTS = int(sys.argv.pop(1))
main()
"""
MODES = {"batches": 64, "one by one": 1}
WARM_UP_SECONDS = 2


class Texts:
    """What is asked for, one after the other, over and over, and what is to be answered."""

    def __init__(self, expected: dict[str, str], source: str, target: str) -> None:
        bodies = {text: json.dumps({"q": text, "source": source, "target": target}).encode() for text in expected}
        self.next = itertools.cycle(bodies.items()).__next__
        self.expected, self.of_any = expected, set(expected.values())


@dataclass
class Found:
    """What a phase's clients have seen."""

    seconds: list[float] = field(default_factory=list)  # of each request
    lost: int = 0
    mixed: int = 0
    other: int = 0

    def add(self, seconds: float, answer: str, texts: Texts, text: str) -> None:
        self.seconds.append(seconds)
        if answer != texts.expected[text]:
            self.mixed += answer in texts.of_any
            self.other += answer not in texts.of_any

    def times(self) -> dict[str, float]:
        percentiles = statistics.quantiles(self.seconds, n=100, method="inclusive")
        return {f"p{n}_ms": round(1000 * percentiles[n - 1], 1) for n in (50, 95, 99)}


class Server:
    """A server of its own process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    async def batches(self) -> tuple[float, float]:
        """Return how many texts there have been, and in how many batches."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = (await ask(reader, writer, "GET", "/metrics")).decode().splitlines()
        writer.close()
        found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(found["tmt_batch_texts_sum"]), float(found["tmt_batch_texts_count"])

    def cpu_seconds(self) -> float:
        """Time of processors that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> int:
        """Memory that it has now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(round(int(line.split()[1]) / 1024) for line in status.splitlines() if line.startswith("VmRSS:"))


@contextlib.contextmanager
def serving(args: argparse.Namespace, most_texts: int) -> Iterator[Server]:
    options = [f"--set={override}" for override in args.overrides]
    command = [sys.executable, "-c", PROGRAM, str(most_texts), "serve", str(args.model), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("serving "):
                    yield Server(process, int(line.partition(";")[0].rpartition(":")[2]))
                    break
                print(line, end="", file=sys.stderr)
        finally:
            process.terminate()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes = b""
) -> bytes:
    """Return what is answered with 200.

    Raises:
        OSError: there is no such answer.
    """
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        answer = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("no whole answer") from error
    if start.split()[1] != "200":
        raise ConnectionError(f"{start}: {answer.decode()}")
    return answer


async def one_client(port: int, texts: Texts, end: float, found: Found) -> None:
    """Ask until the time has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        text, body = texts.next()
        started = time.monotonic()
        try:
            answer = json.loads(await ask(reader, writer, "POST", "/translate", body))["translatedText"]
        except OSError as error:
            print(f"lost: {error}", file=sys.stderr)
            found.lost += 1
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        else:
            found.add(time.monotonic() - started, answer, texts, text)
    writer.close()


async def phase(server: Server, num_clients: int, seconds: float, texts: Texts) -> dict[str, Any]:
    """Let clients ask for some time, and return the numbers of it."""
    found, started, before, cpu = Found(), time.monotonic(), await server.batches(), server.cpu_seconds()
    await asyncio.gather(*(one_client(server.port, texts, started + seconds, found) for _ in range(num_clients)))
    taken, after = time.monotonic() - started, await server.batches()
    return {
        "clients": num_clients,
        "requests": len(found.seconds),
        "per_second": round(len(found.seconds) / taken, 1),
        **found.times(),
        "cpu_ms": round(1000 * (server.cpu_seconds() - cpu) / len(found.seconds), 2),
        "batch_texts": round((after[0] - before[0]) / (after[1] - before[1]), 1),
        "lost": found.lost,
        "mixed": found.mixed,
        "other": found.other,
        "megabytes": server.megabytes(),
    }


async def run(servers: dict[str, Server], texts: Texts, args: argparse.Namespace) -> dict[str, Any]:
    for server in servers.values():
        await phase(server, max(args.clients), WARM_UP_SECONDS, texts)
    before = {mode: server.megabytes() for mode, server in servers.items()}  # after it each phase says it
    phases = []
    for num_clients, _, (mode, server) in itertools.product(args.clients, range(args.rounds), servers.items()):
        phases.append({"mode": mode, **await phase(server, num_clients, args.seconds, texts)})
        print(", ".join(f"{name} {value}" for name, value in phases[-1].items()), flush=True)
    return {"phases": phases, "megabytes_before": before}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--texts", type=Path, required=True, metavar="FILE", help="a sentence a line, maybe compressed")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20, help="of each number of clients, server and round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="search.KEY=VALUE", dest="overrides")
    parser.add_argument("--json", type=Path, help="all numbers")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its servers end with it
    with Translator.load(args.model, args.overrides) as translator:
        [(source, target), *_] = translator.directions
        lines = dict.fromkeys(line.strip() for line in read_lines(args.texts))
        expected = {line: translator.translate([line])[0].text for line in lines if line}
    with contextlib.ExitStack() as stack:
        servers = {mode: stack.enter_context(serving(args, most)) for mode, most in MODES.items()}
        found = asyncio.run(run(servers, Texts(expected, source, target), args))
    totals = {name: sum(one[name] for one in found["phases"]) for name in ("requests", "lost", "mixed", "other")}
    found |= {"model": str(args.model), "texts": len(expected), "overrides": args.overrides, "totals": totals}
    print(json.dumps({name: value for name, value in found.items() if name != "phases"}))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if totals["lost"] or totals["mixed"] else 0


if __name__ == "__main__":
    sys.exit(main())
