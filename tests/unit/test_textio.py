"""The line contract, byte for byte, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import gzip
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformer_mt.errors import InputError, RunError
from transformer_mt.textio import check_writable, read_lines, replaced_file, write_lines


def content_of(directory: Path) -> dict[str, bytes]:
    """Every file of a directory, hidden and temporary ones included."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),  # no line end after the last line
        (b"a\n\n \n", ["a", "", " "]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\r\n", [""]),
        (b"a\r\r\nb\rc\n", ["a\r", "b\rc"]),  # one CR, and only where it stands before an LF
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),  # a byte order mark is one at the start of a file only
        (b"\xef\xbb\xbf", [""]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"]),
        (b"a\0b\n\0\n", ["a\0b", "\0"]),
        ("한국어 🙂\n".encode(), ["한국어 🙂"]),
    ],
)
@pytest.mark.parametrize("place", ["text", "text.gz", "-"])
def test_lines_of_bytes(
    content: bytes, lines: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    if place != "-":
        Path(place).write_bytes(gzip.compress(content) if place.endswith(".gz") else content)
    assert list(read_lines(place)) == lines


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_lines_are_written_with_lf_and_read_by_others(name: str, tmp_path: Path) -> None:
    write_lines(tmp_path / name, ["a\u2028b", "", "ß"])
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "rb") as file:
        assert file.read() == "a\u2028b\n\nß\n".encode()
    assert os.listdir(tmp_path) == [name]


def test_same_lines_give_the_same_gz_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    for now in (1e9, 2e9):  # gzip headers hold a time
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_lines(tmp_path / "text.gz", ["a", "b"])
        packed.append((tmp_path / "text.gz").read_bytes())
    assert packed[0] == packed[1]


def test_stdout_gets_each_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    under = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=io.BufferedWriter(under)))
    seen = []

    def lines() -> Iterator[str]:
        for line in ("a", "ß"):
            yield line
            seen.append(under.getvalue())

    write_lines("-", lines())
    assert seen == [b"a\n", "a\nß\n".encode()]


# A byte order mark at the start and a CR at the end of a line are what reading drops, by contract.
lines_without_lf = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])))


@given(lines_without_lf, st.sampled_from(["text", "text.gz"]))
@example(["\ufeffa", "b\r", "\r\r", "\r", ""], "text")
def test_round_trip_loses_a_leading_bom_and_one_cr_a_line(lines: list[str], name: str) -> None:
    expected = [line[:-1] if line.endswith("\r") else line for line in lines]
    if expected:
        expected[0] = expected[0].removeprefix("\ufeff")
    with tempfile.TemporaryDirectory() as directory:
        write_lines(f"{directory}/{name}", lines)
        assert list(read_lines(f"{directory}/{name}")) == expected


# ---------------------------------------------------------------- refusals


def test_reading_is_lazy_and_names_the_line_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"gut\nsch\xf6n\nja\n")
    lines = read_lines(tmp_path / "latin")
    assert next(lines) == "gut"
    with pytest.raises(InputError, match=r"latin, line 2: not UTF-8 \(byte 0xf6 at offset 3 of the line\).*iconv"):
        next(lines)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"ab\xe2\x82"])  # overlong, surrogate, cut
def test_what_only_looks_like_utf8_is_refused(bad: bytes, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\n" + bad)
    with pytest.raises(InputError, match="text, line 2: not UTF-8"):
        list(read_lines(tmp_path / "text"))


def test_stdin_has_a_name_in_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff\n")))
    with pytest.raises(InputError, match="stdin, line 1: not UTF-8"):
        list(read_lines("-"))


def damaged_gz() -> dict[str, bytes]:
    text = "".join(f"line {i} {i * i}\n" for i in range(5000)).encode()
    whole = gzip.compress(text)
    middle = len(whole) // 2
    return {
        "cut": whole[:middle],
        "cut in the header": whole[:5],
        "cut by the checksum": whole[:-8],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        "wrong checksum": whole[:-8] + bytes(4) + whole[-4:],
        "not gzip": text,
    }


@pytest.mark.parametrize("kind", damaged_gz())
def test_damaged_gz_is_one_refusal_that_names_the_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "text.gz").write_bytes(damaged_gz()[kind])
    with pytest.raises(InputError, match=r"text\.gz: damaged gzip file after line [0-9]+ ") as caught:
        list(read_lines(tmp_path / "text.gz"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none", "none.gz"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        list(read_lines(tmp_path / name))


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        list(read_lines(tmp_path))


# ---------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("name", ["out", "out.gz"])
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_old_content_stays_when_the_block_fails(name: str, failure: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(failure), replaced_file(tmp_path / name) as file:
        file.write(b"new")
        file.flush()
        raise failure
    assert content_of(tmp_path) == {name: b"old"}


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_old_content_stays_when_the_disk_is_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=rf"{name}: cannot be written \(No space left on device\); free some space"):
        write_lines(tmp_path / name, ["new"])
    assert content_of(tmp_path) == {name: b"old"}


def test_content_is_synced_before_it_gets_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_sync = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: at_sync.append(content_of(tmp_path)))
    write_lines(tmp_path / "out", ["new"])
    [seen] = at_sync  # all of it under another name
    assert list(seen.values()) == [b"new\n"]
    assert "out" not in seen
    assert content_of(tmp_path) == {"out": b"new\n"}


def test_full_device_is_a_run_error(tmp_path: Path) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    full = tmp_path / "full"  # a link: what replaced the file would replace this, not the system's device
    full.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"full: cannot be written \(No space left on device\)"):
        write_lines(full, ["a"])
    assert full.is_symlink()


def test_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(pipe)
    write_lines(pipe, ["a", "b"])
    assert os.read(reader, 100) == b"a\nb\n"
    os.close(reader)
    assert pipe.is_fifo()


def test_failing_directory_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none/out: cannot be written \(No such file or directory\); check the path"):
        write_lines(tmp_path / "none" / "out", ["a"])


def test_check_writable_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_bytes(b"old")
    for good in ("-", tmp_path / "new", tmp_path / "there"):
        check_writable(good)
    assert content_of(tmp_path) == {"there": b"old"}  # asking leaves no trace
    with pytest.raises(InputError, match="is a directory; name a file in it"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match=r"none/out: cannot be written \(no directory .*none\); make it first"):
        check_writable(tmp_path / "none" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match=r"out: cannot be written \(no permission in "):
        check_writable(tmp_path / "out")
