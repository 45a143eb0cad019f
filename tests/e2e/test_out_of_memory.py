"""Running out of memory, through the command line: at the start, in the loop, in validation; and going on after it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import checkpoints, copy_corpus, last_checkpoint, metrics, tmt, tmt_here, weights, write_config

from transformer_mt.model.transformer import Transformer

MIB = 1 << 20


def launcher(code: str) -> tuple[str, ...]:
    """``tmt`` with something changed inside."""
    return sys.executable, "-c", f"{code}\nfrom transformer_mt.cli.main import main\nmain()"


# The system's own refusal: no more address space than there is in use when the trial begins, and this much.
LITTLE_MEMORY = f"""
import resource
from pathlib import Path
from transformer_mt.training import memory
try_batches = memory.try_batches
def with_little_memory(*args):
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + {256 * MIB}, resource.RLIM_INFINITY))
    return try_batches(*args)
memory.try_batches = with_little_memory
"""

# CUDA's allocator, without CUDA: the pass of a certain number fails.
FORWARD_FAILS = """
import torch
from transformer_mt.model.transformer import Transformer
forward, calls = Transformer.forward, 0
def fails(self, *args, **kwargs):
    global calls
    calls += self.training
    if calls == {number}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return forward(self, *args)
Transformer.forward = fails
"""

DECODING_FAILS = """
import torch
from transformer_mt.decoding.translator import Translator
def fails(self, *args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
Translator.translate = fails
"""


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    config = copy_corpus(tmp_path, num_train=60)
    config["train"] |= {"max_steps": 12, "eval_steps": 12, "checkpoint_steps": 4}
    return config


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit and /proc are Linux's")
@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["run", "dry"])
def test_a_run_that_does_not_fit_does_not_start(
    options: tuple[str, ...], config: dict[str, Any], tmp_path: Path
) -> None:
    """Its feed-forward layers hold some 1,600 positions × 40,000 × 4 bytes, 256 MB, several times; one is too much."""
    config |= copy_corpus(tmp_path, num_train=240)
    config["batch"] = {"max_tokens": 4096, "micro_tokens": 20000}
    config["model"]["d_ff"] = 40000
    path = write_config(tmp_path / "config.yaml", config)
    done = tmt("train", path, "--output", tmp_path / "run", *options, launcher=launcher(LITTLE_MEMORY))
    assert done.status == 1
    refusal = done.refusal
    assert refusal.startswith("tmt: out of memory: a batch of ")
    assert " source and " in refusal
    assert "GiB of address space" in refusal
    assert "lower batch.micro_tokens (20000; try " in refusal
    assert checkpoints(tmp_path / "run") == []
    # Its advice, taken further, helps.
    enough = ("--dry-run", "--set", "batch.micro_tokens=40")
    tmt("train", path, "--output", tmp_path / "run", *enough, launcher=launcher(LITTLE_MEMORY)).ok()


def test_out_of_memory_in_the_loop_and_going_on(config: dict[str, Any], tmp_path: Path) -> None:
    """The checkpoint before it stays, and the run ends as one that had enough memory."""
    path = write_config(tmp_path / "config.yaml", config)
    run = tmp_path / "run"
    # One or two in the trial, and at most three an update: after the first checkpoint and before the last.
    done = tmt("train", path, "--output", run, launcher=launcher(FORWARD_FAILS.format(number=20)))
    assert done.status == 1
    assert "out of memory: a batch of " in done.refusal
    assert "lower batch.micro_tokens (200; try " in done.refusal
    before = checkpoints(run)
    assert before and len(before) < 3
    tmt("train", path, "--output", run, "--resume").ok()
    tmt("train", path, "--output", tmp_path / "unhindered").ok()
    assert weights(run) == weights(tmp_path / "unhindered")
    assert metrics(run) == metrics(tmp_path / "unhindered")


def test_out_of_memory_in_validation_names_its_own_key(config: dict[str, Any], tmp_path: Path) -> None:
    path = write_config(tmp_path / "config.yaml", config)
    done = tmt("train", path, "--output", tmp_path / "run", launcher=launcher(DECODING_FAILS))
    assert done.status == 1
    assert "validation does not fit" in done.refusal
    assert "lower search.batch_tokens (8192; try 4096)" in done.refusal
    assert last_checkpoint(tmp_path / "run").name == "step_00000012"


def test_what_memory_chose_is_kept(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, of which a whole update is too much; the run goes on as it was cut, though there is more room."""
    monkeypatch.setattr("transformer_mt.training.resuming.MICRO_TOKENS", None)
    forward, failures = Transformer.forward, [True]

    def fails_first(self: Transformer, *args: Any) -> Any:
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, *args)

    monkeypatch.setattr(Transformer, "forward", fails_first)
    del config["batch"]["micro_tokens"]
    path = write_config(tmp_path / "config.yaml", config)
    run, straight = tmp_path / "run", tmp_path / "straight"
    [line] = [
        line
        for line in tmt_here("train", path, "--output", run, "--set", "train.max_steps=4").ok().stderr.splitlines()
        if line.startswith("batch.micro_tokens: ")
    ]
    chosen, whole = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+\d", line))
    assert chosen <= whole // 2
    for directory in (run, last_checkpoint(run)):
        assert f"micro_tokens: {chosen}\n" in (directory / "config.yaml").read_text()
    assert json.loads((last_checkpoint(run) / "state.json").read_text())["environment"]["micro_tokens"] == chosen
    resumed = tmt_here("train", path, "--output", run, "--resume").ok()
    assert "micro_tokens" not in resumed.stderr and "bit for bit" not in resumed.stderr
    failures.append(True)
    tmt_here("train", path, "--output", straight).ok()
    assert weights(run) == weights(straight)
    assert metrics(run)[-1]["loss"] == metrics(straight)[-1]["loss"]
