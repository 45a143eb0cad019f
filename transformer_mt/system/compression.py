"""Compressed files, by the endings of their names."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_READ_BYTES = 1 << 16
COMPRESSED = {".gz": "gzip", ".zst": "Zstandard", ".xz": "xz"}


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
        match Path(path).suffix:
            case ".gz":
                yield gzip.GzipFile(fileobj=file)  # type: ignore[misc]
            case ".zst":
                import pyarrow as pa

                yield io.BufferedReader(pa.CompressedInputStream(file, "zstd"), _READ_BYTES)
            case ".xz":
                yield io.BufferedReader(_XzReader(file), _READ_BYTES)
            case _:
                yield file


class _XzReader(io.RawIOBase):
    """The content of an xz file. (`lzma.open` takes damage at the start of a second stream for the end.)"""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data:
            block = self._stream.unused_data
            if not block and (self._stream.eof or self._stream.needs_input):
                block = self._file.read(_READ_BYTES)
                if not block and self._stream.eof:
                    return 0
                if not block:
                    raise EOFError("it ends within a stream")
            if self._stream.eof:
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            data = self._stream.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def compressed(raw: IO[bytes], suffix: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """What is written to this arrives compressed in ``raw``, which stays open. No name and no time goes along.

    Zstandard files of pyarrow have no checksum: of these three, they are the ones whose damage may go unseen.
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
        case _:
            return contextlib.nullcontext(raw)
