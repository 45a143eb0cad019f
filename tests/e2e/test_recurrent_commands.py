"""A recurrent model by the commands of a Transformer: trained, killed and resumed, averaged, translated, scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Running,
    Trained,
    checkpoints,
    copy_corpus,
    last_checkpoint,
    metrics,
    moments,
    n_best,
    symbol_lines,
    text,
    tmt_here,
    weights,
    write,
    write_config,
)

LAST_STEP = 200


def recurrent(directory: Path, attention: str, **train: Any) -> Path:
    config = copy_corpus(directory, num_train=2000)
    shape = {"kind": "recurrent", "preset": "tiny", "d_model": 48, "dropout": 0.0}
    config["model"] = {**shape, "num_encoder_layers": 1, "num_decoder_layers": 2, "recurrent_attention": attention}
    config["batch"] = {"max_tokens": 800}
    config["optim"] |= {"lr": 0.01, "warmup_steps": 50, "clip_norm": 1.0}
    config["train"] |= {"eval_steps": 150, "checkpoint_steps": 50, "log_steps": 50} | train
    return write_config(directory / "config.yaml", config)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("learned")
    path, run = recurrent(directory, "additive", max_steps=LAST_STEP, ema_decay=0.9), directory / "run"
    tmt_here("train", path, "--output", run).ok()
    return Trained(path, run, directory / "train.src")


def test_learns_to_copy(learned: Trained) -> None:
    lines = symbol_lines(100, seed=5)
    found = tmt_here("translate", learned.run, "--beam-size", "1", stdin=text(lines)).ok().lines
    assert sum(one == other for one, other in zip(found, lines, strict=True)) >= 90


def test_killed_and_resumed_is_identical(tmp_path: Path) -> None:
    path = recurrent(tmp_path, "dot", max_steps=24, eval_steps=12, checkpoint_steps=6, log_steps=1)
    options = ("--set", "model.dropout=0.2", "--set", "batch.micro_tokens=400")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tmt_here("train", path, "--output", whole, *options).ok()
    running = Running("train", path, "--output", cut, *options)
    running.wait_until(lambda: len(checkpoints(cut)) >= 2 if cut.exists() else False)
    running.kill()
    assert last_checkpoint(cut) != cut / "checkpoints" / last_checkpoint(whole).name
    tmt_here("train", path, "--output", cut, "--resume", *options).ok()
    assert (weights(cut), moments(cut), metrics(cut)) == (weights(whole), moments(whole), metrics(whole))


def test_dry_run(tmp_path: Path) -> None:
    done = tmt_here("train", recurrent(tmp_path, "none"), "--output", tmp_path / "run", "--dry-run").ok()
    assert "tiny recurrent model with " in done.stderr and "peak memory" in done.stderr


def test_score_is_that_of_the_search(learned: Trained, tmp_path: Path) -> None:
    sources = symbol_lines(10, seed=6)  # none so long that it is translated in parts
    found = n_best(
        tmt_here(
            "translate",
            learned.run,
            *("--n-best", "2", "--beam-size", "3", "--length-penalty", "0"),
            stdin=text(sources),
        )
    )
    assert len(found) == 20
    src = write(tmp_path / "src", [sources[number] for number, _, _ in found])
    tgt = write(tmp_path / "tgt", [line for _, line, _ in found])
    scores = [float(line) for line in tmt_here("score", learned.run, "--src", src, "--tgt", tgt).ok().lines]
    assert scores == pytest.approx([score for _, _, score in found], abs=2e-3)


def test_average_sampling_and_an_ensemble(learned: Trained, tmp_path: Path, sources: list[str]) -> None:
    tmt_here("average", learned.run, "--output", tmp_path / "average", "--last", "2").ok()
    averaged = tmt_here("translate", tmp_path / "average", stdin=text(sources)).ok().lines
    sampled = tmt_here("translate", learned.run, "--set", "search.sampling=true", stdin=text(sources)).ok().lines
    both = tmt_here("translate", learned.run, "--ensemble", tmp_path / "average", stdin=text(sources)).ok().lines
    assert len(averaged) == len(sampled) == len(both) == len(sources)
    assert averaged != sampled


def test_int8_is_refused(learned: Trained) -> None:
    refused = tmt_here("translate", learned.run, "--set", "search.precision=int8", stdin="a b c\n")
    assert refused.status == 2 and "search.precision int8: only for model.kind transformer" in refused.refusal


def test_its_attention_is_over_the_source_only(learned: Trained) -> None:
    shown = json.loads(tmt_here("plot", "attention", learned.run, "--src", "a b c d", "--json").ok().stdout)
    assert len(shown["layers"]) == len(shown["heads"]) == 1
    looked_at = [row.index(max(row)) for row in shown["weights"][0][0][:4]]
    assert looked_at == [0, 1, 2, 3]  # what it copies
    refused = tmt_here("plot", "attention", learned.run, "--src", "a b", "--use", "encoder", "--json")
    assert refused.status == 2 and "it has cross" in refused.refusal
