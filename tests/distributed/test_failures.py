"""One of two ranks fails, is killed, hangs or is told to stop: all end soon, with its reason, or start again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from harness import TORCHRUN, Done, Running, checkpoints, copy_corpus, last_checkpoint, metrics, tmt, write_config
from harness import moments as moments_of
from harness import weights as weights_of

HERE = Path(__file__).parent
TWO_RANKS = (*TORCHRUN, "2", "-m", "transformer_mt.cli.main")
# torchrun kills after 30 seconds what does not end when it is told to; nothing here may come near that.
SOON_SECONDS = 15.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 100 steps on two ranks, with a checkpoint every 10."""
    directory = tmp_path_factory.mktemp("failures")
    config = copy_corpus(directory)
    config["data"]["valid"] = []
    config["train"] |= {"max_steps": 100, "checkpoint_steps": 10, "log_steps": 3}
    return write_config(directory / "config.yaml", config)


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The run directory of one that nothing happened to."""
    tmt("train", config, "--output", config.parent / "finished", launcher=TWO_RANKS).ok()
    return config.parent / "finished"


def assert_same_end(run: Path, expected: Path) -> None:
    assert last_checkpoint(run).name == last_checkpoint(expected).name == "step_00000100"
    assert weights_of(run) == weights_of(expected)
    assert moments_of(run) == moments_of(expected)
    assert metrics(run) == metrics(expected)


def has_saved(run: Path, count: int) -> Callable[[], bool]:
    return lambda: len(checkpoints(run)) >= count


def reasons(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("tmt: ")]


def assert_ended_by_loss_of(done: Done, survivor: int, seconds: float, why: str) -> None:
    """The rank that was left told why in one line, by itself and not after a timeout."""
    assert done.status != 0
    assert seconds < SOON_SECONDS
    assert f"[rank{survivor}]: Traceback" not in done.stderr
    told = [line for line in reasons(done) if line.startswith(f"tmt: rank {survivor}: ")]
    assert told in ([], [f"tmt: rank {survivor}: {why}"])  # none where torchrun's signal came first
    assert "Signal 9 (SIGKILL)" not in done.stderr or "exitcode  : -9" in done.stderr


def test_a_rank_that_raises_ends_the_other_with_its_reason(config: Path, tmp_path: Path) -> None:
    launcher = (*TORCHRUN, "2", str(HERE / "failing_rank.py"), "0", "25", "step")
    run = tmp_path / "run"
    process = Running("train", config, "--output", run, launcher=launcher)
    process.wait_until(has_saved(run, 2))
    began = time.monotonic()
    done = process.end()
    assert_ended_by_loss_of(done, 1, time.monotonic() - began, "rank 0 has failed")
    assert re.search(r"^\[rank0\]: ZeroDivisionError: rank 0 failed on purpose$", done.stderr, re.M)
    # Whatever rank 0 was writing is complete, and nothing else is left.
    assert checkpoints(run) == ["step_00000010", "step_00000020"]
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_rank_that_is_killed_ends_the_other_and_the_run_resumes(config: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(config, run, 0, TWO_RANKS)
    tmt("train", config, "--output", run, "--resume", launcher=TWO_RANKS).ok()
    assert_same_end(run, finished)


def test_a_rank_that_is_killed_ends_the_other_whose_gpu_waits_for_it(config: Path, tmp_path: Path) -> None:
    """With sums as NCCL's, which are only begun."""
    killed(config, tmp_path / "run", 1, (*TORCHRUN, "2", str(HERE / "failing_rank.py"), "none", "0", "asynchronous"))


def killed(config: Path, run: Path, rank: int, launcher: Sequence[str]) -> None:
    """Kill a rank when the run has saved twice; the other must end soon."""
    process = Running("train", config, "--output", run, launcher=launcher)
    process.wait_until(has_saved(run, 2))
    os.kill(process.rank(rank), signal.SIGKILL)
    began = time.monotonic()
    done = process.end()
    why = f"rank {rank} has ended without a word (was it killed?)"
    assert_ended_by_loss_of(done, 1 - rank, time.monotonic() - began, why)
    assert re.search(rf"rank\s*: {rank}\b.*\n.*exitcode\s*: -9", done.stderr), "torchrun says who was killed"


def test_a_signal_to_one_rank_stops_both_and_saves(config: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = Running("train", config, "--output", run, launcher=TWO_RANKS)
    process.wait_until(has_saved(run, 1))
    os.kill(process.rank(1), signal.SIGTERM)
    done = process.end()
    [reason] = reasons(done)
    assert "stopped by SIGTERM after step" in reason
    assert last_checkpoint(run).name == f"step_{int(reason.split('step ')[1].split(',')[0]):08d}"
    tmt("train", config, "--output", run, "--resume", launcher=TWO_RANKS).ok()
    assert_same_end(run, finished)


JOINED = """
import os, sys, time
from datetime import timedelta
import torch
from transformer_mt.system import lifeline, ranks as distributed
from transformer_mt.errors import RunError

lifeline._GRACE_SECONDS = 1.0
distributed._TIMEOUT, distributed._NEWS_SECONDS = timedelta(seconds=3), 1.0
"""
STUCK = """
ranks = distributed.join()
if ranks.is_first:
    time.sleep(6)  # an honest wait, for a corpus for example
assert ranks.first_says("made" if ranks.is_first else None, patiently=True) == "made"
assert (ranks.largest(7 * ranks.rank), list(ranks.gather(ranks.rank))) == (7, [0, 1])
box = torch.ones(2)
ranks.sum(box)
assert box.tolist() == [2, 2]
if ranks.rank == 1:
    time.sleep(600)  # stuck
began = time.monotonic()
try:
    ranks.sum(box)
except RunError as error:
    print(f"{time.monotonic() - began:.1f} {error}")
"""
# Rank 0 waits for a GPU, in one way or another; rank 1 fails, in one way or another.
WAITING = """
class Never:
    query = staticmethod(lambda: False)

waits, fails = sys.argv[1:]
with distributed.join() as ranks:
    if ranks.rank == 1 and fails == "killed":
        os.kill(os.getpid(), 9)
    if ranks.rank == 1:
        raise RunError("out of memory")
    ranks.wait_for(Never()) if waits == "for an event" else time.sleep(600)
"""


def ranks_of(program: str, *words: str) -> list[subprocess.Popen[str]]:
    """The two processes of a program, without torchrun, which would end the other when one has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", JOINED + program, *words]
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(command, env=shared | {"RANK": rank}, stdout=pipe, stderr=pipe, text=True) for rank in "01"
    ]


def outcome(processes: list[subprocess.Popen[str]]) -> tuple[str, str, int]:
    """What rank 0 has told on stdout and stderr, and its exit status. Both processes are gone then."""
    try:
        out, err = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return out, err, processes[0].returncode


def test_a_rank_that_is_stuck_ends_the_others_within_the_time_limit() -> None:
    """Here of 3 seconds. Where rank 0 may take its time, nothing ends."""
    told, _, _ = outcome(ranks_of(STUCK))
    seconds, _, reason = told.partition(" ")
    assert 2.5 < float(seconds) < 10
    assert reason.startswith("rank 0: lost the other ranks (") and "\n" not in reason.rstrip("\n")


@pytest.mark.parametrize("waits", ["for an event", "in code that nothing interrupts"])
@pytest.mark.parametrize("fails", ["killed", "by itself"])
def test_a_rank_that_waits_for_its_gpu_is_ended_by_the_failure_of_another(waits: str, fails: str) -> None:
    _, told, status = outcome(ranks_of(WAITING, waits, fails))
    why = "ended without a word (was it killed?)" if fails == "killed" else "failed: out of memory"
    assert status == 1
    assert told.splitlines()[-1].endswith(f"rank 0: rank 1 has {why}")
    assert ("Traceback" in told) == (waits == "for an event"), "the exception is the program's, or the line was told"


def test_ranks_that_cannot_be_found_are_told_in_one_line(config: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}  # but no address
    command = [sys.executable, "-m", "transformer_mt.cli.main", "train", str(config), "--output", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("tmt: cannot join the other ranks (") and "torchrun" in done.stderr
    assert len(done.stderr.splitlines()) == 1
