"""Lines of text: columns separated by tabs, files named by their language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformer_mt.errors import InputError
from transformer_mt.system.compression import COMPRESSED
from transformer_mt.system.lines import TOO_LONG, read_lines


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


def read_tsv(path: str, src_column: int, tgt_column: int) -> Iterator[tuple[str, str]]:
    """Yield two columns (numbered from 1) of lines whose columns are separated by tabs.

    Raises:
        InputError: a line has no such column.
    """
    for number, line in enumerate(read_lines(path, TOO_LONG), 1):
        if line == TOO_LONG:
            yield TOO_LONG, TOO_LONG
            continue
        fields = line.split("\t")
        if max(src_column, tgt_column) > len(fields):
            raise InputError(
                f"{path}, line {number}: no column {max(src_column, tgt_column)} (columns found, separated by tabs: "
                f"{len(fields)}); mend the line, or name the right ones with src_column and tgt_column"
            )
        yield fields[src_column - 1], fields[tgt_column - 1]
