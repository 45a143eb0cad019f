"""What a run does at its end: the test text is scored once, nothing is lost where that fails, and advice is given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import copy_corpus, metrics, symbol_lines, tmt, tmt_here, weights, write, write_config

from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import Config
from transformer_mt.data.batching import Cursor
from transformer_mt.training import ending
from transformer_mt.training.run_log import RunLog


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration with test text, and its run, which has ended."""
    directory = tmp_path_factory.mktemp("ended")
    config = copy_corpus(directory)
    test = str(write(directory / "test.txt", symbol_lines(20, seed=7)))
    config["data"]["test"] = [{"src": test, "tgt": test}]
    path = write_config(directory / "config.yaml", config)
    done = tmt("train", path, "--output", directory / "run").ok()
    (directory / "stderr").write_text(done.stderr, encoding="utf-8")
    return path, directory / "run"


def test_the_test_text_is_scored_once_as_tmt_eval_does(ended: tuple[Path, Path]) -> None:
    path, run = ended
    [record] = [one for one in metrics(run) if one["kind"] == "test"]
    test = path.parent / "test.txt"
    scores = json.loads(
        tmt_here("eval", run, "--src", test, "--ref", test, "--metrics", "bleu,chrf", "--json").ok().stdout
    )
    for name in ("bleu", "chrf"):
        assert record[name] == scores["metrics"][name]["score"]
        assert record["signatures"][name] == scores["metrics"][name]["signature"]
    assert (run / "best").read_text().strip() == f"step_{record['step']:08d}"
    told = (path.parent / "stderr").read_text(encoding="utf-8").splitlines()
    assert [line for line in told if line.startswith(f"test.0, step {record['step']}: BLEU|")]
    assert told[-1].startswith("next: ")
    before = (run / "metrics.jsonl").read_bytes()
    again = tmt("train", path, "--output", run, "--resume").ok().stderr
    assert (
        f"test.0, step {record['step']}: {record['signatures']['bleu']} = {record['bleu']:.2f} (scored before)" in again
    )
    assert (run / "metrics.jsonl").read_bytes() == before


def test_changed_text_is_scored_again(ended: tuple[Path, Path], tmp_path: Path) -> None:
    """Under the same name; but not where the log of an older version does not say which text it was."""
    path, run = ended
    test = write(tmp_path / "test.txt", symbol_lines(5, seed=8))
    config = with_test(path, name="changing", src=str(test), tgt=str(test))
    [number], here = {one["step"] for one in metrics(run) if one["kind"] == "test"}, tmp_path / "run"
    shutil.copytree(run, here)
    (here / "metrics.jsonl").write_text("")

    def scored() -> list[Any]:
        log = RunLog(here, number, config.train, {}, validates=True)
        ending.score_test(config, here, log, lambda: False)
        log.close()
        return [one.get("fingerprint") for one in metrics(here)]

    first = scored()
    assert len(first) == 1 and scored() == first
    write(test, symbol_lines(5, seed=9))
    both = scored()
    assert both[:-1] == first and both[-1] not in first and scored() == both
    write(test, symbol_lines(5, seed=8))
    assert scored() == both
    [record, _] = metrics(here)
    del record["fingerprint"]
    write(here / "metrics.jsonl", [json.dumps(record)])
    write(test, symbol_lines(5, seed=9))
    assert scored() == [None]


def test_text_that_can_no_longer_be_read_loses_nothing(
    ended: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = ended
    short = str(write(tmp_path / "short.txt", symbol_lines(5, seed=7)))
    before = (run / "metrics.jsonl").read_bytes()
    config = with_test(path, name="short", tgt=short)
    log = RunLog(run, config.train.max_steps, config.train, {}, validates=True)
    ending.score_test(config, run, log, lambda: False)
    log.close()
    warning = capsys.readouterr().err
    assert "test.short is not scored: " in warning and "short.txt has 5 lines" in warning
    assert "The run is complete" in warning and (run / "metrics.jsonl").read_bytes() == before
    # At the start of a run it is told before anything is done.
    done = tmt_here(
        "train", path, "--output", tmp_path / "other", "--set", f"data.test=[{{src: {path}, tgt: {short}}}]"
    )
    assert "short.txt has 5 lines" in done.refusal and not [*tmp_path.glob("other/checkpoints/step*")]
    # Without test text, the weights are the same, and all that is logged besides.
    tmt("train", path, "--output", tmp_path / "run", "--set", "data.test=[]").ok()
    assert weights(tmp_path / "run") == weights(run)
    assert metrics(tmp_path / "run") == [one for one in metrics(run) if one["kind"] != "test"]


def with_test(path: Path, **changed: str) -> Config:
    """The configuration with a test source that differs."""
    config = load_config(path)
    test = (config.data.test[0].model_copy(update=changed),)
    return config.model_copy(update={"data": config.data.model_copy(update={"test": test})})


def test_a_signal_ends_the_scoring(ended: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, run = ended
    config = with_test(path, name="other", src=str(path.parent / "train.src"), tgt=str(path.parent / "train.tgt"))
    before = (run / "metrics.jsonl").read_bytes()
    log = RunLog(run, config.train.max_steps, config.train, {}, validates=True)
    signals = iter([False, False, True])
    ending.score_test(config, run, log, lambda: next(signals))
    log.close()
    assert "test.other: not scored, as a signal came" in capsys.readouterr().err
    assert next(signals, None) is None and (run / "metrics.jsonl").read_bytes() == before


def advice(directory: Path, config: Config, bleu: list[float], loss: list[float], epoch: int = 10) -> str:
    best = max(range(len(bleu)), key=bleu.__getitem__)
    records = [
        {"kind": "valid", "step": 10 * i, "bleu": b, "loss": nll}
        for i, (b, nll) in enumerate(zip(bleu, loss, strict=True), 1)
    ]
    write(directory / "metrics.jsonl", [json.dumps(record) for record in records])
    state = TrainState(step=10 * len(bleu), best_step=10 * (best + 1), cursor=Cursor(epoch))
    return ending.advice(config, directory, state)


def test_advice_follows_the_validations(ended: tuple[Path, Path], tmp_path: Path) -> None:
    def with_keys(section: str, **keys: Any) -> Config:
        return config.model_copy(update={section: getattr(config, section).model_copy(update=keys)})

    config = load_config(ended[0])  # inverse_sqrt
    cosine = with_keys("optim", schedule="cosine")
    falling, rising = [4.0, 3.0, 2.5, 2.3, 2.2, 2.1], [1.0, 10.0, 20.0, 25.0, 28.0, 30.0]
    assert "go on with --resume and train.max_steps 120" in advice(tmp_path, config, rising, falling)
    assert "train.max_steps 120 and another --output" in advice(tmp_path, cosine, rising, falling)
    assert "above that of guessing: lower optim.lr" in advice(
        tmp_path, config, falling, [9.9, 66.0, 85.0, 87.0, 87.0, 87.0]
    )
    warm = with_keys("optim", schedule="cosine", warmup_steps=40)  # the rate is at its peak, not at 0
    assert "go on with --resume and train.max_steps 120" in advice(tmp_path, warm, rising, falling)
    warm = with_keys("optim", schedule="cosine", warmup_steps=41)
    assert "still rose (41 steps of warm-up): go on with --resume" in advice(tmp_path, warm, rising, falling)
    flat = [1.0, 10.0, 20.0, 30.0, 30.1, 30.2]
    assert f"tmt average {tmp_path} --output" in advice(tmp_path, config, flat, falling)
    assert "more text" in advice(tmp_path, cosine, flat, falling)
    assert "more text" in advice(tmp_path, with_keys("train", ema_decay=0.99), flat, falling)
    few = "the last checkpoint is the best, and only in epoch 4: a longer run may be better, with train.max_steps 120"
    assert few in advice(tmp_path, cosine, flat, falling, epoch=3)
    assert "more text" in advice(tmp_path, cosine, [*flat[:-1], 30.0], falling, epoch=3)
    risen = [4.0, 3.0, 2.0, 2.1, 2.2, 2.3]
    assert "risen again by 0.30" in advice(tmp_path, config, [1.0, 20.0, 30.0, 29.0, 28.0, 28.0], risen)
    (tmp_path / "metrics.jsonl").write_text("")
    assert "data.valid" in ending.advice(config, tmp_path, TrainState(step=1))
