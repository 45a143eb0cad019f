"""Validation that is hard, or fails: nothing that was trained is lost, and the run ends as if nothing had been."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import checkpoints, copy_corpus, last_checkpoint, metrics, moments, tmt_here, weights, write_config

from transformer_mt.checkpoints import training_state
from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import Config
from transformer_mt.decoding import line_cutting
from transformer_mt.decoding.translations import Translation
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import RunError
from transformer_mt.text.sentences import SplitLine, split_line
from transformer_mt.training.resuming import _scoring
from transformer_mt.training.validation import Validation, with_tokenization


def tiny(directory: Path, **train: Any) -> Path:
    config = copy_corpus(directory, num_train=60, num_valid=4)
    settings = {"max_steps": 8, "eval_steps": 3, "checkpoint_steps": 4, "best_metric": "loss", **train}
    config["train"] |= settings
    return write_config(directory / "config.yaml", config)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("validation"))


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    tmt_here("train", config, "--output", config.parent / "run").ok()
    assert [m["step"] for m in metrics(config.parent / "run") if m["kind"] == "valid"] == [3, 6, 8]
    return config.parent / "run"


@contextmanager
def failing(at_step: int, error: BaseException, method: str) -> Iterator[None]:
    """The validation of one step fails, before or after it was logged."""
    run = Validation.run

    def fails(self: Validation, step: int, *others: Any) -> dict[str, float]:
        if step != at_step:
            return run(self, step, *others)
        if method == "late":
            run(self, step, *others)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "run", fails)
        yield


@pytest.mark.parametrize(
    ("step", "error", "method"),
    [
        (3, RunError("out of memory"), "early"),  # not due to be saved
        (8, KeyboardInterrupt(), "early"),  # the last step
        (6, RunError("metrics.jsonl: cannot be written"), "late"),
    ],
)
def test_a_failing_validation_saves_the_step_and_is_made_up_for(
    config: Path, finished: Path, tmp_path: Path, step: int, error: BaseException, method: str
) -> None:
    run = tmp_path / "run"
    with failing(step, error, method):
        failed = tmt_here("train", config, "--output", run)
    assert failed.status == 1
    if isinstance(error, RunError):
        assert f"step {step} is saved, but its validation failed: {error}; " in failed.refusal
        assert "--resume" in failed.refusal
    else:
        assert f"step {step} is saved, without its validation; continue with --resume" in failed.stderr
    saved = last_checkpoint(run)
    assert saved.name == f"step_{step:08d}"
    assert training_state.read_state(saved).by_signal

    with failing(step, RunError("once more"), "early"):  # nothing has changed
        assert "once more" in tmt_here("train", config, "--output", run, "--resume").refusal
    assert_continued(run, config, finished)


def test_a_signal_does_not_wait_for_the_validation(
    config: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_long(*_: Any, **__: Any) -> list[Translation]:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(3600)
        return []

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Translator, "translate", takes_long)
        stopped = tmt_here("train", config, "--output", run)
    assert stopped.status == 1
    assert "stopped by SIGTERM as it validated step 3, which is saved; continue with --resume" in stopped.refusal
    assert_continued(run, config, finished)


def assert_continued(run: Path, config: Path, finished: Path) -> None:
    """With --resume a run ends as one that nothing happened to."""
    tmt_here("train", config, "--output", run, "--resume").ok()
    assert metrics(run) == metrics(finished)
    assert weights(run) == weights(finished)
    assert moments(run) == moments(finished)
    assert (run / "best").read_text() == (finished / "best").read_text()
    assert (last_checkpoint(run) / "state.json").read_bytes() == (last_checkpoint(finished) / "state.json").read_bytes()


def test_one_long_line_is_named_before_the_first_update_and_translated_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(tiny(tmp_path, max_steps=1).read_text())
    [valid] = config["data"]["valid"]
    for side in ("src", "tgt"):
        with open(valid[side], "a") as lines:
            lines.write("a b c d " * 2000 + "\n")
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    done = tmt_here("train", path, "--output", run, "--dry-run").ok()
    assert "data.valid: 1 of 5 pairs have more than 1,024 tokens on a side and are left out of the loss: pair 5 (" in (
        done.stderr
    )
    assert "are translated in parts; the first is pair 5" in done.stderr
    split: list[SplitLine] = []

    def watched(*args: Any) -> SplitLine:
        split.append(split_line(*args))
        return split[-1]

    monkeypatch.setattr(line_cutting, "split_line", watched)
    tmt_here("train", path, "--output", run).ok()
    assert max(len(line.parts) for line in split) > 100
    loss = metrics(run)[-1]["loss"]
    for side in ("src", "tgt"):
        file = Path(valid[side])
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    tmt_here("train", path, "--output", tmp_path / "without").ok()
    assert metrics(tmp_path / "without")[-1]["loss"] == loss

    for side in ("src", "tgt"):
        Path(valid[side]).write_text("a b c d " * 2000 + "\n")
    refused = tmt_here("train", path, "--output", tmp_path / "none")
    assert refused.status == 2
    assert "data.valid: all pairs have more than 1,024 tokens on a side: pair 1 (" in refused.refusal


def test_of_equal_scores_the_lower_loss_is_the_best(tmp_path: Path) -> None:
    """BLEU stands at 0 while the model learns: that is no reason to lose patience."""
    path = tiny(tmp_path, max_steps=6, eval_steps=1, best_metric="bleu", patience=2)
    tmt_here("train", path, "--output", tmp_path / "run").ok()
    valid = [m for m in metrics(tmp_path / "run") if m["kind"] == "valid"]
    assert {m["bleu"] for m in valid} == {0.0}
    assert len(valid) == 6
    best = min(valid, key=lambda m: m["loss"])
    assert (tmp_path / "run" / "best").read_text() == f"step_{best['step']:08d}\n"
    assert best["step"] > 1


def test_without_metrics_it_is_the_loss_alone(config: Path, finished: Path, tmp_path: Path) -> None:
    tmt_here("train", config, "--output", tmp_path / "run", "--set", "eval.metrics=[]").ok()
    alone, all_scores = ([m for m in metrics(run) if m["kind"] == "valid"] for run in (tmp_path / "run", finished))
    assert [m["loss"] for m in alone] == [m["loss"] for m in all_scores]
    assert not any("bleu" in m for m in alone) and all("bleu" in m for m in all_scores)


def test_a_resume_that_ends_at_once_keeps_as_many_checkpoints(tmp_path: Path) -> None:
    """As where the run was killed between naming its last checkpoint and deleting the one too many."""
    path = tiny(tmp_path, max_steps=4, eval_steps=4, checkpoint_steps=1, keep_checkpoints=2)
    run = tmp_path / "run"
    tmt_here("train", path, "--output", run).ok()
    kept = checkpoints(run)
    assert kept == ["step_00000003", "step_00000004"]
    shutil.copytree(run / "checkpoints" / kept[0], run / "checkpoints" / "step_00000002")
    tmt_here("train", path, "--output", run, "--resume").ok()
    assert checkpoints(run) == kept


def test_tokenisation_follows_the_language_and_is_in_the_runs_configuration(tmp_path: Path) -> None:
    config = json.loads(tiny(tmp_path, max_steps=1, best_metric="bleu").read_text())
    config["data"]["tgt_lang"] = "zh"
    path, run = write_config(tmp_path / "config.yaml", config), tmp_path / "run"
    tmt_here("train", path, "--output", run).ok()
    assert load_config(run / "config.yaml", of_model=True).eval.tokenize == {"zh": "zh"}
    assert "|tok:zh|" in metrics(run)[-1]["signatures"]["bleu"]
    [valid] = config["data"]["valid"]
    files = ("--src", valid["src"], "--ref", valid["tgt"])
    own = tmt_here("eval", run, *files).ok().lines
    assert "|tok:zh|" in own[0] and "|asian:yes|" in own[2]

    # The run's own setting; and scores of another tokenisation are no measure.
    changed = ("--set", "train.max_steps=2", "--set", "eval.tokenize={zh: char}")
    resumed = tmt_here("train", path, "--output", run, "--resume", *changed).ok()
    assert "eval.tokenize was {zh: zh}, is {zh: char}" in resumed.stderr
    assert training_state.read_state(last_checkpoint(run)).best_step == 2
    assert "|tok:char|" in tmt_here("eval", run, *files, "--metrics", "bleu").ok().lines[0]
    assert "|tok:intl|" in tmt_here("eval", run, *files, "--tokenize", "intl").ok().lines[0]


def test_scores_of_0_1_0_are_those_of_13a() -> None:
    def config(tgt_lang: str, tokenize: dict[str, str]) -> Config:
        source = {"src": "a", "tgt": "b"}
        data = {"src_lang": "en", "tgt_lang": tgt_lang, "train": [source], "valid": [source]}
        return Config.model_validate({"data": data, "eval": {"tokenize": tokenize}})

    for language, is_same in (("de", True), ("zh", False)):
        before = config(language, {})
        assert (_scoring(with_tokenization(before)) == _scoring(before)) is is_same
        assert with_tokenization(before).eval.tokenize == ({} if is_same else {"zh": "zh"})
        explicit = config(language, {language: "13a"})
        assert _scoring(with_tokenization(explicit)) == _scoring(before)


@pytest.mark.parametrize(
    ("blank", "tokenize", "message"),
    [
        ("src", {}, "data.valid: all of its 4 pairs have a blank side"),
        ("tgt", {}, "data.valid: all of its 4 pairs have a blank side"),
        (None, {"xx": "char"}, "eval.tokenize: xx is no target language"),
        (None, {"tgt": "chars"}, "unknown tokenizer 'chars', nearest is 'char'"),
    ],
)
def test_validation_that_says_nothing_is_refused_at_once(
    tmp_path: Path, blank: str | None, tokenize: dict[str, str], message: str
) -> None:
    config = json.loads(tiny(tmp_path).read_text())
    config.setdefault("eval", {})["tokenize"] = {
        config["data"]["tgt_lang"] if language == "tgt" else language: name for language, name in tokenize.items()
    }
    [valid] = config["data"]["valid"]
    if blank is not None:
        Path(valid[blank]).write_text(" \n" * 4)
    refused = tmt_here("train", write_config(tmp_path / "config.yaml", config), "--output", tmp_path / "run")
    assert refused.status == 2
    assert message in refused.refusal
