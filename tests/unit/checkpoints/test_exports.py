"""Directories of exports: they appear whole, and replace an earlier export but never anything else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from transformer_mt import __version__
from transformer_mt.checkpoints.exports import MANIFEST, check_export, exported_directory, is_export
from transformer_mt.checkpoints.manifest import sealed
from transformer_mt.errors import InputError, RunError

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
    sums = {name: {"bytes": 1, "sha256": hashlib.sha256(text).hexdigest()} for name, text in (("a", b"2"), ("b", b"1"))}
    seal = manifest.pop("sha256")
    assert manifest == {"transformer_mt": __version__, "format": "test", "files": sums} and len(seal) == 64
    assert list(manifest["files"]) == ["a", "b"]
    assert content(tmp_path / "out") == {"a": "2", "b": "1"}
    assert os.listdir(tmp_path) == ["out"]


def test_what_stands_in_the_way_is_named_by_who_writes_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine")
    with (
        pytest.raises(InputError, match="something else than an earlier result of tmt data clean"),
        exported_directory(tmp_path / "out", {"made_by": "tmt data clean"}),
    ):
        pass


def test_files_in_folders_are_listed_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("1", "2"):
        with exported_directory(out, FACTS) as directory:
            (directory / "inner").mkdir()
            (directory / "inner" / "a").write_text(text)
        assert json.loads((out / MANIFEST).read_text())["files"].keys() == {"inner/a"}
        assert (out / "inner" / "a").read_text() == text
    for odd in ("more", "empty/", "link"):
        path = out / "inner" / odd.rstrip("/")
        path.mkdir() if odd.endswith("/") else path.symlink_to("a") if odd == "link" else path.write_text("mine")
        with pytest.raises(InputError, match="something else than an earlier export"):
            export(out)
        path.rmdir() if odd.endswith("/") else path.unlink()
    export(out)
    assert content(out) == {}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    with exported_directory(tmp_path / "out", FACTS) as directory:
        (directory / "inner").mkdir()
        for name in ("a", "inner/b", "README.md"):
            (directory / name).write_bytes(name.encode() * 50)
    return tmp_path / "out"


def change(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["a", "inner/b", MANIFEST])
def test_a_changed_byte_is_told(out: Path, name: str) -> None:
    assert check_export(out).keys() == {"transformer_mt", "format", "files"}
    size = (out / name).stat().st_size
    for place in (0, size // 2, size - 1):
        change(out / name, place)
        with pytest.raises(InputError, match=rf"{name}: damaged.*; export the model again") as caught:
            check_export(out)
        assert "\n" not in str(caught.value)
        change(out / name, place)
    check_export(out)


@pytest.mark.parametrize("format", ["marian", "ctranslate2"])
def test_the_list_may_be_removed_where_nothing_else_tells_an_export(format: str, tmp_path: Path) -> None:
    with exported_directory(tmp_path / "out", FACTS | {"format": format}) as directory:
        (directory / "a").write_bytes(b"a")
    (tmp_path / "out" / "a").write_bytes(b"b")
    with pytest.raises(InputError, match="export the model again") as caught:
        check_export(tmp_path / "out")
    assert ("where it was changed on purpose, remove export.json" in str(caught.value)) == (format == "marian")


def test_what_is_missing_or_cut_is_told_by_its_size(out: Path) -> None:
    (out / "inner" / "b").write_bytes(b"inner/b")
    with pytest.raises(InputError, match=r"inner/b: cut short or changed \(7 bytes, expected 350\)"):
        check_export(out, only_sizes=True)
    (out / "inner" / "b").unlink()
    with pytest.raises(InputError, match="inner/b: missing"):
        check_export(out, only_sizes=True)


def test_a_card_may_be_edited(out: Path) -> None:
    (out / "README.md").write_text("mine")
    check_export(out)
    export(out, a="replaced")


def test_earlier_lists_have_names_only(out: Path) -> None:
    earlier = {"transformer_mt": "0.1.0", "format": "test", "files": ["a", "inner/b", "README.md"]}
    (out / MANIFEST).write_text(json.dumps(earlier, indent=1) + "\n")
    change(out / "a", 0)
    assert is_export(out) and check_export(out) == earlier
    export(out, a="replaced")


@pytest.mark.parametrize("name", ["../a", "/dev/zero", "inner/../../a"])
def test_a_list_leads_nowhere_else(out: Path, name: str) -> None:
    facts = {**check_export(out), "files": {name: {"bytes": 1, "sha256": "0"}}}
    (out / MANIFEST).write_bytes(sealed(facts))
    assert not is_export(out)


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
