"""Directories for other programs: written aside and renamed, with a list of what they hold.

The list (`MANIFEST`) tells an export from anything else that may be there, so that exporting again replaces the export
and never somebody's files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformer_mt import __version__
from transformer_mt.system.directories import listed_files, replaced_directory

MANIFEST = "export.json"


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
        files = sorted(path.name for path in temporary.iterdir())
        manifest = {"transformer_mt": __version__, **facts, "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
