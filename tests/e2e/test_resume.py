"""A run that is stopped in any way and continued ends as one that was never stopped, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Running,
    checkpoints,
    copy_corpus,
    last_checkpoint,
    metrics,
    moments,
    symbol_lines,
    tmt_here,
    weights,
    write,
    write_config,
)

from transformer_mt.toy_corpus import grammar

LAST_STEP = 40


@dataclass(frozen=True)
class Finished:
    """An uninterrupted run. Tests that damage or continue it work on a copy."""

    config: dict[str, Any]
    path: Path
    run: Path

    def copy_to(self, directory: Path) -> Path:
        shutil.copytree(self.run, directory)
        return directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("finished")
    # About 10 updates an epoch, three micro-batches an update, dropout everywhere, validations in between.
    config = copy_corpus(directory)
    config["model"] |= {"dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.1}
    config["train"] |= {"max_steps": LAST_STEP, "eval_steps": 15, "checkpoint_steps": 6, "best_metric": "loss"}
    config["optim"]["warmup_steps"] = 10
    path = write_config(directory / "config.yaml", config)
    tmt_here("train", path, "--output", directory / "run").ok()
    return Finished(config, path, directory / "run")


def checkpoint_paths(run: Path) -> list[Path]:
    return [run / "checkpoints" / name for name in checkpoints(run)]


def has_logged(run: Path, step: int) -> bool:
    path = run / "metrics.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text()


def assert_same_end(run: Path, expected: Path) -> None:
    assert last_checkpoint(run).name == last_checkpoint(expected).name
    assert weights(run) == weights(expected)
    assert moments(run) == moments(expected)
    assert metrics(run) == metrics(expected)
    assert (run / "best").read_text() == (expected / "best").read_text()


def test_reference_run_is_worth_comparing_with(finished: Finished) -> None:
    found = metrics(finished.run)
    assert [m["step"] for m in found if m["kind"] == "train"] == list(range(1, LAST_STEP + 1))
    assert [m["step"] for m in found if m["kind"] == "valid"] == [15, 30, LAST_STEP]
    assert found[-1]["loss"] < found[0]["loss"] - 1, "it learns, so that other data or dropout would show"
    epochs = [
        json.loads((path / "state.json").read_text())["cursor"]["epoch"] for path in checkpoint_paths(finished.run)
    ]
    assert set(epochs) >= {0, 1, 2, 3}, "there are borders of epochs wherever it is stopped"
    assert len({(path / "model.safetensors").read_bytes() for path in checkpoint_paths(finished.run)}) == len(epochs)


def test_killed_and_resumed_is_identical(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    draw = random.Random(1)
    step = draw.randint(7, 30)
    process = Running("train", finished.path, "--output", run)
    # The first checkpoint is written beside the updates: on a slow disk, later than the record of update 7.
    process.wait_until(lambda: has_logged(run, step) and (run / "last").exists())
    time.sleep(draw.uniform(0, 0.05))  # within an update, a validation or a save
    assert process.kill().status == -signal.SIGKILL
    assert 6 <= int(last_checkpoint(run).name.removeprefix("step_")) < LAST_STEP

    resumed = tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert "continuing from step" in resumed.stderr
    assert "warning" not in resumed.stderr
    assert_same_end(run, finished.run)


def test_killed_again_and_again_is_identical(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number in (1, 4):
        process = Running("train", finished.path, "--output", run, "--resume")
        process.wait_until(lambda enough=number: len(checkpoints(run)) >= enough)  # type: ignore[misc]
        process.kill()
    tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert_same_end(run, finished.run)
    assert not list((run / "checkpoints").glob(".*")), "half-written checkpoints are left behind"


def test_stopped_by_signal_saves_and_resumes_identical(finished: Finished, tmp_path: Path) -> None:
    run, number = tmp_path / "run", signal.SIGINT
    process = Running("train", finished.path, "--output", run)
    process.wait_until(lambda: has_logged(run, 17))
    process.signal(number)
    stopped = process.end()
    assert stopped.status == 1
    assert number.name in stopped.refusal
    assert "--resume" in stopped.refusal
    step = int(last_checkpoint(run).name.removeprefix("step_"))
    assert 17 <= step < LAST_STEP
    assert metrics(run)[-1]["step"] == step, "no work is lost"

    tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert_same_end(run, finished.run)


def test_checkpoint_made_by_a_signal_is_not_averaged_nor_kept(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("--set", "train.checkpoint_steps=20", "--set", "train.keep_checkpoints=2", "--set", "data.valid=[]")
    process = Running("train", finished.path, "--output", run, *settings)
    process.wait_until(lambda: has_logged(run, 21))
    process.signal(signal.SIGTERM)
    process.end()
    by_signal = last_checkpoint(run).name
    assert by_signal not in ("step_00000020", "step_00000040")
    averaged = tmt_here("average", run, "--last", 1, "--output", tmp_path / "model").ok()
    assert f"{by_signal} (made by a signal)" in averaged.stderr and f"averaging {run}/" in averaged.stderr
    tmt_here("train", finished.path, "--output", run, *settings, "--resume").ok()
    assert checkpoints(run) == ["step_00000020", "step_00000040"]


def test_resume_of_nothing_starts_at_step_0(finished: Finished, tmp_path: Path) -> None:
    tmt_here("train", finished.path, "--output", tmp_path / "run", "--resume").ok()
    assert_same_end(tmp_path / "run", finished.run)


def test_resume_of_a_finished_run_changes_nothing(finished: Finished, tmp_path: Path) -> None:
    run = finished.copy_to(tmp_path / "run")
    done = tmt_here("train", finished.path, "--output", run, "--resume").ok()
    assert "max_steps reached" in done.stderr
    assert_same_end(run, finished.run)


def test_run_with_checkpoints_is_refused_without_resume(finished: Finished, tmp_path: Path) -> None:
    run = finished.copy_to(tmp_path / "run")
    refused = tmt_here("train", finished.path, "--output", run)
    assert refused.status == 2
    assert str(run) in refused.refusal
    assert "--resume" in refused.refusal
    assert_same_end(run, finished.run)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.d_ff=128", ("model.d_ff", "64", "128")),
        ("optim.lr=0.001", ("optim.lr", "0.003", "0.001")),
        ("train.seed=7", ("train.seed", "1", "7")),
        ("batch.max_tokens=300", ("batch.max_tokens", "256", "300")),
    ],
)
def test_resume_with_another_configuration_is_refused(
    finished: Finished, tmp_path: Path, change: str, named: tuple[str, str, str]
) -> None:
    run = finished.copy_to(tmp_path / "run")
    refused = tmt_here("train", finished.path, "--output", run, "--resume", "--set", change)
    key, before, now = named
    assert refused.status == 2
    assert f"{key} was {before}, is {now}" in refused.refusal
    assert "--output" in refused.refusal
    assert_same_end(run, finished.run)


def test_resume_with_more_steps_goes_on(finished: Finished, tmp_path: Path) -> None:
    run = finished.copy_to(tmp_path / "run")
    tmt_here("train", finished.path, "--output", run, "--resume", "--set", "train.max_steps=50").ok()
    assert last_checkpoint(run).name == "step_00000050"
    before = metrics(finished.run)
    assert metrics(run)[: len(before)] == before
    assert [m["step"] for m in metrics(run)[len(before) :]] == [*range(41, 46), 45, *range(46, 51), 50]
    assert weights(run) != weights(finished.run)


def test_resume_elsewhere_tells_what_the_last_bits_depend_on(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished.copy_to(tmp_path / "run")
    monkeypatch.setattr("transformer_mt.training.setup.processor", lambda: "another")
    monkeypatch.setattr("transformer_mt.training.setup.code_version", lambda: "0.2.0, commit 0a1b")
    steps = ("--set", f"train.max_steps={LAST_STEP + 2}")
    done = tmt_here("train", finished.path, "--output", run, "--resume", *steps).ok()
    [line] = [line for line in done.stderr.splitlines() if "not bit for bit" in line]
    assert "processor was" in line and line.endswith(", is another") and "commit" not in line
    state = json.loads((last_checkpoint(run) / "state.json").read_text())
    assert state["environment"]["transformer_mt"] == "0.2.0, commit 0a1b"


def test_resume_with_another_corpus_is_refused(tmp_path: Path) -> None:
    """Same paths, so same configuration; one line differs."""
    config = copy_corpus(tmp_path, num_train=600)
    config["train"] |= {"max_steps": 10}
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    tmt_here("train", path, "--output", run).ok()
    lines = symbol_lines(612, seed=1)[:600]
    assert Path(config["data"]["train"][0]["tgt"]).read_text().splitlines() == lines
    write(tmp_path / "train.tgt", [*lines[:299], "q", *lines[300:]])
    refused = tmt_here("train", path, "--output", run, "--resume", "--set", "train.max_steps=20")
    assert refused.status == 2
    assert f"another corpus ({tmp_path / 'train.tgt'} has changed)" in refused.refusal
    assert str(last_checkpoint(run)) in refused.refusal
    refused = tmt_here(
        "train",
        path,
        "--output",
        run,
        "--resume",
        "--set",
        "data.train=[{builtin: grammar, split: train, num_pairs: 50}]",
    )
    assert f"{tmp_path / 'train.src'} is gone; {tmp_path / 'train.tgt'} is gone" in refused.refusal

    # The same pairs in another place are the same corpus.
    write(tmp_path / "moved", lines)
    moved = f"data.train=[{{src: {tmp_path / 'moved'}, tgt: {tmp_path / 'moved'}}}]"
    resumed = tmt_here("train", path, "--output", run, "--resume", "--set", "train.max_steps=20", "--set", moved).ok()
    assert "continuing with changed settings: data.train was " in resumed.stderr
    assert last_checkpoint(run).name == "step_00000020"


def test_resume_with_other_generated_pairs_is_refused(tmp_path: Path) -> None:
    config = copy_corpus(tmp_path)
    config["data"] |= {"train": [{"builtin": "grammar", "split": "train", "num_pairs": 100}], "valid": []}
    config["tokenizer"]["vocab_size"] = 400
    config["train"] |= {"max_steps": 5}
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    tmt_here("train", path, "--output", run).ok()
    config["data"]["train"][0]["num_pairs"] = 101
    refused = tmt_here("train", write_config(path, config), "--output", run, "--resume")
    assert refused.status == 2
    was, now = (f"[{{split: train, builtin: grammar, num_pairs: {number}}}]" for number in (100, 101))
    assert f"another corpus (data.train was {was}, is {now});" in refused.refusal


def test_resume_with_another_version_of_the_generated_pairs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy_corpus(tmp_path)
    config["data"] |= {"train": [{"builtin": "grammar", "split": "train", "num_pairs": 100}], "valid": []}
    config["tokenizer"]["vocab_size"] = 400
    config["train"] |= {"max_steps": 5}
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    tmt_here("train", path, "--output", run).ok()
    monkeypatch.setattr(grammar, "VERSION", grammar.VERSION + 1)
    monkeypatch.setattr(grammar, "sentence", lambda rng: (f"No {rng.random()}.", "Nein."))
    refused = tmt_here("train", path, "--output", run, "--resume")
    assert refused.status == 2
    assert (
        "was trained on another corpus (its data sets have changed, the text that drop_held_out leaves out, or how a "
        "format is read); restore it" in refused.refusal
    )


def test_resume_with_held_out_text_that_training_text_would_be_without_is_refused(tmp_path: Path) -> None:
    config = copy_corpus(tmp_path)
    config["data"]["clean"] = {"drop_held_out": True}
    config["train"] |= {"max_steps": 2}
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    tmt_here("train", path, "--output", run).ok()
    [line] = Path(config["data"]["train"][0]["src"]).read_text().splitlines()[:1]
    write(tmp_path / "test", [line])
    test = f"data.test=[{{src: {tmp_path / 'test'}, tgt: {tmp_path / 'test'}}}]"
    refused = tmt_here("train", path, "--output", run, "--resume", "--set", "train.max_steps=4", "--set", test)
    source = f"[{{src: {tmp_path / 'test'}, tgt: {tmp_path / 'test'}}}]"
    assert refused.status == 2 and f"another corpus (data.test was [], is {source});" in refused.refusal


def test_resume_with_another_tokenizer_file_is_refused(tmp_path: Path) -> None:
    config = copy_corpus(tmp_path)
    config["tokenizer"] = {"model": str(tmp_path / "tok.model")}
    config["train"] |= {"max_steps": 5}
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    size = ("--output", tmp_path / "tok.model", "--vocab-size")
    tmt_here("tokenizer", "train", "--input", tmp_path / "train.src", *size, 300).ok()
    tmt_here("train", path, "--output", run).ok()
    tmt_here("tokenizer", "train", "--input", tmp_path / "train.src", *size, 290).ok()
    refused = tmt_here("train", path, "--output", run, "--resume", "--set", "train.max_steps=10")
    assert refused.status == 2
    assert f"tokenizer.model {tmp_path / 'tok.model'} " in refused.refusal
    assert str(last_checkpoint(run)) in refused.refusal
    (tmp_path / "tok.model").unlink()  # the run has a copy of its own
    tmt_here("train", path, "--output", run, "--resume", "--set", "train.max_steps=10").ok()


def test_resume_with_other_settings_of_evaluation_and_logging_is_told(finished: Finished, tmp_path: Path) -> None:
    run = finished.copy_to(tmp_path / "run")
    changes = ("train.max_steps=44", "train.log_steps=2", "train.best_metric=chrf", "train.eval_steps=2")
    words = [word for change in changes for word in ("--set", change)]
    resumed = tmt_here("train", finished.path, "--output", run, "--resume", *words).ok()
    [told] = [line for line in resumed.stderr.splitlines() if line.startswith("continuing with changed settings: ")]
    for part in (
        "max_steps was 40, is 44",
        "log_steps was 1, is 2",
        "best_metric was loss, is chrf",
        "eval_steps was 15",
    ):
        assert f"train.{part}" in told
    new = metrics(run)[len(metrics(finished.run)) :]
    assert [(m["kind"], m["step"]) for m in new] == [("train", 42), ("valid", 42), ("train", 44), ("valid", 44)]
    # A chrF is not compared with the losses before it.
    best = max(new[1], new[3], key=lambda record: (record["chrf"], -record["loss"]))
    assert (run / "best").read_text() == f"step_{best['step']:08d}\n"


def test_settings_that_no_score_depends_on_keep_the_best_one(finished: Finished, tmp_path: Path) -> None:
    run = finished.copy_to(tmp_path / "run")
    state = json.loads((last_checkpoint(run) / "state.json").read_text())
    assert state["best_score"] is not None
    words = ("--set", "train.max_steps=41", "--set", "search.batch_tokens=512", "--set", "search.beam_size=7")
    tmt_here("train", finished.path, "--output", run, "--resume", *words, "--set", "train.eval_steps=1000").ok()
    now = json.loads((last_checkpoint(run) / "state.json").read_text())
    better = min(state["best_score"], metrics(run)[-1]["loss"])
    assert now["best_score"] == better
    assert now["evals_without_improvement"] == (0 if now["best_step"] == 41 else state["evals_without_improvement"] + 1)


def test_second_process_on_the_same_run_is_refused(finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Running("train", finished.path, "--output", run, "--set", "train.max_steps=100000")
    first.wait_until(lambda: (run / "last").exists())
    second = tmt_here("train", finished.path, "--output", run, "--resume")
    assert second.status == 2
    assert f"{run}: another process" in second.refusal
    first.signal(signal.SIGTERM)
    assert first.end().status == 1
    third = tmt_here("train", finished.path, "--output", run, "--resume", "--set", "train.max_steps=1").ok()
    assert "another process" not in third.stderr


@pytest.mark.parametrize("damage", ["cut short", "one bit"])
def test_damaged_newest_checkpoint_falls_back_only_on_resume(finished: Finished, tmp_path: Path, damage: str) -> None:
    run = finished.copy_to(tmp_path / "run")
    newest = last_checkpoint(run)
    (run / "best").write_text(f"{newest.name}\n")
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut short":
        del content[-1000:]
    else:
        content[-1] ^= 1
    file.write_bytes(content)

    for model in (run, newest):
        refused = tmt_here("translate", model, stdin="a b c\n")
        assert refused.status == 2
        assert refused.stdout == b""
        assert str(file) in refused.refusal

    resumed = tmt_here("train", finished.path, "--output", run, "--resume").ok()
    warnings = [line for line in resumed.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert "continuing from step 36" in resumed.stderr
    assert_same_end(run, finished.run)
    tmt_here("translate", run, stdin="a b c\n").ok()


def test_no_intact_checkpoint_is_refused(finished: Finished, tmp_path: Path) -> None:
    run = finished.copy_to(tmp_path / "run")
    for name in checkpoints(run):
        (run / "checkpoints" / name / "optimizer.safetensors").write_bytes(b"")
    refused = tmt_here("train", finished.path, "--output", run, "--resume")
    assert refused.status == 2
    assert str(run) in refused.refusal


def test_patience_ends_the_run(tmp_path: Path) -> None:
    """A learning rate so small that nothing improves: the first validation is the best, two more and it ends."""
    config = copy_corpus(tmp_path)
    config["optim"]["lr"] = 1e-12
    config["train"] |= {"max_steps": 1000, "eval_steps": 5, "checkpoint_steps": 1000, "patience": 2}
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    done = tmt_here("train", path, "--output", run).ok()
    assert [m["step"] for m in metrics(run) if m["kind"] == "valid"] == [5, 10, 15]
    assert "no better bleu in 2 validations" in done.stderr
    assert (run / "best").read_text() == "step_00000005\n"
    assert (run / "last").read_text() == "step_00000015\n"
