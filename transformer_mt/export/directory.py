"""Directories for other programs: written aside and renamed, with a list of what they hold.

The list (`MANIFEST`) tells an export from anything else that may be there, so that exporting again replaces the export
and never somebody's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformer_mt import __version__
from transformer_mt.checkpoint import replace_directory, sync
from transformer_mt.errors import InputError
from transformer_mt.textio import write_error

MANIFEST = "export.json"


@contextlib.contextmanager
def exported_directory(target: Path, facts: Mapping[str, str]) -> Iterator[Path]:
    """Yield an empty directory to fill with files; when the block ends well it takes the place of ``target``.

    ``facts`` say what is exported and stand in the list as well. The target appears whole or not at all.

    Raises:
        InputError: something stands at ``target`` that is neither an empty directory nor an export.
        RunError: the place cannot be written or is full; what stood there before stays.
    """
    place = target.absolute()  # has a name, also where the target is "."
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        _check_replaceable(target)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        files = sorted(path.name for path in temporary.iterdir())
        manifest = {"transformer_mt": __version__, **facts, "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        replace_directory(temporary, place)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: exists and is not a directory; choose another --output")
    if not target.exists():
        if not target.parent.is_dir():
            raise InputError(f"{target}: cannot be written (no directory {target.parent}); make it first")
        return
    found = {path.name for path in target.iterdir()}
    if found and found - {MANIFEST} != _listed(target / MANIFEST):
        raise InputError(
            f"{target}: exists and holds something else than an earlier export; remove it, or choose another --output"
        )


def _listed(manifest: Path) -> set[str] | None:
    """The files of an export; None where there is no list, or one that is not ours."""
    try:
        return set(json.loads(manifest.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
