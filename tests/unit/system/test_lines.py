"""The line contract, byte for byte, and files that appear whole or not at all."""

from __future__ import annotations

import bz2
import errno
import functools
import gzip
import io
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformer_mt.errors import InputError, RunError
from transformer_mt.system.lines import (
    LONGEST_LINE,
    TOO_LONG,
    count_lines,
    first_of,
    read_line_pairs,
    read_lines,
    read_parts,
    write_lines,
    write_texts,
)
from transformer_mt.system.whole_files import check_writable, replaced_file

NAMES = ["text", "text.gz", "text.zst", "text.xz", "text.bz2"]
PACKED = NAMES[1:]


def packed(name: str, content: bytes) -> bytes:
    """A file of that name with that content, as another program makes it."""
    match Path(name).suffix:
        case ".gz":
            return gzip.compress(content)
        case ".zst":
            return bytes(pa.Codec("zstd").compress(content, asbytes=True))
        case ".xz":
            return lzma.compress(content)
        case ".bz2":
            parts = range(0, max(1, len(content)), 1 << 15)  # streams, as pbzip2 makes them
            return b"".join(bz2.compress(content[start : start + (1 << 15)]) for start in parts)
        case _:
            return content


def unpacked(path: Path) -> bytes:
    """The content of a file, as another program reads it."""
    match path.suffix:
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".zst":
            with pa.CompressedInputStream(str(path), "zstd") as file:
                return bytes(file.read())
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".bz2":
            return bz2.decompress(path.read_bytes())
        case _:
            return path.read_bytes()


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
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\n", [""]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"]),
        (b"a\0b\n\0\n", ["a\0b", "\0"]),
        ("한국어 🙂\n".encode(), ["한국어 🙂"]),
    ],
)
@pytest.mark.parametrize("place", [*NAMES, "-"])
def test_lines_of_bytes(
    content: bytes, lines: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    if place != "-":
        Path(place).write_bytes(packed(place, content))
    assert list(read_lines(place)) == lines


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_written_with_lf_and_read_by_others(name: str, tmp_path: Path) -> None:
    write_lines(tmp_path / name, ["a\u2028b", "", "ß"])
    assert unpacked(tmp_path / name) == "a\u2028b\n\nß\n".encode()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("size", [4, 1 << 17])
def test_zeros_between_and_behind_streams_are_none(size: int, tmp_path: Path) -> None:
    """The format of xz allows them; the file was called cut off."""
    path = tmp_path / "text.xz"
    path.write_bytes((lzma.compress(b"a\n") + bytes(size)) * 2)
    assert list(read_lines(path)) == ["a", "a"]


@pytest.mark.parametrize(("name", "program"), [("text.gz", "gzip"), ("text.zst", "zstd"), ("text.xz", "xz")])
def test_programs_of_that_name_read_what_we_write_and_write_what_we_read(
    name: str, program: str, tmp_path: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    lines = [f"line {i} {i * i}" for i in range(3000)]
    write_lines(tmp_path / name, lines)
    text = subprocess.run([program, "-dc", tmp_path / name], capture_output=True, check=True).stdout
    assert text.decode().splitlines() == lines
    again = subprocess.run([program, "-c"], input=text, capture_output=True, check=True).stdout
    (tmp_path / name).write_bytes(again + again)  # files put together are one file, as in those programs
    assert list(read_lines(tmp_path / name)) == lines * 2


@pytest.mark.parametrize("name", PACKED)
def test_same_lines_give_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number in (1, 2):  # gzip headers may hold a time, and the name of the file that is written
        monkeypatch.setattr("time.time", lambda number=number: number * 1e9)
        write_lines(tmp_path / name, ["a", "b"])
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]


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


@given(lines_without_lf, st.sampled_from(NAMES))
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


LINES = [f"line {i} {i * i}" for i in range(40000)]


@functools.cache
def damaged(name: str) -> dict[str, bytes]:
    text = "".join(f"{line}\n" for line in LINES).encode()
    whole = packed(name, text)
    middle = len(whole) // 2
    return {
        "cut": whole[:middle],
        "cut at its end": whole[:-1],
        "overwritten": whole[:middle] + b"\xff" * (len(whole) - middle),
        "cut in the header": whole[:5],
        "not compressed": text,
        "more at its end": whole + b"more of something else",
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", PACKED)
def test_compressed_files_are_known_by_their_first_bytes(other: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(packed(other, b"one\ntwo\n"))
    assert list(read_lines(tmp_path / name)) == ["one", "two"]
    (tmp_path / "text").write_bytes(b"BZh is a word\n")
    assert list(read_lines(tmp_path / "text")) == ["BZh is a word"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_encodings_with_and_without_a_mark(encoding: str, tmp_path: Path) -> None:
    path, lines = tmp_path / "text", ["Über 漢字", "", "𝄞 end\u2028"] * 20_000
    for end in ("\n", "\r\n"):
        path.write_bytes(("\ufeff" + end.join(lines)).encode(encoding))
        assert list(read_lines(path)) == lines
        assert count_lines(path) == len(lines)
    for lines in (
        ["A house.", "Two houses."],
        ["집이 하나 있다.", "Linux 두 대."],
        ["汉字没有空格。", "也没有标点"],
        ["Дом.", "Два дома."],
        ["There is one house.\t집이 하나 있다.", "There are two houses.\t두 집이 있다."],
        ["घर में पानी है।", "दो घर हैं।"],  # each letter has the byte of a tab in it
        ["ਘਰ ਵਿੱਚ ਪਾਣੀ ਹੈ।", "ਦੋ ਘਰ ਹਨ।"],  # of a line end
        ["A house.\tઘરમાં પાણી છે.", "Two houses.\tબે ઘર છે."],
        ["ଘରେ ପାଣି ଅଛି।", "ଦୁଇଟି ଘର।"],
        ["ఇంట్లో నీళ్ళు ఉన్నాయి.", "రెండు ఇళ్ళు."],
        ["വീട്ടിൽ വെള്ളമുണ്ട്.", "രണ്ട് വീടുകൾ."],
    ):
        path.write_bytes("\n".join(lines).encode(encoding))
        assert list(read_lines(path)) == lines
    path.write_bytes("12\n345\n6789\n".encode(encoding))  # nothing says that this is text
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    with pytest.raises(InputError, match=f"it is {name} without a byte order mark, or no text; .* iconv -f {name} -t"):
        list(read_lines(path))
    path.write_bytes("\ufeffab".encode(encoding) + b"a")
    with pytest.raises(InputError, match=f"damaged {encoding.upper()} text"):
        list(read_lines(path))


@pytest.mark.parametrize("name", ["ISO-2022-JP-2", "ISO-2022-KR"])
def test_text_of_seven_bits_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Its bytes are those of ASCII, so that all of it would be read as UTF-8."""
    path = tmp_path / "text"
    path.write_bytes("A line.\n日本 한국\n".replace("한국" if "JP" in name else "日本", "").encode(name))
    with pytest.raises(InputError, match=f"it is {name}; convert the file: iconv -f {name} -t UTF-8"):
        list(read_lines(path))
    path.write_bytes(b"\x1b[1mbold\x1b[0m costs \x1b$5, or \x1b$B5 (as some terminals have it)\n")
    assert len(list(read_lines(path))) == 1


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        ("안녕하세요. 두 집이 있다; it is 5 o'clock.", "cp949", "Korean in CP949"),
        ("これは本です。猫がいます。", "shift_jis", "Japanese in CP932"),
        ("これは本です。猫がいます。", "euc_jp", "Japanese in EUC-JP"),
        ("東京都知事選挙結果速報。人口減少対策、経済成長。", "euc_jp", None),
        ("这是一本书,我们都喜欢读书。今天天气很好。", "gb18030", "Chinese in GB18030"),
        ("這是一本書,我們都喜歡讀書。今天天氣很好。", "big5", "Chinese in CP950"),
        ("타이어가 터졌습니다. 나는 학교에 간다.", "cp949", "Korean in CP949"),  # two bytes are a letter of UTF-8
        ("一只小狗在河边。我们昨天去了北京。", "gb18030", "Chinese in GB18030"),
        ("Ein Mädchen läuft über die Straße. Grüße aus München, schöne Wörter.", "mac_roman", None),
        ("Noël, une école naïve rêve à travers l'été. Voilà, garçon !", "cp850", None),
        ("Żółta łódź płynie wśród fal, mężczyzna słucha muzyki.", "iso-8859-2", None),
        ("Девочка бежит через улицу. Мужчина слушает музыку.", "koi8-r", None),
        ("Девочка бежит через улицу. Мужчина слушает музыку.", "cp1251", None),
        ("Девочка бежит через улицу. Мужчина слушает музыку.", "cp866", None),
        ("Το κορίτσι τρέχει στον δρόμο. Ο άντρας ακούει μουσική.", "iso-8859-7", None),
    ],
)
def test_encodings_of_east_asia_are_named(text: str, encoding: str, told: str | None, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(f"{text}\n".encode(encoding) * 20)
    expected = "find out which encoding the file has" if told is None else f"it looks like {told}; convert it: iconv -f"
    with pytest.raises(InputError, match=expected):
        list(read_lines(path))


def test_advice_on_other_encodings_destroys_nothing(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for content, words in [
        (b"\xe9t\xe9\n", "find out which encoding"),
        ("é\n".encode() + b"\xe9\n", "mend this line"),
        ("두 집이 있다; 나는 학교에 간다.\n".encode() * 9 + b"\xe9\n", "mend this line"),
        (b"PK\x03\x04\xff", "a ZIP archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "a document of an old office program"),
        (gzip.compress(gzip.compress(b"a")), "compressed twice"),
        (b"\x04\x22\x4d\x18\xff", "compressed by lz4"),
        (b"\xde\x12\x04\x95" + b"\0" * 4 + "é\n".encode() * 50, "a compiled catalogue of messages .* msgunfmt"),
        (b"\xff\xff\xff\xff\x88\1\0\0", "a table of Arrow or Feather"),
        (b"\x80\x04\x95\x08\0\0\0\0\0\0\0]", "a pickle"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 248 + b"text\n", "a tar archive"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            list(read_lines(path))
    path.write_bytes("집이 하나 있다.\0\n두 집이 있다.\n".encode("euc-kr"))  # a stray zero makes no UTF-16 of it
    with pytest.raises(InputError, match="it looks like Korean in CP949; convert it: iconv -f CP949 -t UTF-8"):
        list(read_lines(path))
    for text in ("a\0b is UTF-8", "so\tis\tthis\ta\t\0\ttable"):
        path.write_bytes(f"{text}\n".encode())
        assert list(read_lines(path)) == [text]


@pytest.mark.parametrize(
    "kind",
    [
        *("cut", "cut at its end", "overwritten", "cut in the header"),
        *("not compressed", "more at its end"),
    ],
)
@pytest.mark.parametrize("name", PACKED)
def test_damaged_file_is_one_refusal_that_names_it(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(damaged(name)[kind])
    with pytest.raises(InputError) as caught:
        list(read_lines(tmp_path / name))
    form, message = {"gz": "gzip", "zst": "Zstandard", "xz": "xz", "bz2": "bzip2"}[name[5:]], str(caught.value)
    assert message.startswith(f"{tmp_path / name}: damaged {form} file") and "\n" not in message
    if kind in ("cut in the header", "not compressed"):
        assert message.endswith(f"or take {name[4:]} off its name if it is not compressed")
    else:
        assert " file after line " in message and message.endswith("; copy or download it again")


@pytest.mark.parametrize("name", PACKED)
def test_lines_before_the_damage_are_right(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(damaged(name)["cut"])
    lines = read_lines(tmp_path / name)
    found: list[str] = []
    with pytest.raises(InputError, match=r"file after line [1-9][0-9]* \("):
        found.extend(lines)  # keeps what came before
    assert 1000 < len(found) < len(LINES) and found == LINES[: len(found)]


@pytest.mark.parametrize("name", PACKED)
def test_wherever_a_file_is_cut_nothing_wrong_is_read(name: str, tmp_path: Path) -> None:
    first, second = packed(name, b"a 1\nb 2\n" * 3), packed(name, "ß\n".encode())
    wholes = {0: [], len(first): ["a 1", "b 2"] * 3}
    for cut in range(len(first) + len(second)):
        (tmp_path / name).write_bytes((first + second)[:cut])
        try:
            assert list(read_lines(tmp_path / name)) == wholes[cut]
        except InputError as error:
            assert cut != len(first) and f"{name}: damaged" in str(error)


@pytest.mark.parametrize("name", PACKED)
def test_whichever_byte_is_damaged_nothing_wrong_is_read(name: str, tmp_path: Path) -> None:
    whole = packed(name, b"a 1\nb 2\n" * 3) + packed(name, "ß\n".encode())
    num_refused = 0
    for place in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = list(read_lines(tmp_path / name))
            # A gzip header has six bytes without a meaning here; Zstandard files of pyarrow have no checksum.
            assert name == "text.zst" or found == ["a 1", "b 2"] * 3 + ["ß"]
        except InputError:
            num_refused += 1
    assert (
        num_refused
        >= {"text.gz": len(whole) - 2 * 6, "text.zst": 10, "text.xz": len(whole), "text.bz2": len(whole) - 20}[name]
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", PACKED)
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{size}{Path(name).suffix}") for size in (1, 64)]
    for path, size in zip(paths, (1, 64), strict=True):  # in MiB
        with replaced_file(path) as file:
            for _ in range(size):
                file.write((b"x" * 1023 + b"\n") * 1024)
    program = (
        "import re, sys; from pathlib import Path; from transformer_mt.system.lines import read_lines\n"
        "for path in sys.argv[1:]:\n"
        "    num_lines = sum(1 for _ in read_lines(path))\n"
        "    print(num_lines, re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    num_small, before, num_large, after = map(int, done.stdout.split())
    assert (num_small, num_large) == (1 << 10, 64 << 10)
    assert after - before < 25_000


@pytest.mark.parametrize("name", ["none", "none.gz", "none.zst", "none.xz"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        list(read_lines(tmp_path / name))


@pytest.mark.parametrize("name", NAMES)
def test_directory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        list(read_lines(tmp_path / name))


# ---------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("name", ["out", "out.gz", "out.zst", "out.xz"])
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_old_content_stays_when_the_block_fails(name: str, failure: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(failure), replaced_file(tmp_path / name) as file:
        file.write(b"new")
        file.flush()
        raise failure
    assert content_of(tmp_path) == {name: b"old"}


@pytest.mark.parametrize("name", ["out", "out.gz", "out.zst", "out.xz"])
def test_old_content_stays_when_the_disk_is_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=rf"{name}: cannot be written \(No space left on device\); free some space"):
        write_lines(tmp_path / name, ["new"])
    assert content_of(tmp_path) == {name: b"old"}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_where_the_disk_was_full(name: str, tmp_path: Path) -> None:
    program = (
        "import random, resource, sys; from transformer_mt.errors import RunError\n"
        "from transformer_mt.system.lines import replaced_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with replaced_file(sys.argv[1]) as file:\n"
        "        for _ in range(100): file.write(random.randbytes(10_000))\n"
        "except RunError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / name], capture_output=True, text=True, check=True)
    reason = "File too large); raise the limit, for example: ulimit -f unlimited"
    assert done.stdout == f"{tmp_path / name}: cannot be written ({reason}\n"
    assert done.stderr == ""
    assert os.listdir(tmp_path) == []


def test_content_is_synced_before_it_gets_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_sync = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: at_sync.append(content_of(tmp_path)))
    write_lines(tmp_path / "out", ["new"])
    [seen] = at_sync  # all of it under another name
    assert list(seen.values()) == [b"new\n"]
    assert "out" not in seen
    assert content_of(tmp_path) == {"out": b"new\n"}


@pytest.mark.parametrize("name", PACKED)
def test_compressed_content_is_complete_when_it_is_synced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_sync = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: at_sync.append(content_of(tmp_path)))
    write_lines(tmp_path / name, ["new"])
    [seen] = at_sync
    assert list(seen.values()) == [(tmp_path / name).read_bytes()]


def test_texts_with_a_path_of_another_encoding_are_written(tmp_path: Path, capfdbinary: Any) -> None:
    text = f"runs/{os.fsdecode(b'stra' + bytes([0xDF]))}: best"
    write_texts(tmp_path / "out", [text])
    write_texts("-", [text])
    assert (tmp_path / "out").read_bytes() == capfdbinary.readouterr().out == b"runs/stra?: best"


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


# ---------------------------------------------------------------- ended by a signal

WRITER = """
import os, signal, sys, time
from transformer_mt.system.signals import raised_signals
from transformer_mt.system.lines import replaced_file
{before}
with raised_signals(), replaced_file(sys.argv[1] + "2"), replaced_file(sys.argv[1]) as file:
    file.write(b"new")
    file.flush()
    {amid}
    print(flush=True)
    while True:
        time.sleep(0.05)  # a signal just before a long sleep would be handled after it
"""


def terminated(
    path: Path, before: str = "", amid: str = "", number: signal.Signals = signal.SIGTERM
) -> subprocess.CompletedProcess[str]:
    """A process that got a signal while it wrote ``path``."""
    program = WRITER.format(before=before, amid=amid)
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "\n"
        running.send_signal(number)
        rest = running.stdout.read()
    return subprocess.CompletedProcess([], running.returncode, rest)


@pytest.mark.parametrize("name", NAMES)
def test_sigterm_leaves_no_temporary_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"old")
    assert terminated(tmp_path / name).returncode == -signal.SIGTERM
    assert content_of(tmp_path) == {name: b"old"}


def test_a_signal_within_a_callback_that_swallows_what_it_raises_ends_the_process(tmp_path: Path) -> None:
    callback = "import weakref; thing = type('Thing', (), {})()"
    callback += (
        "; watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM)); print(flush=True); del thing"
    )
    assert terminated(tmp_path / "out", amid=callback, number=signal.SIGCONT).returncode == -signal.SIGTERM
    assert content_of(tmp_path) == {}


def test_what_a_killed_process_left_goes_with_the_next_writing_and_what_another_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert terminated(path, number=signal.SIGKILL).returncode == -signal.SIGKILL
    left = sorted(os.listdir(tmp_path))
    assert len(left) == 2
    (tmp_path / ".out.backup.tmp").write_text("of the user")
    with replaced_file(path) as ours:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)  # a child that ends does not give the file up
        write_lines(tmp_path / "out2", [])
        with ThreadPoolExecutor(1) as other:
            other.submit(write_lines, path, ["theirs"]).result()
        assert path.read_text() == "theirs\n"
        ours.write(b"ours")
    assert content_of(tmp_path) == {"out": b"ours", "out2": b"", ".out.backup.tmp": b"of the user"}


def test_sighup_is_sigterm_and_nohup_is_left_alone(tmp_path: Path) -> None:
    default, ignored = (f"signal.signal(signal.SIGHUP, signal.{way})" for way in ("SIG_DFL", "SIG_IGN"))
    assert terminated(tmp_path / "out", default, number=signal.SIGHUP).returncode == -signal.SIGHUP
    assert content_of(tmp_path) == {}
    amid = "signal.raise_signal(signal.SIGHUP)"
    assert terminated(tmp_path / "out", ignored, amid).returncode == -signal.SIGTERM
    assert content_of(tmp_path) == {}


def test_sigterm_of_a_fork_leaves_the_file_of_its_parent(tmp_path: Path) -> None:
    amid = (
        "readable, writable = os.pipe()\n"
        "    child = os.fork()\n"
        "    if child == 0: os.write(writable, b'x'); [time.sleep(0.05) for _ in range(1200)]\n"
        "    os.read(readable, 1)\n"
        "    os.kill(child, signal.SIGTERM); assert os.waitpid(child, 0)[1] == signal.SIGTERM\n"
        "    assert len(os.listdir(os.path.dirname(sys.argv[1]))) == 2"
    )
    assert terminated(tmp_path / "out", amid=amid).returncode == -signal.SIGTERM
    assert content_of(tmp_path) == {}


def test_own_handler_of_sigterm_stays(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGTERM, lambda number, frame: (print('own'), sys.exit(3)))"
    done = terminated(tmp_path / "out", before)
    assert (done.returncode, done.stdout) == (3, "own\n")
    assert content_of(tmp_path) == {}  # as after any exception


def test_signals_are_as_before_afterwards_and_threads_can_write(tmp_path: Path) -> None:
    write_lines(tmp_path / "main", ["a"])
    thread = threading.Thread(target=write_lines, args=(tmp_path / "thread", ["b"]))
    thread.start()
    thread.join()
    assert content_of(tmp_path) == {"main": b"a\n", "thread": b"b\n"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a", b"a\n\nb", b"a\r\nb\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb\xbfa"]
)
def test_lines_are_counted_as_they_are_read(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(packed(name, content))
    assert count_lines(path) == len(list(read_lines(path)))


def test_what_can_be_read_only_once_is_not_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert count_lines(tmp_path / "fifo") is count_lines("-") is None


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of eight bytes at most, read three bytes at a time."""
    monkeypatch.setattr("transformer_mt.system.lines.LONGEST_LINE", 8)
    monkeypatch.setattr("transformer_mt.system.lines._READ_BYTES", 3)


@pytest.mark.usefixtures("short_limit")
def test_a_line_that_is_too_long_is_refused_by_its_number_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("12345678\n\n123456789\nab\n" + "x" * 50)
    with pytest.raises(InputError, match=r"text, line 3: longer than .* break it"):
        list(read_lines(path))
    assert list(read_lines(path, TOO_LONG)) == ["12345678", "", TOO_LONG, "ab", TOO_LONG]
    assert [a == b for a, b in read_line_pairs(path, path, TOO_LONG)] == [True] * 5


@pytest.mark.usefixtures("short_limit")
@given(st.text(st.sampled_from("ab \t\nä한🙂\r"), max_size=60))
def test_parts_are_the_text_again(text: str) -> None:
    """But for the marks at line ends, which no line has."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "text")
        path.write_bytes(text.encode())
        parts = list(read_parts(path))
        lines = list(read_lines(path, TOO_LONG))
    joined = "".join(part.lead + part.text + part.end for part in parts)
    assert joined.split("\n")[:-1] == [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n") if text]
    assert all(len(f"{part.lead}{part.text}".encode()) <= 8 for part in parts)
    assert len(lines) == joined.count("\n")
    for line, whole in zip(lines, joined.split("\n"), strict=False):
        assert line == whole if line != TOO_LONG else len(whole.encode()) >= 8


def test_a_long_line_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(30):
            file.write(bytes(1 << 20))
        file.write(b"\nlast\n")
    tracemalloc.start()
    try:
        assert list(read_lines(path, TOO_LONG)) == [TOO_LONG, "last"]
        assert sum(len(part.text) for part in read_parts(path)) == (30 << 20) + len("last")
        assert tracemalloc.get_traced_memory()[1] < 6 * LONGEST_LINE
    finally:
        tracemalloc.stop()


def test_mode_and_owner_of_a_replaced_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1235)
    before = path.stat()
    write_lines(path, ["new"])
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.read_text() == "new\n"


def test_a_file_system_without_owners_and_modes_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    path = tmp_path / "out"
    path.write_text("old")
    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    write_lines(path, ["new"])
    if os.geteuid() == 0:
        os.chown(path, 1234, 1235)
    write_lines(path, ["newer"])
    assert content_of(tmp_path) == {"out": b"newer\n"}


def test_the_first_lines_are_few_and_short() -> None:
    assert [*first_of(["ab", "cd", "ef"], 3, 3)] == [*first_of(["ab", "cd", "ef"], 2, 100)] == ["ab", "cd"]
