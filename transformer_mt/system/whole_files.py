"""Files that appear whole or not at all, careful reading of strangers' files, and words for what the system refuses."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from transformer_mt.errors import InputError, RunError
from transformer_mt.system.compression import compressed
from transformer_mt.system.locks import hidden, hold, remove_leftovers


@contextlib.contextmanager
def replaced_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing; when the block ends well it is synced and renamed.

    The same content gives the same bytes. A device or a pipe (``/dev/null``, a shell's ``>(…)``) is written as it is:
    it must not be replaced by a file. Nor is a link: the file that it leads to is (``/dev/stdout`` may be one).

    Raises:
        RunError: the place cannot be written or the disk is full; what stood there before stays.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        try:
            with open(path, "wb") as special, compressed(special, path.suffix) as file:
                yield file
        except OSError as error:
            raise write_error(path, error) from error
        return
    target = Path(os.path.realpath(path))
    remove_leftovers(target, "tmp")
    temporary = hidden(target, "tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with open(hold(temporary, lambda: os.open(temporary, flags, 0o666)), "wb") as raw:
            if target.exists():
                be_like(target, raw.fileno())
            with compressed(raw, path.suffix) as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
            os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def be_like(target: Path, descriptor: int) -> None:
    """Give a file or directory the owner and the mode of what it will replace, as far as the system lets us."""
    old, new = os.stat(target), os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):  # only root may give files away, and not all file systems have owners
            os.fchown(descriptor, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def open_plain(path: Path) -> io.BufferedReader:
    """Open a plain file. What else a stranger's directory may have under its name could block, never end, or lead
    elsewhere: a pipe, a device, a link.

    Raises:
        OSError: there is no such file, or it is no plain one.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, not a plain file", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
    return open(descriptor, "rb")


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The content of a plain file (see `open_plain`); a larger one is an OSError as well."""
    with open_plain(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"has more than {most_bytes:,} bytes", str(path))
    return content


def check_writable(path: str | Path) -> None:
    """Refuse an output path that cannot be written, before any work is done for it.

    Raises:
        InputError: its directory does not exist or refuses new files, or the path is a directory.
    """
    if str(path) == "-":
        return
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name a file in it")
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        raise InputError(f"{path}: cannot be written (no directory {parent}); make it first: mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission in {parent}); choose another output path")


def write_error(path: str | Path, error: OSError) -> RunError:
    """The one-line failure for a write that the system refused."""
    return RunError(f"{path}: cannot be written ({reason_of(error)}); {advice_on(error)}")


def refused_read(path: str | Path, error: OSError) -> RunError:
    """The one-line failure for a file of ours that the system did not let us read."""
    return RunError(f"{path}: cannot be read ({reason_of(error)}); {advice_on(error)}")


_ADVICE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions (ls -ld)"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run again"),
    errno.EROFS: "choose a place that can be written",
    errno.EIO: "check the disk",
    errno.EPIPE: "check the program that reads from there",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "raise the limit, for example: ulimit -f unlimited",
    errno.ENOMEM: "free some memory and run again",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit, for example: ulimit -n 1024"),
}


def reason_of(error: OSError) -> str:
    return error.strerror or str(error)


def advice_on(error: OSError) -> str:
    if error.errno == errno.ENOENT and isinstance(error.filename, str | bytes):
        return f"check the path{looked_for_in(error.filename)}"
    return _ADVICE.get(error.errno or 0, "check the path")


def looked_for_in(path: str | bytes | Path) -> str:
    """Return where a relative path begins, to be added to a refusal of it; nothing of an absolute one."""
    with contextlib.suppress(OSError):  # the current folder may be gone
        return "" if os.path.isabs(path) else f", which begins in {os.getcwd()}"
    return ""
