"""Directories of exports: they appear whole, and replace an earlier export but never anything else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from transformer_mt import __version__
from transformer_mt.errors import InputError, RunError
from transformer_mt.exchange.directory import MANIFEST, exported_directory

FACTS = {"format": "test"}


def export(target: Path, **files: str) -> None:
    with exported_directory(target, FACTS) as directory:
        for name, text in files.items():
            (directory / name).write_text(text)


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.name != MANIFEST}


def test_the_list_tells_what_was_exported(tmp_path: Path) -> None:
    export(tmp_path / "out", b="1", a="2")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest == {"transformer_mt": __version__, "format": "test", "files": ["a", "b"]}
    assert content(tmp_path / "out") == {"a": "2", "b": "1"}
    assert os.listdir(tmp_path) == ["out"]


def test_files_in_folders_are_listed_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("1", "2"):
        with exported_directory(out, FACTS) as directory:
            (directory / "inner").mkdir()
            (directory / "inner" / "a").write_text(text)
        assert json.loads((out / MANIFEST).read_text())["files"] == ["inner/a"]
        assert (out / "inner" / "a").read_text() == text
    for odd in ("more", "empty/", "link"):
        path = out / "inner" / odd.rstrip("/")
        path.mkdir() if odd.endswith("/") else path.symlink_to("a") if odd == "link" else path.write_text("mine")
        with pytest.raises(InputError, match="something else than an earlier export"):
            export(out)
        path.rmdir() if odd.endswith("/") else path.unlink()
    export(out)
    assert content(out) == {}


def test_an_earlier_export_and_an_empty_directory_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", a="1")
    export(tmp_path / "out", b="2")
    assert content(tmp_path / "out") == {"b": "2"}
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    export(tmp_path / "export", a="1")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("mine")
    for name, addition in (("more", "notes"), ("fewer", None), ("unlisted", None), ("damaged", None)):
        shutil.copytree(tmp_path / "export", tmp_path / name)
        if addition is not None:
            (tmp_path / name / addition).write_text("mine")
    (tmp_path / "fewer" / "a").unlink()
    (tmp_path / "unlisted" / MANIFEST).unlink()
    (tmp_path / "damaged" / MANIFEST).write_text("[]")
    for name in ("file", "other", "more", "fewer", "unlisted", "damaged"):
        with pytest.raises(InputError, match=rf"{name}: exists and .*; .*choose another --output") as caught:
            export(tmp_path / name, a="2")
        assert "\n" not in str(caught.value)
    assert content(tmp_path / "export") == {"a": "1"}
    assert content(tmp_path / "more") == {"a": "1", "notes": "mine"}
    assert content(tmp_path / "other") == {"a": "mine"}


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/out: cannot be written \(no directory .*none\); make it first"):
        export(tmp_path / "none" / "out", a="1")


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    export(tmp_path / "out", a="1")
    with pytest.raises(KeyboardInterrupt), exported_directory(tmp_path / "out", FACTS) as directory:
        (directory / "a").write_text("2")
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"out: cannot be written \(No space left on device\); free some space"):
        export(tmp_path / "out", a="2")
    assert content(tmp_path / "out") == {"a": "1"}
    assert os.listdir(tmp_path) == ["out"]
