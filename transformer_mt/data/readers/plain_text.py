"""Files of lines that are named by their language."""

from __future__ import annotations

from pathlib import Path

from transformer_mt.errors import InputError
from transformer_mt.system.compression import COMPRESSED


def moses_file(prefix: str, lang: str) -> str:
    """Return the file of a prefix and a language, which may be compressed.

    Raises:
        InputError: there is none, or more than one.
    """
    names = [f"{prefix}.{lang}{suffix}" for suffix in ("", *COMPRESSED)]
    found = [name for name in names if Path(name).exists()]
    if not found:
        raise InputError(f"moses {prefix}: none of {', '.join(names)} is there; check the prefix and the languages")
    if len(found) > 1:
        raise InputError(f"moses {prefix}: {' and '.join(found)} are there; remove one, or name it with src and tgt")
    return found[0]
