"""Locks on files: of the file that has the name now."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from unittest.mock import patch

import pytest

from transformer_mt.system.locks import locked


def test_a_file_that_was_removed_while_we_waited_is_no_lock(tmp_path: Path) -> None:
    """The lock that is held is that of the path: another process gets none."""
    path, flock, calls = tmp_path / ".lock", fcntl.flock, []

    def remove_first(file: int, how: int) -> None:
        flock(file, how)
        calls.append(how)
        if len(calls) == 1:
            path.unlink()

    with (
        patch("fcntl.flock", remove_first),
        locked(path, pytest.fail, wait=True),
        pytest.raises(BlockingIOError),
        locked(path, pytest.fail, wait=False),
    ):
        pass
    assert len(calls) == 2
    assert path.exists()


def test_a_file_system_that_does_not_answer_has_lost_nothing(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", pytest.fail, wait=True) as is_held:
        with patch("os.stat", side_effect=OSError(errno.ESTALE, "stale")):
            assert is_held()
        (tmp_path / ".lock").unlink()
        assert not is_held()


def test_nothing_behind_a_link_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / ".lock", pytest.fail, wait=False):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
