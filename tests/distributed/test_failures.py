"""One of two ranks fails, is killed, hangs or is told to stop: all end soon, with its reason, or start again."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import (
    TORCHRUN,
    Done,
    Running,
    checkpoints,
    copy_corpus,
    last_checkpoint,
    metrics,
    start_ranks,
    tmt_on_ranks,
    write_config,
)
from harness import moments as moments_of
from harness import weights as weights_of

HERE = Path(__file__).parent
TWO_RANKS = (*TORCHRUN, "2", "-m", "transformer_mt")
# torchrun kills after 30 seconds what does not end when it is told to; nothing here may come near that.
SOON_SECONDS = 15.0
LAST_STEP = 60


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks, with a checkpoint every 10 steps."""
    directory = tmp_path_factory.mktemp("failures")
    config = copy_corpus(directory)
    config["data"]["valid"] = []
    config["train"] |= {"max_steps": LAST_STEP, "checkpoint_steps": 10, "log_steps": 3}
    return write_config(directory / "config.yaml", config)


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The run directory of one that nothing happened to."""
    tmt_on_ranks(2, "train", config, "--output", config.parent / "finished").ok()
    return config.parent / "finished"


def assert_same_end(run: Path, expected: Path) -> None:
    assert last_checkpoint(run).name == last_checkpoint(expected).name == f"step_{LAST_STEP:08d}"
    assert weights_of(run) == weights_of(expected)
    assert moments_of(run) == moments_of(expected)
    assert metrics(run) == metrics(expected)


def has_saved(run: Path, count: int) -> Callable[[], bool]:
    return lambda: len(checkpoints(run)) >= count


def reasons(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("tmt: ")]


def failing(*words: str) -> tuple[str, ...]:
    return sys.executable, str(HERE / "failing_rank.py"), *words


def assert_ended_by_loss_of(done: Done, survivor: int, seconds: float, why: str) -> None:
    """The rank that was left told why in one line, by itself and not after a timeout."""
    assert done.status != 0
    assert seconds < SOON_SECONDS
    assert f"[rank{survivor}]: Traceback" not in done.stderr
    told = [line for line in reasons(done) if line.startswith(f"tmt: rank {survivor}: ")]
    assert told == [f"tmt: rank {survivor}: {why}"]


def test_a_rank_that_raises_ends_the_other_with_its_reason(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    raising, other = start_ranks(2, "train", config, "--output", run, launcher=failing("0", "25", "step"))
    raising.wait_until(has_saved(run, 2))
    began = time.monotonic()
    raised = raising.end()
    assert_ended_by_loss_of(other.end(), 1, time.monotonic() - began, "rank 0 has failed")
    assert re.search(r"^\[rank0\]: ZeroDivisionError: rank 0 failed on purpose$", raised.stderr, re.M)
    # Whatever rank 0 was writing is complete, and nothing else is left.
    assert checkpoints(run) == ["step_00000010", "step_00000020"]
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_rank_that_is_killed_ends_the_other_and_the_run_resumes(config: Path, finished: Path, tmp_path: Path) -> None:
    """Under torchrun, which tells who was killed."""
    run = tmp_path / "run"
    process = Running("train", config, "--output", run, launcher=TWO_RANKS)
    process.wait_until(has_saved(run, 2))
    os.kill(process.rank(0), signal.SIGKILL)
    began = time.monotonic()
    done = process.end()
    if reasons(done):  # there is none where torchrun's signal came first
        assert_ended_by_loss_of(done, 1, time.monotonic() - began, "rank 0 has ended without a word (was it killed?)")
    assert re.search(r"rank\s*: 0\b.*\n.*exitcode\s*: -9", done.stderr)
    tmt_on_ranks(2, "train", config, "--output", run, "--resume").ok()
    assert_same_end(run, finished)


def test_a_rank_that_is_killed_ends_the_other_whose_gpu_waits_for_it(config: Path, tmp_path: Path) -> None:
    """With sums as NCCL's, which are only begun."""
    run = tmp_path / "run"
    left, lost = start_ranks(2, "train", config, "--output", run, launcher=failing("none", "0", "asynchronous"))
    left.wait_until(has_saved(run, 2))
    lost.kill()
    began = time.monotonic()
    why = "rank 1 has ended without a word (was it killed?)"
    assert_ended_by_loss_of(left.end(), 0, time.monotonic() - began, why)


def test_a_signal_to_one_rank_stops_both_and_saves(config: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_ranks(2, "train", config, "--output", run)
    processes[0].wait_until(has_saved(run, 1))
    processes[1].signal(signal.SIGTERM)
    [reason] = [line for process in processes for line in reasons(process.end())]
    assert re.search(r"stopped by SIGTERM (after|as it validated) step", reason)
    assert last_checkpoint(run).name == f"step_{int(reason.split('step ')[1].split(',')[0]):08d}"
    tmt_on_ranks(2, "train", config, "--output", run, "--resume").ok()
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
assert ranks.broadcast("made" if ranks.is_first else None, patiently=True) == "made"
assert (ranks.all_reduce_max(7 * ranks.rank), list(ranks.all_gather(ranks.rank))) == (7, [0, 1])
box = torch.ones(2)
ranks.all_reduce_sum(box)
assert box.tolist() == [2, 2]
if ranks.rank == 1:
    time.sleep(600)  # stuck
began = time.monotonic()
try:
    ranks.all_reduce_sum(box)
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


def outcome(program: str, *words: str) -> Done:
    """What rank 0 of two has told, and its exit status. Both processes are gone then."""
    first, second = start_ranks(2, *words, launcher=(sys.executable, "-c", JOINED + program))
    done = first.end()
    second.kill()
    return done


def test_a_rank_that_is_stuck_ends_the_others_within_the_time_limit() -> None:
    """Here of 3 seconds. Where rank 0 may take its time, nothing ends."""
    [told] = outcome(STUCK).lines
    seconds, _, reason = told.partition(" ")
    assert 2.5 < float(seconds) < 10
    assert reason.startswith("rank 0: lost the other ranks (")


@pytest.mark.parametrize("waits", ["for an event", "in code that nothing interrupts"])
@pytest.mark.parametrize("fails", ["killed", "by itself"])
def test_a_rank_that_waits_for_its_gpu_is_ended_by_the_failure_of_another(waits: str, fails: str) -> None:
    done = outcome(WAITING, waits, fails)
    why = "ended without a word (was it killed?)" if fails == "killed" else "failed: out of memory"
    assert done.status == 1
    assert done.stderr.splitlines()[-1].endswith(f"rank 0: rank 1 has {why}")
    assert ("Traceback" in done.stderr) == (waits == "for an event"), (
        "the exception is the program's, or the line was told"
    )


def test_ranks_that_cannot_be_found_are_told_in_one_line(config: Path, tmp_path: Path) -> None:
    no_address = {"WORLD_SIZE": "2", "RANK": "0"}
    done = Running("train", config, "--output", tmp_path / "run", added=no_address).end()
    assert done.status == 1
    assert done.stderr.startswith("tmt: cannot join the other ranks (") and "torchrun" in done.stderr
    assert len(done.stderr.splitlines()) == 1
