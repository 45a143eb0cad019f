"""Runs the command line as users do, in processes of their own, on corpora and models that take seconds."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import pickle
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any
from unittest.mock import patch
from urllib.request import urlopen

import forks
from forks import Fork

CLI = (sys.executable, "-m", "transformer_mt")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ALPHABET = "abcdefghijklmnopqrst"
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "attention.md", ROOT / "docs" / "ko" / "attention.md"]
TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Lines of stdout; the last one must be ended."""
        assert not self.stdout or self.stdout.endswith(b"\n")
        return self.stdout.decode("utf-8").split("\n")[:-1]

    @property
    def refusal(self) -> str:
        """The one line of an expected failure."""
        assert "Traceback" not in self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("tmt: ")]
        assert len(lines) == 1, self.stderr
        assert self.stderr.endswith(f"{lines[0]}\n"), "the reason is not the last line"
        return lines[0]

    def ok(self) -> Done:
        assert self.status == 0, f"status {self.status}\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        return self


def environment() -> dict[str, str]:
    """One thread: tests run side by side, and the last bits depend on it."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def tmt(
    *args: object, stdin: bytes | str = b"", stdout: IO[bytes] | None = None, launcher: Sequence[str] = CLI
) -> Done:
    """Run ``tmt`` to its end. What it writes to a ``stdout`` of the caller's is not in the result."""
    with tempfile.TemporaryFile() as file:
        file.write(stdin.encode("utf-8") if isinstance(stdin, str) else stdin)
        file.seek(0)
        return Running(*args, launcher=launcher, stdin=file, stdout=stdout).end()


@contextlib.contextmanager
def piped(*args: object, launcher: Sequence[str] = CLI) -> Iterator[tuple[Running, IO[bytes], IO[bytes]]]:
    """A ``tmt`` process with the other ends of the pipes at its stdin and stdout; it ends with the block."""
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    with open(ours_in, "wb") as stdin, open(ours_out, "rb") as stdout:
        with open(theirs_in, "rb") as source, open(theirs_out, "wb") as output:
            running = Running(*args, launcher=launcher, stdin=source, stdout=output)
        try:
            yield running, stdin, stdout
        finally:
            running.kill()


def start_ranks(num_ranks: int, *args: object, launcher: Sequence[str] = CLI) -> list[Running]:
    """The processes that torchrun would start, without torchrun, which ends the others when one has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = map(str, range(num_ranks))
    return [Running(*args, launcher=launcher, added=shared | {"RANK": r, "LOCAL_RANK": r}) for r in ranks]


def tmt_on_ranks(num_ranks: int, *args: object, launcher: Sequence[str] = CLI) -> Done:
    """Run ``tmt`` on several ranks to the end of all; their output is rank 0's, then rank 1's."""
    ended = [process.end() for process in start_ranks(num_ranks, *args, launcher=launcher)]
    status = next((done.status for done in ended if done.status), 0)
    return Done(status, b"".join(done.stdout for done in ended), "".join(done.stderr for done in ended))


def load_script(name: str) -> ModuleType:
    """Import a file of ``scripts/``, without running it."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where its dataclasses look for themselves
    specification.loader.exec_module(module)
    return module


def tmt_here(*args: object, stdin: bytes | str = b"") -> Done:
    """Run ``tmt`` to its end within this process, which saves a second of imports; it starts no further processes."""
    from transformer_mt.cli.main import main

    command, parse = prepared()
    data = stdin.encode("utf-8") if isinstance(stdin, str) else stdin
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    status: object = None
    with (
        patch("transformer_mt.decoding.model_searcher.num_cores", return_value=1),
        patch("transformer_mt.cli.main.app", command),
        patch("transformer_mt.config.loading._parse_yaml", parse),
        patch("sys.argv", ["tmt", *map(str, args)]),
        patch("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as left:
            status = left.code
    assert isinstance(status, int)
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return Done(status, out.buffer.getvalue(), err.getvalue())


@functools.cache
def prepared() -> tuple[Callable[..., Any], Callable[[str, str], Any]]:
    """What each command makes anew, in more time than most take for all else: Typer's tree, and the values of YAML."""
    from typer.main import get_command

    from transformer_mt.cli.main import app
    from transformer_mt.config.loading import _parse_yaml

    @functools.cache
    def parsed(text: str, origin: str) -> bytes:
        return pickle.dumps(_parse_yaml(text, origin))

    return get_command(app), lambda text, origin: pickle.loads(parsed(text, origin))


class Running:
    """A ``tmt`` process that a test stops when it has got somewhere. On Linux it is a `Fork`."""

    def __init__(
        self,
        *args: object,
        launcher: Sequence[str] = CLI,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        own_group: bool = False,
        added: Mapping[str, str] | None = None,
    ) -> None:
        """``stdout``: where it is not for `end`. ``own_group``: in a session of its own, as from a terminal of its own.
        ``added`` to the environment."""
        words, env = [*launcher, *map(str, args)], environment() | dict(added or {})
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  as long as this
        with open(os.devnull, "rb") as nothing:
            streams = (stdin or nothing, stdout or self._stdout, self._stderr)
            if sys.platform == "linux" and launcher[0] == sys.executable:
                self.process: Fork | subprocess.Popen[bytes] = Fork(words[1:], streams, env, own_group)
            else:
                self.process = subprocess.Popen(
                    words, stdin=streams[0], stdout=streams[1], stderr=streams[2], env=env, start_new_session=own_group
                )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended too early: {self.end()}"
            assert time.monotonic() < deadline, f"waited in vain: {self.kill()}"
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """As a scheduler does it: to the first process only."""
        assert self.process.poll() is None, f"ended too early: {self.end()}"
        self.process.send_signal(number)

    def interrupt(self) -> None:
        """As Ctrl-C at a terminal does it: to all processes of the group (which must be its own)."""
        assert os.getpgid(self.process.pid) == self.process.pid
        os.killpg(self.process.pid, signal.SIGINT)

    def descendants(self) -> list[int]:
        """The processes that it has started, and those that they have."""
        return descendants(self.process.pid)

    def rank(self, number: int) -> int:
        """The process of one rank that torchrun has started."""
        for process in self.descendants():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if f"RANK={number}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                    return process
        raise AssertionError(f"no rank {number}: {self.kill()}")

    def end(self) -> Done:
        try:
            status = self.process.wait(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for stream in (self._stdout, self._stderr):
            stream.seek(0)
        return Done(status, self._stdout.read(), self._stderr.read().decode("utf-8"))

    def kill(self) -> Done:
        """SIGKILL to it and all that it has started, as a power failure would have it."""
        started = self.descendants()
        self.process.kill()  # nothing, where it has ended
        for process in started:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(process, signal.SIGKILL)
        return self.end()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def is_served(port: int) -> bool:
    with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as response:
        return bool(response.status == 200)
    return False


@contextlib.contextmanager
def serving(*args: object) -> Iterator[tuple[Running, int]]:
    """``tmt serve`` at a port of its own."""
    port = free_port()
    running = Running("serve", *args, "--port", port)
    try:
        running.wait_until(lambda: is_served(port))
        yield running, port
    finally:
        running.kill()


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and theirs (torchrun gives each rank a session of its own)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, server = [process], forks.server()[0].pid if forks.server.cache_info().currsize else None
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one and child != server)
    return found[1:]


def living(processes: Sequence[int]) -> list[int]:
    """Those that have not ended, within some seconds that they get to do so."""
    deadline = time.monotonic() + 5
    while found := [process for process in processes if _is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return found


def _is_alive(process: int) -> bool:
    """A process that has ended may wait for its parent to notice: a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def commands_of(document: Path) -> list[list[str]]:
    """The words of each command in a document's blocks of shell; the parts of a pipe are commands of their own."""
    found: list[list[str]] = [[]]
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", document.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
            words.whitespace_split = True
            for word in words:
                if word in ("<", ">"):
                    words.get_token()  # the file
                elif set(word) <= set(";|&"):
                    found.append([])
                else:
                    found[-1].append(word)
            found.append([])
    return [words for words in found if words]


def text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text(text(lines), encoding="utf-8", newline="\n")
    return path


def symbol_lines(count: int, seed: int, shortest: int = 3, longest: int = 8, alphabet: str = ALPHABET) -> list[str]:
    """Random sequences of letters as words, no two alike."""
    draw = random.Random(seed)
    lines: dict[str, None] = {}
    while len(lines) < count:
        lines[" ".join(draw.choices(alphabet, k=draw.randint(shortest, longest)))] = None
    return list(lines)


def copy_corpus(directory: Path, num_train: int = 300, num_valid: int = 12, seed: int = 1) -> dict[str, Any]:
    """Write a corpus whose target is its source, and return the configuration of a model that fits in a second."""
    lines = symbol_lines(num_train + num_valid, seed)
    train, valid = lines[:num_train], lines[num_train:]
    paths = {
        f"{name}.{side}": str(write(directory / f"{name}.{side}", text))
        for name, text in (("train", train), ("valid", valid))
        for side in ("src", "tgt")
    }
    return {
        "data": {
            "src_lang": "src",
            "tgt_lang": "tgt",
            "train": [{"src": paths["train.src"], "tgt": paths["train.tgt"]}],
            "valid": [{"src": paths["valid.src"], "tgt": paths["valid.tgt"]}],
            "cache_dir": str(directory / "cache"),
        },
        "tokenizer": {"vocab_size": 300},
        "model": {
            "preset": "tiny",
            "d_model": 32,
            "d_ff": 64,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "dropout": 0.1,
        },
        "batch": {"max_tokens": 256, "micro_tokens": 200},
        "optim": {"schedule": "inverse_sqrt", "lr": 0.003, "warmup_steps": 20},
        "train": {"max_steps": 40, "eval_steps": 20, "checkpoint_steps": 10, "log_steps": 1, "precision": "float32"},
        "search": {"beam_size": 2},
    }


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """JSON is YAML."""
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Trained:
    """A run and what it was trained with."""

    config: Path
    run: Path
    train_src: Path


def translated(trained: Trained, lines: Sequence[str], *options: object) -> list[str]:
    found = tmt("translate", trained.run, *options, stdin=text(lines)).ok().lines
    assert len(found) == len(lines)
    return found


def n_best(done: Done) -> list[tuple[int, str, float]]:
    """number ||| text ||| score"""
    found = []
    for line in done.ok().lines:
        number, middle, score = line.split(" ||| ")
        found.append((int(number), middle, float(score)))
    return found


def metrics(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without the numbers that depend on the clock."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in record.items() if k not in ("tokens_per_second", "seconds")} for record in records]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step_*"))


def last_checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "last").read_text(encoding="utf-8").strip()


def weights(run: Path) -> bytes:
    return (last_checkpoint(run) / "model.safetensors").read_bytes()


def moments(run: Path) -> bytes:
    return (last_checkpoint(run) / "optimizer.safetensors").read_bytes()
