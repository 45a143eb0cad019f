"""Compressed files: read by their first bytes, whatever their names, and written by the endings of these."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

_READ_BYTES = 1 << 16
COMPRESSED = {".gz": "gzip", ".zst": "Zstandard", ".xz": "xz", ".bz2": "bzip2"}
_FIRST_BYTES = {b"\x1f\x8b\x08": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ\0": ".xz", b"BZh": ".bz2"}
_BZIP2_BLOCK = b"1AY&SY"  # stands behind a digit; text may begin with BZh


READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what reading from `open_binary` may raise


@contextlib.contextmanager
def open_binary(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file, or stdin, for reading; what is compressed is decompressed on the way, a block at a time.

    Raises:
        READ_ERRORS: at once, or later from the file; `read_error` has the words for them.
    """
    if str(path) == "-":
        if sys.stdin is None:  # it was closed (`<&-`)
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        match _kind(file.peek(10)) or Path(path).suffix:
            case ".gz":
                yield gzip.GzipFile(fileobj=file)  # type: ignore[misc]
            case ".zst":
                import pyarrow as pa

                yield io.BufferedReader(pa.CompressedInputStream(file, "zstd"), _READ_BYTES)
            case ".xz":
                yield io.BufferedReader(_Streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)), _READ_BYTES)
            case ".bz2":
                yield io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), _READ_BYTES)
            case _:
                yield file


def _kind(start: bytes) -> str | None:
    """Return the ending that a compressed file should have, by its first bytes."""
    for first, suffix in _FIRST_BYTES.items():
        if start.startswith(first) and (suffix != ".bz2" or start[4:10] == _BZIP2_BLOCK):
            return suffix
    return None


class _Streams(io.RawIOBase):
    """The content of an xz or bzip2 file. (`lzma.open` takes damage at the start of a second stream for the end.)"""

    def __init__(self, file: IO[bytes], new: Callable[[], Any]) -> None:
        self._file, self._new = file, new
        self._stream = new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data:
            block = self._stream.unused_data
            if self._stream.eof:
                while not (block := block.lstrip(b"\0")):  # between streams of xz, and behind the last, zeros may stand
                    if not (block := self._file.read(_READ_BYTES)):
                        return 0
                self._stream = self._new()
            elif self._stream.needs_input and not (block := self._file.read(_READ_BYTES)):
                raise EOFError("it ends within a stream")
            data = self._stream.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def compressed(raw: IO[bytes], suffix: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """What is written to this arrives compressed in ``raw``, which stays open. No name and no time goes along.

    Zstandard files of pyarrow have no checksum: of all these, they are the ones whose damage may go unseen.
    """
    match suffix:
        case ".gz":
            return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)  # type: ignore[return-value]
        case ".zst":
            import pyarrow as pa

            unowned = open(raw.fileno(), "wb", closefd=False)  # noqa: SIM115 (closed by what is around it)
            return pa.CompressedOutputStream(unowned, "zstd")  # type: ignore[no-any-return]
        case ".xz":
            return lzma.LZMAFile(raw, "wb")
        case ".bz2":
            return bz2.BZ2File(raw, "wb")
        case _:
            return contextlib.nullcontext(raw)
