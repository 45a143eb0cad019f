"""Directories for other programs: written aside and renamed, with a list of what they hold, its size and SHA-256.

The list (`MANIFEST`) tells an export from anything else that may be there, so that exporting again replaces the export
and never somebody's files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from transformer_mt import __version__
from transformer_mt.checkpoints.manifest import FileFacts, check_file, sealed
from transformer_mt.errors import InputError
from transformer_mt.system.directories import listed_files, replaced_directory
from transformer_mt.system.whole_files import read_plain

MANIFEST = "export.json"
_VOCABULARY = "_vocabulary.json"  # of CTranslate2: shared, source or target
_MOST_BYTES = 1 << 26
_FILES = TypeAdapter(dict[str, FileFacts])


@contextlib.contextmanager
def exported_directory(target: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty directory to fill with files; when the block ends well it takes the place of ``target``.

    ``facts`` say what is exported and stand in the list as well; ``format`` or ``made_by`` is its kind, and only what
    is of the same kind is replaced. The target appears whole or not at all.

    Raises:
        InputError: something stands at ``target`` that is neither an empty directory nor an export of this kind.
        RunError: the place cannot be written or is full; what stood there before stays.
    """
    kind = {key: value for key, value in facts.items() if key in ("format", "made_by")}.items()

    def files_of(directory: Path) -> set[str] | None:
        return listed_files(directory, MANIFEST, lambda facts: "transformer_mt" in facts and kind <= facts.items())

    what = f"an earlier result of {facts['made_by']}" if "made_by" in facts else "an earlier export"
    with replaced_directory(target, files_of, what) as temporary:
        yield temporary
        write_list(temporary, facts)


def write_list(directory: Path, facts: Mapping[str, Any]) -> None:
    """List a directory's files in it, with ``facts`` of what they are."""
    files = {path.relative_to(directory).as_posix(): _facts(path) for path in directory.rglob("*") if path.is_file()}
    manifest = {"transformer_mt": __version__, **facts, "files": dict(sorted(files.items()))}
    (directory / MANIFEST).write_bytes(sealed(manifest))


def _facts(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def is_export(directory: Path) -> bool:
    """Whether a directory is a model that was exported, by its list."""
    return listed_files(directory, MANIFEST, _is_model) is not None


def _is_model(facts: dict[str, Any]) -> bool:
    return {"transformer_mt", "format"} <= facts.keys() and all(_is_below(name) for name in facts["files"])


def _is_below(name: str) -> bool:
    """A stranger's list leads nowhere else."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def check_export(directory: Path, *, only_sizes: bool = False) -> dict[str, Any]:
    """Check the files of an export against its list, which is returned.

    Earlier exports list names only: nothing is known of their files. A text for readers (README.md) is there to be
    edited, and not checked.

    Args:
        only_sizes: do not read the files, whose hashes would tell a changed byte.

    Raises:
        InputError: the list or a file is missing, cut short or changed.
    """
    remedy = "export the model again"
    try:
        content = read_plain(directory / MANIFEST, _MOST_BYTES)
        facts: dict[str, Any] = json.loads(content)
        if facts.get("format") in ("marian", "pegasus"):  # others are known as exports by their list
            remedy = f"{remedy}, or, where it was changed on purpose, remove {MANIFEST}"
        if isinstance(facts["files"], list):
            return facts
        del facts["sha256"]
        is_damaged = content != sealed(facts)
        files = _FILES.validate_python(facts["files"])
    except OSError as error:
        raise InputError(f"{directory / MANIFEST}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        is_damaged = True
    if is_damaged:
        raise InputError(f"{directory / MANIFEST}: damaged; {remedy}")
    for name, file in files.items():
        if not name.endswith(".md"):
            check_file(directory / name, file, remedy, only_sizes=only_sizes)
    return facts


def describe_export(directory: Path) -> dict[str, Any]:
    """Return what an exported model tells of itself: its list, the sizes of its files and of its vocabularies.

    Raises:
        InputError: a file is missing, cut short or damaged; changed bytes are not looked for.
    """
    facts = check_export(directory, only_sizes=True)
    try:
        sizes = {name: os.lstat(directory / name).st_size for name in facts["files"]}
        vocabulary = {
            PurePosixPath(name).name.removesuffix(_VOCABULARY): len(
                json.loads(read_plain(directory / name, _MOST_BYTES))
            )
            for name in sizes
            if name.endswith(_VOCABULARY)
        }
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); export the model again") from None
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{directory}: its vocabulary is damaged; export the model again") from None
    return {"path": str(directory), "kind": "export", **facts, "files": sizes, "vocabulary": vocabulary}
