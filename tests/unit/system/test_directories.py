"""Directories appear whole or not at all, and take the place of what this program wrote and of nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from transformer_mt.errors import InputError
from transformer_mt.system import directories
from transformer_mt.system.directories import check_replaceable, listed_files, replaced_directory, scratch_directory


def files_of(directory: Path) -> set[str] | None:
    return listed_files(directory, "list.json", lambda facts: facts["kind"] == "test")


def write(target: Path, text: str) -> None:
    with replaced_directory(target, files_of, "a test") as directory:
        (directory / "a").write_text(text)
        (directory / "list.json").write_text(json.dumps({"kind": "test", "files": ["a"]}))


@pytest.mark.parametrize("can_swap", [True, False])
def test_at_every_moment_one_of_the_two_stands_or_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_swap: bool
) -> None:
    """A process that ends between any two steps: in its child, so that nothing cleans up."""
    if not can_swap:
        monkeypatch.setattr(directories, "_swap", lambda first, second: False)
    for step in range(3):
        target = tmp_path / f"{step}" / "out"
        target.parent.mkdir()
        write(target, "old")
        child = os.fork()
        if child == 0:
            done, rename = [0], os.rename

            def dying(
                source: Path, place: Path, done: list[int] = done, rename: object = rename, step: int = step
            ) -> None:
                if done[0] == step:
                    os._exit(0)
                done[0] += 1
                rename(source, place)  # type: ignore[operator]

            os.rename = dying  # type: ignore[assignment]
            try:
                write(target, "new")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        if can_swap:
            assert (target / "a").read_text() in ("old", "new")
        check_replaceable(target, files_of, "a test")
        assert (target / "a").read_text() in ("old", "new")
        write(target, "newest")
        assert (target / "a").read_text() == "newest"
        assert os.listdir(target.parent) == ["out"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with replaced_directory(tmp_path / "out", files_of, "a test") as theirs:
        os.rename(theirs, tmp_path / ".out.1.tmp")
        write(tmp_path / "out", "ours")
        assert (tmp_path / ".out.1.tmp").exists()
        os.rename(tmp_path / ".out.1.tmp", theirs)
        (theirs / "a").write_text("theirs")
        (theirs / "list.json").write_text(json.dumps({"kind": "test", "files": ["a"]}))
    assert (tmp_path / "out" / "a").read_text() == "theirs"


def test_a_scratch_directory_goes_with_its_process_or_with_the_next(tmp_path: Path) -> None:
    place = tmp_path / "work"
    if (child := os.fork()) == 0:
        with scratch_directory(place) as directory:
            (directory / "large").write_text("x")
            os._exit(0)  # as if killed
    os.waitpid(child, 0)
    [left] = tmp_path.iterdir()
    with scratch_directory(place) as directory:
        assert [*tmp_path.iterdir()] == [directory] != [left]
        assert list(directory.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_current_directory_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", "old")
    (tmp_path / "empty").mkdir()
    for place in ("out", "empty"):
        monkeypatch.chdir(tmp_path / place)
        with pytest.raises(InputError, match=r"^\.: is the current directory, which cannot be replaced"):
            write(Path(), "new")
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_mount_point_is_refused_before_the_work() -> None:
    """As the directory that a container is given; it cannot be renamed."""
    with pytest.raises(InputError, match=r"^/proc: is a mount point, which cannot be replaced; name a directory in it"):
        check_replaceable(Path("/proc"), files_of, "a test")


def test_modes_stay(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(target, "old")
    target.chmod(0o700)
    (target / "a").chmod(0o600)
    write(target, "new")
    assert (target / "a").read_text() == "new"
    assert [path.stat().st_mode & 0o777 for path in (target, target / "a")] == [0o700, 0o600]


def test_a_link_to_a_directory_works_as_the_directory(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    for text in ("1", "2"):
        write(tmp_path / "link", text)
        assert (tmp_path / "disk" / "out" / "a").read_text() == text
    assert (tmp_path / "link").is_symlink()


def test_somebodys_files_are_a_refusal_also_when_they_come_late(tmp_path: Path) -> None:
    write(tmp_path / "out", "1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("mine")
    (tmp_path / "other" / "list.json").write_text(json.dumps({"kind": "another", "files": ["a"]}))
    with pytest.raises(InputError, match="other: exists and holds something else than a test"):
        write(tmp_path / "other", "2")
    with (
        pytest.raises(InputError, match="out: exists and holds something else than a test"),
        replaced_directory(tmp_path / "out", files_of, "a test"),
    ):
        (tmp_path / "out" / "notes").write_text("mine")
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_names_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for name in ("x" * 250, "x" * 300, "/", "file", "file/x"):
        with pytest.raises(InputError, match=r"exists|cannot be (written|replaced)") as caught:
            write(Path(name), "1")
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]
