"""Into which directories a run goes, and what it leaves alone there."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import copy_corpus, tmt_here, write_config

from transformer_mt.checkpoints.manifest import sealed
from transformer_mt.checkpoints.run_directory import is_training, only_process_in
from transformer_mt.errors import InputError


def content(directory: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(directory.rglob("*"))}


@pytest.mark.parametrize(
    "name", ["config.yaml", "tokenizer.model", "vocab.json", "metrics.jsonl", "last", "epochs/x", "checkpoints/mine"]
)
def test_a_name_that_is_not_ours_is_a_refusal(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    (run / name).write_text("# mine\n")
    before = content(tmp_path)
    with pytest.raises(InputError, match=f"is not a run, and its {name.split('/')[0]} would be"), only_process_in(run):
        pass
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", [".lock", "config.yaml", "metrics.jsonl", "last", "best", "checkpoints"])
@pytest.mark.parametrize("is_a_run", [False, True])
def test_nothing_behind_a_link_is_touched(tmp_path: Path, name: str, is_a_run: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if is_a_run:
        with only_process_in(run):
            (run / "config.yaml").write_text("data: {}\n")
    (run / name).unlink(missing_ok=True)
    (tmp_path / "mine").write_text("mine")
    (run / name).symlink_to(tmp_path / "mine")
    before = content(tmp_path)
    with pytest.raises(InputError, match=f"{name}: is a link"), only_process_in(run):
        pass
    assert content(tmp_path) == before


def test_a_pipe_is_a_refusal_and_no_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match=r"metrics\.jsonl: is no plain file"), only_process_in(tmp_path):
        pass


def as_0_1_0(run: Path) -> None:
    """A run with a checkpoint and a lock without a mark."""
    (run / "checkpoints" / "step_00000001").mkdir(parents=True)
    manifest = {"format": 2, "longest_src_tokens": 5, "files": {}}
    (run / "checkpoints" / "step_00000001" / "manifest.json").write_bytes(sealed(manifest))
    (run / ".lock").touch()
    (run / "config.yaml").touch()


def failed_start_of_0_1_0(run: Path) -> None:
    (run / "checkpoints").mkdir(parents=True)
    (run / ".lock").touch()


def killed_before_its_first_checkpoint(run: Path) -> None:
    with only_process_in(run):
        (run / "config.yaml").touch()
        (run / "metrics.jsonl").touch()


def somebodys_files(run: Path) -> None:
    run.mkdir()
    (run / "train.log").write_text("log")


@pytest.mark.parametrize("make", [as_0_1_0, failed_start_of_0_1_0, killed_before_its_first_checkpoint, somebodys_files])
def test_runs_and_other_files_are_no_hindrance(tmp_path: Path, make: Callable[[Path], None]) -> None:
    run = tmp_path / "run"
    make(run)
    before = content(run)
    for _ in range(2):
        with only_process_in(run) as is_held:
            assert is_held()
            (run / "config.yaml").write_text("data: {}\n")
    after = content(run)
    changed = {str(run / ".lock"), str(run / "config.yaml")}
    assert {path: what for path, what in after.items() if path not in changed} == {
        path: what for path, what in before.items() if path not in changed
    }


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with only_process_in(tmp_path), pytest.raises(InputError, match="another process"), only_process_in(tmp_path):
        pass


def test_a_look_whether_a_run_is_going_on_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look takes the lock for a moment, in which a start waits."""
    run = tmp_path / "run"
    with only_process_in(run):
        assert is_training(run)
        (run / "config.yaml").write_text("{}")
    with open(run / ".lock") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(look, fcntl.LOCK_UN))
        with only_process_in(run) as is_held:
            assert is_held()
    assert not is_training(run)


def test_a_start_that_fails_removes_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("mine")
    for run in (tmp_path, tmp_path / "a" / "run"):
        with pytest.raises(InputError, match="bad data"), only_process_in(run):
            raise InputError("bad data")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    (tmp_path / ".lock").touch()  # whose, nobody knows
    with pytest.raises(InputError, match="bad data"), only_process_in(tmp_path):
        (tmp_path / "epochs").mkdir()
        raise InputError("bad data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "epochs", "log"]
    with pytest.raises(InputError, match="bad data"), only_process_in(tmp_path / "run"):
        (tmp_path / "run" / "epochs" / "1").mkdir(parents=True)
        raise InputError("bad data")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="cannot be written"), only_process_in(tmp_path / "a" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_leaves_nothing(tmp_path: Path) -> None:
    config = copy_corpus(tmp_path)
    config["data"]["train"][0]["src"] = str(tmp_path / "none")
    path = write_config(tmp_path / "config.yaml", config)
    before = path.read_bytes()
    assert tmt_here("train", path, "--output", tmp_path / "new" / "run").status == 2
    assert not (tmp_path / "new").exists()
    done = tmt_here("train", path, "--output", tmp_path)
    assert done.status == 2 and "config.yaml would be overwritten" in done.refusal
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("removed", [".lock", "."])
def test_a_run_whose_directory_is_gone_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str) -> None:
    """After three steps its lock is removed, or all of it, and an empty one stands there."""
    run = tmp_path / "run"
    (tmp_path / "removing.py").write_text(
        "import pathlib, shutil\n"
        "def log(record):\n"
        "    if record['step'] == 3:\n"
        f"        path = pathlib.Path({str(run)!r}, {removed!r})\n"
        "        path.unlink() if path.is_file() else shutil.rmtree(path)\n"
        f"        pathlib.Path({str(run)!r}).mkdir(exist_ok=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "removing", raising=False)
    config = copy_corpus(tmp_path, num_train=60)
    config["train"] |= {"tracker": "removing:log", "log_steps": 1, "checkpoint_steps": 20, "eval_steps": 100}
    done = tmt_here("train", write_config(tmp_path / "config.yaml", config), "--output", run)
    assert done.status == 1
    assert "was removed while training; stopped after step 3" in done.refusal
    assert not list(run.rglob("step_*"))
