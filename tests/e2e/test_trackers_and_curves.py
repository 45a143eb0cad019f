"""What a run leaves for eyes: curves in TensorBoard, in a tracker and in a picture, through the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import Trained, checkpoints, copy_corpus, tmt_here, write, write_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRACKER = """
import json, os
def log(record):
    with open(os.environ["TRACKED"], "a") as file:
        file.write(json.dumps(record) + "\\n")
"""
FAILING_TRACKER = "def log(record):\n    raise ConnectionError('the dashboard is down')\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "my_tracker.py").write_text(TRACKER)
    (tmp_path / "failing_tracker.py").write_text(FAILING_TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_tracker", "failing_tracker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("TRACKED", str(tmp_path / "tracked.jsonl"))
    config = copy_corpus(tmp_path, num_train=60)
    config["train"] |= {"max_steps": 12, "eval_steps": 6, "checkpoint_steps": 4}
    return config


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_curves_of_a_run_that_was_killed_and_continued(config: dict[str, Any], tmp_path: Path) -> None:
    """TensorBoard shows what metrics.jsonl has: each number once, also those that were logged twice."""
    config["train"] |= {"tensorboard": True, "tracker": "my_tracker:log"}
    run, path = tmp_path / "run", write_config(tmp_path / "config.yaml", config)
    tmt_here("train", path, "--output", run).ok()
    first = records(run / "metrics.jsonl")
    assert records(tmp_path / "tracked.jsonl") == first
    # As if it had been killed before its checkpoints after the first were written.
    for name in checkpoints(run)[1:]:
        shutil.rmtree(run / "checkpoints" / name)
    (run / "last").write_text(f"{checkpoints(run)[0]}\n")
    tmt_here(
        "train", path, "--output", run, "--resume", "--set", "train.log_steps=2", "--set", "train.max_steps=14"
    ).ok()

    logged = records(run / "metrics.jsonl")
    kept = [record for record in first if record["step"] <= 4]
    assert logged[: len(kept)] == kept
    assert records(tmp_path / "tracked.jsonl") == [*first, *logged[len(kept) :]]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for kind in ("train", "valid"):
        for name in {"train": ("loss", "learning_rate"), "valid": ("perplexity", "bleu")}[kind]:
            expected = [(record["step"], record[name]) for record in logged if record["kind"] == kind]
            assert [step for step, _ in found[f"{kind}/{name}"]] == [step for step, _ in expected]
            assert dict(found[f"{kind}/{name}"]) == pytest.approx(dict(expected))

    picture = tmp_path / "curves.png"
    drawn = tmt_here("plot", "curves", run, "--output", picture).ok()
    assert drawn.stdout == b""
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert tmt_here("plot", "curves", tmp_path, "--output", picture).status == 2


def test_a_dashboard_that_is_down_stops_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = write_config(tmp_path / "config.yaml", config)
    done = tmt_here("train", path, "--output", run, "--set", "train.tracker=failing_tracker:log").ok()
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("warning") and "tracker" in line]
    assert "step 1: train.tracker failed (ConnectionError: the dashboard is down)" in warning
    assert [r["step"] for r in records(run / "metrics.jsonl") if r["kind"] == "train"] == list(range(1, 13))


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_prepared(
    config: dict[str, Any], tmp_path: Path
) -> None:
    path = write_config(tmp_path / "config.yaml", config)
    done = tmt_here("train", path, "--output", tmp_path / "run", "--set", "train.tracker=my_trakcer:log")
    assert done.status == 2
    assert "train.tracker my_trakcer:log: cannot be imported" in done.refusal
    assert "tokenizer:" not in done.stderr
    done = tmt_here("train", path, "--output", tmp_path / "run", "--set", "train.tracker=my_tracker.log")
    assert done.status == 2
    assert "train: tracker should be package.module:function, found 'my_tracker.log'" in done.refusal


def test_a_models_scores_by_length_are_those_of_its_translations(
    trained: Trained, sources: list[str], tmp_path: Path
) -> None:
    """Of a model that copies: the references are its sources."""
    text, hyp = write(tmp_path / "text", sources), tmp_path / "hyp"
    tmt_here("translate", trained.run, "--input", text, "--output", hyp).ok()
    found = tmt_here("plot", "lengths", trained.run, "--src", text, "--ref", text, "--hyp", hyp, "--json").ok()
    groups = json.loads(found.lines[0])["groups"]
    assert sum(group["num_sentences"] for group in groups) == len(sources)
    for group in groups:
        model, file = group["systems"]
        assert (model.pop("name"), file.pop("name")) == (trained.run.name, "hyp")
        assert model == file
