"""Directories for other programs: written aside and renamed, with a list of what they hold.

The list (`MANIFEST`) tells an export from anything else that may be there, so that exporting again replaces the export
and never somebody's files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformer_mt import __version__
from transformer_mt.errors import InputError
from transformer_mt.system.directories import listed_files, replaced_directory
from transformer_mt.system.whole_files import read_plain

MANIFEST = "export.json"
_VOCABULARY = "_vocabulary.json"  # of CTranslate2: shared, source or target
_MOST_BYTES = 1 << 26


@contextlib.contextmanager
def exported_directory(target: Path, facts: Mapping[str, str]) -> Iterator[Path]:
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

    with replaced_directory(target, files_of, "an earlier export") as temporary:
        yield temporary
        files = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
        manifest = {"transformer_mt": __version__, **facts, "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def is_export(directory: Path) -> bool:
    """Whether a directory is a model that was exported, by its list."""
    return listed_files(directory, MANIFEST, _is_model) is not None


def _is_model(facts: dict[str, Any]) -> bool:
    return {"transformer_mt", "format"} <= facts.keys() and all(isinstance(name, str) for name in facts["files"])


def describe_export(directory: Path) -> dict[str, Any]:
    """Return what an exported model tells of itself: its list, the sizes of its files and of its vocabularies.

    Raises:
        InputError: a file is missing or damaged.
    """
    facts: dict[str, Any] = json.loads(read_plain(directory / MANIFEST, _MOST_BYTES))
    try:
        sizes = {name: os.lstat(directory / name).st_size for name in facts["files"]}
        vocabulary = {
            name.removesuffix(_VOCABULARY): len(json.loads(read_plain(directory / name, _MOST_BYTES)))
            for name in sizes
            if name.endswith(_VOCABULARY)
        }
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); export the model again") from None
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{directory}: its vocabulary is damaged; export the model again") from None
    return {"path": str(directory), "kind": "export", **facts, "files": sizes, "vocabulary": vocabulary}
