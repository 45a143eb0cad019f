"""Runs with subword sampling and averaged weights: what they train and save, and that stopping them changes nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import (
    Running,
    checkpoints,
    last_checkpoint,
    metrics,
    moments,
    tmt_here,
    tmt_on_ranks,
    weights,
    write_config,
)
from safetensors.torch import load_file

from transformer_mt.checkpoints import model_directory
from transformer_mt.model.layout import collate
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.toy_corpus import grammar

LAST_STEP = 20
DECAY = 0.9


@dataclass(frozen=True)
class Finished:
    """An uninterrupted run with a checkpoint after every update."""

    config: dict[str, Any]
    path: Path
    run: Path


def config_of(directory: Path) -> dict[str, Any]:
    return {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": [{"builtin": "grammar", "split": "train", "num_pairs": 200}],
            "valid": [{"builtin": "grammar", "split": "valid", "num_pairs": 15}],
            "noise": {"case": 0.1, "typos": 0.02},
            "cache_dir": str(directory / "cache"),
        },
        "tokenizer": {"vocab_size": 500, "bpe_dropout": 0.2},
        "model": {
            "preset": "tiny",
            "d_model": 32,
            "d_ff": 64,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
        },
        "batch": {"max_tokens": 800, "micro_tokens": 600},
        "optim": {"optimizer": "muon", "schedule": "inverse_sqrt", "lr": 0.003, "warmup_steps": 10},
        "train": {
            "max_steps": LAST_STEP,
            "eval_steps": 8,
            "checkpoint_steps": 1,
            "keep_checkpoints": LAST_STEP,
            "log_steps": 1,
            "best_metric": "loss",
            "precision": "float32",
            "ema_decay": DECAY,
        },
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("finished")
    config = config_of(directory)
    path = write_config(directory / "config.yaml", config)
    tmt_here("train", path, "--output", directory / "run").ok()
    return Finished(config, path, directory / "run")


def step_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def cursor_of(run: Path, step: int) -> tuple[int, int]:
    cursor = json.loads((step_path(run, step) / "state.json").read_text())["cursor"]
    return cursor["epoch"], cursor["update"]


def assert_same_end(run: Path, expected: Path) -> None:
    assert last_checkpoint(run).name == last_checkpoint(expected).name
    assert weights(run) == weights(expected)
    assert moments(run) == moments(expected)
    assert metrics(run) == metrics(expected)
    assert (run / "best").read_text() == (expected / "best").read_text()
    assert not (run / "epochs").exists()


def test_sources_as_long_as_those_drawn_are_not_split(finished: Finished, tmp_path: Path) -> None:
    """As drawn for the first epoch: longer than any that is cut without drawing."""

    def longest(run: Path, step: int) -> int:
        return json.loads((step_path(run, step) / "manifest.json").read_text())["longest_src_tokens"]  # type: ignore[no-any-return]

    undrawn = ("--set", "tokenizer.bpe_dropout=0", "--set", "data.noise={}", "--set", "train.max_steps=1")
    tmt_here("train", finished.path, "--output", tmp_path / "run", *undrawn).ok()
    assert longest(tmp_path / "run", 1) < longest(finished.run, 1) == longest(finished.run, LAST_STEP)


# ---------------------------------------------------------------- exact resume


def kill_when(least: int, *args: object, run: Path) -> None:
    """Kill a run as soon as it has so many checkpoints."""
    process = Running("train", *args, "--output", run, "--resume")
    process.wait_until(lambda: len(checkpoints(run)) >= least)
    assert process.kill().status == -signal.SIGKILL
    assert (run / "epochs").exists()


def test_killed_and_resumed_is_identical(finished: Finished, tmp_path: Path) -> None:
    run, draw = tmp_path / "run", random.Random(1)
    for least in (draw.randint(2, 6), draw.randint(8, 14)):
        kill_when(least, finished.path, run=run)
    resumed = tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert "continuing from step" in resumed.stderr
    assert_same_end(run, finished.run)


@pytest.mark.parametrize("where", ["end of an epoch", "first update of an epoch"])
def test_resumed_at_the_border_of_epochs_is_identical(where: str, finished: Finished, tmp_path: Path) -> None:
    """As if it had been killed after that checkpoint."""
    cursors = {step: cursor_of(finished.run, step) for step in range(1, LAST_STEP + 1)}
    assert cursors[LAST_STEP][0] >= 2, "several epochs"
    first = next(step for step, cursor in cursors.items() if cursor == (1, 1))
    step = {"end of an epoch": first - 1, "first update of an epoch": first}[where]
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    for later in range(step + 1, LAST_STEP + 1):
        shutil.rmtree(step_path(run, later))
    resumed = tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert f"continuing from step {step}" in resumed.stderr
    assert_same_end(run, finished.run)


def test_two_ranks(finished: Finished, tmp_path: Path) -> None:
    """They see the data of one rank in the same order: without dropout the losses agree."""
    args = (finished.path, "--set", "model.dropout=0.0")
    one, two = tmp_path / "one", tmp_path / "two"
    tmt_here("train", *args, "--output", one).ok()
    tmt_on_ranks(2, "train", *args, "--output", two).ok()
    losses = [[record["loss"] for record in metrics(run) if record["kind"] == "train"] for run in (one, two)]
    assert len(losses[0]) == LAST_STEP
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_processes_of_a_killed_run_end(finished: Finished, tmp_path: Path) -> None:
    """Nobody but the run itself is killed; what it started notices."""
    run = tmp_path / "run"
    process = Running("train", finished.path, "--output", run, "--set", "train.max_steps=100000")
    process.wait_until(lambda: len(checkpoints(run)) >= 2)
    parent = process.process.pid
    workers = children_of(parent)
    assert workers
    os.kill(parent, signal.SIGKILL)
    process.end()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(number) for number in text.split()]


def test_stopped_run_ends_its_processes_and_keeps_its_epoch(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = Running("train", finished.path, "--output", run)
    process.wait_until(lambda: len(checkpoints(run)) >= 3)
    process.signal(signal.SIGTERM)
    stopped = process.end()  # which waits for all that holds its output
    assert "--resume" in stopped.refusal
    assert len([path for path in (run / "epochs").iterdir() if not path.name.startswith(".")]) == 1
    tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert_same_end(run, finished.run)


def test_changed_sampling_is_refused(finished: Finished) -> None:
    for change in ("tokenizer.bpe_dropout=0.3", "train.ema_decay=0.5"):
        refused = tmt_here("train", finished.path, "--output", finished.run, "--resume", "--set", change)
        assert refused.status == 2
        assert change.split("=")[0] in refused.refusal


def test_dry_run_leaves_nothing(finished: Finished, tmp_path: Path) -> None:
    cache = Path(finished.config["data"]["cache_dir"])
    before = sorted(cache.iterdir())
    done = tmt_here("train", finished.path, "--output", tmp_path / "run", "--dry-run").ok()
    num_updates = max(
        update for epoch, update in (cursor_of(finished.run, s) for s in range(1, LAST_STEP + 1)) if epoch == 0
    )
    assert f"plan: {num_updates} updates an epoch" in done.stderr
    assert sorted(cache.iterdir()) == before
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- what is saved and scored


def raw_weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = load_file(step_path(run, step) / "optimizer.safetensors")
    return {name.removeprefix("weight."): tensor for name, tensor in tensors.items() if name.startswith("weight.")}


def test_saved_weights_are_the_average_by_its_formula(finished: Finished) -> None:
    start = load_file(step_path(finished.run, 1) / "model.safetensors")
    assert raw_weights(finished.run, 1).keys() == start.keys()
    expected = {name: tensor.double() for name, tensor in start.items()}
    for t in range(2, LAST_STEP + 1):
        decay = min(DECAY, (1 + t) / (10 + t))
        raw = raw_weights(finished.run, t)
        expected = {name: decay * old + (1 - decay) * raw[name].double() for name, old in expected.items()}
    saved = load_file(step_path(finished.run, LAST_STEP) / "model.safetensors")
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert any(
        (saved[name] - tensor).abs().max() > 1e-3 for name, tensor in raw_weights(finished.run, LAST_STEP).items()
    )


def test_validation_scores_the_average_on_plain_text(finished: Finished) -> None:
    """What `tmt translate` will use: the saved weights, and pieces that are not sampled."""
    loaded = model_directory.load_model(step_path(finished.run, LAST_STEP))
    pairs = list(grammar.generate("valid", 15))
    src, tgt = (
        [[*ids, EOS_ID] for ids in loaded.tokenizers.src.encode(list(side))] for side in zip(*pairs, strict=True)
    )
    with torch.no_grad():
        total = sum(float(loaded.model(collate([s], [t]))[1]) for s, t in zip(src, tgt, strict=True))
    last = [record for record in metrics(finished.run) if record["kind"] == "valid"][-1]
    assert last["step"] == LAST_STEP
    assert last["loss"] == pytest.approx(total / sum(map(len, tgt)), rel=1e-5)


def test_without_average_a_checkpoint_is_as_before(finished: Finished, tmp_path: Path) -> None:
    settings = ("--set", "train.ema_decay=0.0", "--set", "train.max_steps=2", "--set", "data.valid=[]")
    tmt_here("train", finished.path, "--output", tmp_path / "run", *settings).ok()
    tensors = load_file(step_path(tmp_path / "run", 2) / "optimizer.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"step", "exp_avg", "exp_avg_sq", "momentum"}
    # The weights themselves: the same run with an average has them beside it.
    plain, raw = load_file(step_path(tmp_path / "run", 2) / "model.safetensors"), raw_weights(finished.run, 2)
    assert all(torch.equal(plain[name], tensor) for name, tensor in raw.items())
