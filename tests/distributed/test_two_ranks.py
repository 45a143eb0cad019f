"""Two ranks on gloo: the same numbers as one, a common stop, and an exact continuation."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import (
    Done,
    copy_corpus,
    last_checkpoint,
    metrics,
    moments,
    tmt_here,
    tmt_on_ranks,
    weights,
    write_config,
)
from safetensors.torch import load_file

LAST_STEP = 30


@dataclass(frozen=True)
class Finished:
    """An uninterrupted run on two ranks."""

    config: dict[str, Any]
    path: Path
    run: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("two_ranks")
    config = copy_corpus(directory, num_valid=13)  # an odd number: the ranks' parts differ
    config["model"]["dropout"] = 0.0
    config["train"] |= {"max_steps": LAST_STEP, "eval_steps": 15, "checkpoint_steps": 10, "best_metric": "loss"}
    path, run = write_config(directory / "config.yaml", config), directory / "run"
    tmt_on_ranks(2, "train", path, "--output", run).ok()
    return Finished(config, path, run)


def assert_same_end(run: Path, expected: Path) -> None:
    assert last_checkpoint(run).name == last_checkpoint(expected).name
    assert weights(run) == weights(expected)
    assert moments(run) == moments(expected)
    assert metrics(run) == metrics(expected)


def reasons(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("tmt: ")]


def test_two_ranks_reach_the_weights_and_scores_of_one(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tmt_here("train", finished.path, "--output", run).ok()
    state = json.loads((last_checkpoint(finished.run) / "state.json").read_text())
    assert state["environment"]["ranks"] == 2

    one, two = (load_file(last_checkpoint(r) / "model.safetensors") for r in (run, finished.run))
    for name, tensor in one.items():
        # Adam divides by the square root of a tiny number where a gradient is tiny: sums in another order show there.
        scale = float(tensor.abs().max())
        assert torch.allclose(two[name], tensor, rtol=1e-5, atol=1e-5 * scale), name
    before = load_file(run / "checkpoints" / "step_00000010" / "model.safetensors")
    assert any((one[name] - before[name]).abs().max() > 1e-2 for name in one), (
        "the tolerance is nothing beside training"
    )

    assert len(metrics(run)) == len(metrics(finished.run)) == LAST_STEP + 2
    for mine, theirs in zip(metrics(run), metrics(finished.run), strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            same = math.isclose(value, theirs[key], rel_tol=1e-5) if isinstance(value, float) else value == theirs[key]
            assert same, (key, value, theirs[key])


@pytest.mark.parametrize(
    ("rank", "kind", "told"),
    [("1", "validation", "rank 1: rank 1 failed on purpose"), ("0", "log", "rank 0 failed on purpose")],
)
def test_a_validation_that_fails_on_one_rank_is_made_up_for(
    rank: str, kind: str, told: str, finished: Finished, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    one_fails = (sys.executable, str(Path(__file__).parent / "failing_rank.py"), rank, "0", kind)
    failed = tmt_on_ranks(2, "train", finished.path, "--output", run, launcher=one_fails)
    [reason] = reasons(failed)
    assert f"step 15 is saved, but its validation failed: {told}; " in reason
    assert last_checkpoint(run).name == "step_00000015"
    tmt_on_ranks(2, "train", finished.path, "--output", run, "--resume").ok()
    assert_same_end(run, finished.run)


def test_one_rank_continued_by_two_and_by_one_again(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for num_ranks, max_steps in ((1, 10), (2, 20), (1, LAST_STEP)):
        words = ("train", finished.path, "--output", run, "--resume", "--set", f"train.max_steps={max_steps}")
        done = (tmt_here(*words) if num_ranks == 1 else tmt_on_ranks(num_ranks, *words)).ok()
        if max_steps > 10:
            assert f"ranks was {3 - num_ranks}, is {num_ranks}" in done.stderr
    mine, theirs = ([m for m in metrics(one) if m["kind"] == "train"] for one in (run, finished.run))
    assert [m["step"] for m in mine] == [m["step"] for m in theirs] == list(range(1, LAST_STEP + 1))
    for found, expected in zip(mine, theirs, strict=True):
        assert math.isclose(found["loss"], expected["loss"], rel_tol=1e-5), "other data would show in the loss"


def test_patience_ends_both_ranks(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = (
        "optim.lr=1.0e-12",
        "train.max_steps=1000",
        "train.eval_steps=4",
        "train.patience=2",
        "train.best_metric=bleu",
    )
    overrides = [word for setting in settings for word in ("--set", setting)]
    done = tmt_on_ranks(2, "train", finished.path, "--output", run, *overrides).ok()
    assert "no better bleu in 2 validations" in done.stderr
    assert [m["step"] for m in metrics(run) if m["kind"] == "valid"] == [4, 8, 12]


def test_rank_without_a_pair_does_not_hang(tmp_path: Path) -> None:
    """Updates of one pair, and one validation sentence: the second rank has nothing to do, and both go on."""
    config = copy_corpus(tmp_path, num_train=12, num_valid=1)
    config["model"]["dropout"] = 0.0
    config["batch"] = {"max_tokens": 10}
    config["train"] |= {"max_steps": 12, "eval_steps": 6, "best_metric": "loss"}
    path = write_config(tmp_path / "config.yaml", config)
    tmt_on_ranks(2, "train", path, "--output", tmp_path / "two").ok()
    tmt_here("train", path, "--output", tmp_path / "one").ok()
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert len(two) == len(one) == 12 + 2
    for mine, theirs in zip(two, one, strict=True):
        assert math.isclose(mine["loss"], theirs["loss"], rel_tol=1e-5)


def test_what_a_model_makes_is_made_once_and_told_to_both(finished: Finished, tmp_path: Path) -> None:
    source = {"distill": finished.config["data"]["valid"][0]["src"], "model": str(finished.run)}
    settings = (f"data.train={json.dumps([source])}", f"data.cache_dir={tmp_path / 'cache'}", "train.max_steps=2")
    overrides = [word for setting in settings for word in ("--set", setting)]
    done = tmt_on_ranks(2, "train", finished.path, "--output", tmp_path / "run", *overrides).ok()
    assert done.stderr.count("13 lines translated") == 1 and last_checkpoint(tmp_path / "run").name == "step_00000002"


def test_bad_input_is_told_once_and_ends_both_ranks(finished: Finished, tmp_path: Path) -> None:
    """Rank 0 finds the mistake while the other waits for it."""
    missing = tmp_path / "missing.src"
    source = f"data.train=[{{src: {missing}, tgt: {missing}}}]"
    refused = tmt_on_ranks(2, "train", finished.path, "--output", tmp_path / "run", "--set", source)
    assert refused.status != 0
    assert "[rank1]: Traceback" not in refused.stderr
    assert sum(str(missing) in line for line in reasons(refused)) == 1
    others = [line for line in reasons(refused) if str(missing) not in line]
    assert set(others) <= {"tmt: rank 1: rank 0 has failed"}


def test_loss_that_is_not_finite_is_told_once_and_ends_both_ranks(finished: Finished, tmp_path: Path) -> None:
    settings = ("--set", "optim.lr=1.0e+30", "--set", "optim.warmup_steps=1")
    done = tmt_on_ranks(2, "train", finished.path, "--output", tmp_path / "run", *settings)
    assert done.status != 0
    assert len(reasons(done)) == 1
    assert "the update was not applied" in reasons(done)[0]
    assert metrics(tmp_path / "run")[-1]["kind"] == "not_finite"
