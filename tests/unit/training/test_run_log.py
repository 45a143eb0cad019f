"""What a run tells programs: metrics.jsonl, TensorBoard, and any tracker through one function."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import CLI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from transformer_mt.checkpoints.run_records import FILE_NAME, Record, read_records
from transformer_mt.config.sections import TrainConfig
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell
from transformer_mt.training.run_log import RunLog, format_seconds
from transformer_mt.training.trackers import TensorBoard, check_trackers, open_trackers

PLAIN = {"loss": 2.5, "perplexity": 9.0, "gradient_norm": 1.0, "learning_rate": 1e-3, "tokens_per_second": 10.0}


def in_tensorboard(directory: Path) -> dict[str, dict[int, float]]:
    """By curve and step, as TensorBoard itself reads its files; a step that appears twice fails."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for points in curves.values():
        assert len(points) == len(dict(points))
    return {tag: dict(points) for tag, points in curves.items()}


# Trackers.


def test_a_tracker_sees_every_record_of_the_file(tmp_path: Path) -> None:
    seen: list[Record] = []
    log = RunLog(tmp_path, 0, TrainConfig(max_steps=10), {"train.tracker": seen.append}, False)
    log.training(1, PLAIN)
    log.record(kind="valid", step=1, bleu=30.0, signatures={"bleu": "x"})
    log.record(kind="not_finite", step=2, loss="nan", pairs=[1, 2])
    log.close()
    assert [record["kind"] for record in seen] == ["train", "valid", "not_finite"]
    assert seen == [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert seen == read_records(tmp_path / "metrics.jsonl")


def test_ranks_without_a_voice_have_no_tracker() -> None:
    log = RunLog(
        None, 0, TrainConfig(max_steps=10), {"train.tracker": lambda record: pytest.fail("only rank 0 tells")}, False
    )
    log.training(1, PLAIN)
    log.close()


def test_a_tracker_that_fails_is_told_once_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Record] = []

    def fails_at_the_second(record: Record) -> None:
        record.clear()  # what it does to its copy is its own affair
        calls.append(record)
        if len(calls) == 2:
            raise ConnectionError("no route\nto host")

    calls: list[Record] = []
    log = RunLog(
        tmp_path,
        0,
        TrainConfig(max_steps=10),
        {"train.tracker": fails_at_the_second, "train.tensorboard": seen.append},
        False,
    )
    for step in range(1, 5):
        log.record(kind="train", step=step)
    log.close()
    assert len(calls) == 2
    assert [record["step"] for record in seen] == [1, 2, 3, 4]
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "step 2: train.tracker failed (ConnectionError: no route to host) and is switched off" in warnings[0]


def test_a_tracker_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "tracker.py").write_text("seen = []\ndef log(record):\n    seen.append(record)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = TrainConfig(tracker="my_package.tracker:log")
    check_trackers(config)
    trackers = open_trackers(config, tmp_path, 0)
    assert list(trackers) == ["train.tracker"]
    trackers["train.tracker"]({"step": 1})
    assert sys.modules["my_package.tracker"].seen == [{"step": 1}]
    assert open_trackers(TrainConfig(), tmp_path, 0) == {}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("not_there_at_all:log", ("No module named 'not_there_at_all'", "PYTHONPATH")),
        ("unit_tracker:lgo", ("AttributeError", "lgo")),
        ("unit_tracker:number", ("is 3, not a function",)),
        ("broken_tracker:log", ("RuntimeError: no API key in sight",)),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused_at_once(
    name: str, parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unit_tracker.py").write_text("number = 3\n")
    (tmp_path / "broken_tracker.py").write_text("raise RuntimeError('no API key\\nin sight')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError) as caught:
        check_trackers(TrainConfig(tracker=name))
    message = str(caught.value)
    assert message.startswith(f"train.tracker {name}: ")
    assert "\n" not in message
    assert all(part in message for part in parts), message


# TensorBoard.


def test_tensorboard_missing_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"train\.tensorboard: .* pip install 'transformer-mt\[tensorboard\]'"):
        check_trackers(TrainConfig(tensorboard=True))


def test_tensorboard_has_the_numbers_of_every_record(tmp_path: Path) -> None:
    (tracker,) = open_trackers(TrainConfig(tensorboard=True), tmp_path, 0).values()
    tracker({"kind": "train", "step": 3, **PLAIN})
    tracker({"kind": "valid", "step": 4, "bleu": 30.5, "signatures": {"bleu": "x"}})
    tracker({"kind": "not_finite", "step": 5, "loss": "nan", "pairs": [1, 2]})
    expected = {f"train/{name}": {3: value} for name, value in PLAIN.items()} | {"valid/bleu": {4: 30.5}}
    found = in_tensorboard(tmp_path / "tensorboard")  # before anything is closed: each record is flushed
    assert set(found) == set(expected)
    for tag, points in expected.items():
        assert found[tag] == pytest.approx(points)


def test_tensorboard_after_resuming_has_no_step_twice(tmp_path: Path) -> None:
    """Killed after step 7 with a checkpoint of step 4, and then logging less often."""

    def log(tracker: TensorBoard, *steps: int, value: float) -> None:
        for step in steps:
            tracker({"kind": "train", "step": step, "loss": value})

    log(TensorBoard(tmp_path, 0), 1, 2, 3, 4, 5, 6, 7, value=1.0)
    log(TensorBoard(tmp_path, 4), 6, 8, value=2.0)
    assert in_tensorboard(tmp_path)["train/loss"] == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 6: 2.0, 8: 2.0}


# The file.


def write(path: Path, *records: Any, end: str = "\n") -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + end)
    return path


def test_records_of_a_run_that_is_going_on(tmp_path: Path) -> None:
    first, second = {"kind": "train", "step": 1}, {"kind": "valid", "step": 2, "bleu": 1.0}
    for cut in range(1, len(json.dumps(second))):
        path = write(tmp_path / "metrics.jsonl", first, json.dumps(second)[:cut], end="")
        assert read_records(path) == [first]
    assert read_records(write(tmp_path / "metrics.jsonl", first, second, end="")) == [first, second]
    assert read_records(write(tmp_path / "metrics.jsonl", "", end="")) == []


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '"kind"', '{"kind": "train"}', '{"step": 1}'])
def test_a_line_that_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    record = {"kind": "train", "step": 1}
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: is no record"):
        read_records(write(tmp_path / "metrics.jsonl", record, line, record))


class Full(io.StringIO):
    """stderr on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Gone(io.StringIO):
    """stderr into a pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize("stderr", [Full(), Gone()])
def test_lines_that_cannot_be_written_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stderr: io.StringIO
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    tell("a line")
    log = RunLog(tmp_path, 0, TrainConfig(max_steps=10), {}, False)
    log.training(1, PLAIN)
    log.close()
    assert [record["step"] for record in read_records(tmp_path / FILE_NAME)] == [1]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status"), [("translate nowhere", 2), ("tokenizer train --input {} --output {}.m", 0)]
)
def test_a_full_stderr_leaves_the_exit_status(tmp_path: Path, command: str, status: int) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(f"{word} house {word}s\n" for word in ("a", "the", "this", "that")))
    with open("/dev/full", "w") as full:
        words = command.format(lines, lines).split()
        done = subprocess.run([*CLI, *words], stdin=subprocess.DEVNULL, stderr=full, check=False)
    assert done.returncode == status


FORMAT: Any = tqdm.format_dict.fget  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("patience", "validates", "expected"),
    [
        (3, True, "validation in 45 min, end in 1 h 0 min unless patience ends it sooner"),
        (0, True, "validation in 45 min, end in 1 h 0 min]"),
        (0, False, "loss 2.0, end in 1 h 0 min]"),
    ],
)
def test_the_bar_tells_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, validates: bool, expected: str
) -> None:
    """At one step a second, after step 300: validation at 3,000, the end at 3,900."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    config = TrainConfig(max_steps=3900, eval_steps=3000, patience=patience)
    log = RunLog(tmp_path, 299, config, {}, validates)
    assert log._bar is not None
    monkeypatch.setattr(type(log._bar), "format_dict", property(lambda bar: {**FORMAT(bar), "ncols": 200, "rate": 1.0}))
    log.progress(300, "loss 2.0")
    log._bar.refresh()
    log.close()
    assert expected in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (90, "2 min"), (3599, "1 h 0 min"), (18_600, "5 h 10 min")]
)
def test_times_are_told_in_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
