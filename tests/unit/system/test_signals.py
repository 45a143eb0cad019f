"""What a caller of `train` gets back, and what a run remembers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from harness import copy_corpus, last_checkpoint, write_config

from transformer_mt.config.loading import load_config
from transformer_mt.errors import RunError
from transformer_mt.system.signals import StoppedError, StopSignal, interrupts_later
from transformer_mt.training.loop import train
from transformer_mt.training.validation import Validation

SENT_BY_AN_IMPORT = """
import sys, time
from transformer_mt.system.signals import interrupts_after_imports, raised_signals

sys.path.append(sys.argv[1])
interrupts_after_imports()
with raised_signals():
    try:
        import sends_a_signal
        time.sleep(60)
    except BaseException:
        print(sys.modules["sends_a_signal"].is_loaded)
        raise
"""

SENT_BEFORE_THE_BLOCK = """
import contextlib, signal, sys
from pathlib import Path
from transformer_mt.system.directories import scratch_directory
from transformer_mt.system.signals import raised_signals

class Stack(contextlib.ExitStack):
    def _push_cm_exit(self, *_):
        print([*Path(sys.argv[1]).iterdir()] != [])
        sys.stdout.flush()
        signal.raise_signal(signal.SIGTERM)

def work():
    with Stack() as cleanup:
        cleanup.enter_context(scratch_directory(Path(sys.argv[1]) / "data"))

with raised_signals():
    work()
"""

NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def handler(number: int, frame: FrameType | None) -> None:
    raise AssertionError("while a run goes on, its own handler is there")


@pytest.fixture
def own_handlers() -> Iterator[list[Any]]:
    """Handlers of a caller's own."""
    before = [signal.signal(number, handler) for number in NUMBERS]
    yield [handler] * len(NUMBERS)
    for number, one in zip(NUMBERS, before, strict=True):
        signal.signal(number, one)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


def test_a_signal_between_a_context_and_its_block_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SENT_BEFORE_THE_BLOCK, str(tmp_path)], stdout=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"True\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_amid_an_import_waits_for_its_end(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "sends_a_signal.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.2)\nis_loaded = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", SENT_BY_AN_IMPORT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-number, b"True\n")


@pytest.mark.parametrize("number", NUMBERS)
def test_remembered_until_it_is_asked_for(own_handlers: list[Any], number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert stop.number == 0
        signal.raise_signal(number)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == own_handlers


@pytest.mark.parametrize("number", NUMBERS)
def test_raised_once_where_that_is_asked_for(own_handlers: list[Any], number: signal.Signals) -> None:
    with StopSignal() as stop:
        with stop.raised():
            pass
        with pytest.raises(StoppedError, match=f"stopped by {number.name}"), stop.raised():
            signal.raise_signal(number)
        assert stop.number == number
        signal.raise_signal(signal.SIGTERM)  # out of the block it is remembered
        with pytest.raises(StoppedError, match="stopped by SIGTERM"), stop.raised():
            pytest.fail("a signal had come before")


def test_nohup_is_left_alone(own_handlers: list[Any]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.number == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.slow
def test_train_gives_the_handlers_back_and_works_in_a_thread(
    own_handlers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy_corpus(tmp_path, num_train=60, num_valid=4)
    config["train"] |= {"max_steps": 2, "eval_steps": 1}
    path = write_config(tmp_path / "config.yaml", config)
    train(load_config(path), tmp_path / "run")
    assert handlers() == own_handlers

    failures = []

    def in_a_thread() -> None:
        try:
            train(load_config(path, ["train.max_steps=3"]), tmp_path / "run", resume=True)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert failures == []
    assert last_checkpoint(tmp_path / "run").name == "step_00000003"

    run = Validation.run

    def hangs_up(self: Validation, *others: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGHUP)
        return run(self, *others)

    monkeypatch.setattr(Validation, "run", hangs_up)
    with pytest.raises(RunError, match="stopped by SIGHUP as it validated step 4, which is saved"):
        train(load_config(path, ["train.max_steps=6"]), tmp_path / "run", resume=True)
    assert handlers() == own_handlers


def test_a_handler_of_a_c_library_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("it could not be put back"))
    with interrupts_later():
        pass
