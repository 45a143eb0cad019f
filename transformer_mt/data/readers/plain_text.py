"""Which files the paths, patterns and prefixes of a source are."""

from __future__ import annotations

import glob
import os
import re
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


def files_of(paths: str | tuple[str, ...]) -> list[str]:
    """Return the files that paths and patterns name, those of a pattern in the order of the alphabet.

    Raises:
        InputError: no file is like a pattern.
    """
    if isinstance(paths, tuple):
        return [file for path in paths for file in files_of(path)]
    if not _is_pattern(paths):
        return [paths]
    found = sorted(path for path in glob.glob(paths, recursive=True) if not Path(path).is_dir())
    if not found:
        raise InputError(f"{paths}: no file has such a name; check the path")
    return found


def refuse_stream(path: str) -> None:
    """Refuse what can be read only once, or only while a terminal or another program is there.

    Raises:
        InputError: stdin, a pipe or a device.
    """
    is_stream = path == "-" or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))
    if is_stream or re.match(r"/dev/(stdin$|fd/)|/proc/[^/]+/(task/[^/]+/)?fd/", path):
        what = "stdin" if path == "-" else f"{path} (a pipe or a device)"
        raise InputError(f"{what}: training reads its text more than once; write it to a file and name that")


def file_pairs(src: str | tuple[str, ...], tgt: str | tuple[str, ...], langs: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the files of both sides that belong together.

    Raises:
        InputError: one side has more files, or two patterns stand for names that differ in more than the language.
    """
    sides = files_of(src), files_of(tgt)
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"src has {len(sides[0])} files ({_some(sides[0])}), tgt {len(sides[1])} ({_some(sides[1])}); file i of "
            "one side must belong to file i of the other"
        )
    pairs = list(zip(*sides, strict=True))
    if isinstance(src, str) and isinstance(tgt, str) and _is_pattern(src) and _is_pattern(tgt):
        for one, other in pairs:
            if _stem(src, one, langs[0]) != _stem(tgt, other, langs[1]):
                raise InputError(
                    f"{src} and {tgt}: {one} and {other} would belong together; let * stand for what both names have "
                    "in common, or list the files"
                )
    return pairs


def moses_prefixes(prefixes: str | tuple[str, ...], lang: str) -> list[str]:
    """Return the prefixes that patterns stand for, by the files of a language."""
    if isinstance(prefixes, tuple):
        return [prefix for pattern in prefixes for prefix in moses_prefixes(pattern, lang)]
    ends = [f".{lang}{suffix}" for suffix in ("", *COMPRESSED)]
    if not _is_pattern(prefixes) or any(Path(prefixes + end).exists() for end in ends):
        return [prefixes]
    found = {file.removesuffix(end) for end in ends for file in glob.glob(f"{prefixes}{end}", recursive=True)}
    if not found:
        raise InputError(f"moses {prefixes}: no file is named {prefixes}.{lang}; check the prefix and the languages")
    return sorted(found)


def _is_pattern(path: str) -> bool:
    return re.search(r"[*?[]", path) is not None and not Path(path).exists()


def _stem(pattern: str, file: str, lang: str) -> str:
    """What a pattern stands for in a file's name, without the language and what the file is compressed by."""
    before, after = re.split(r"[*?[]", pattern)[0], re.split(r"[]*?]", pattern)[-1]
    stem = file[len(before) : len(file) - len(after)]
    suffix = Path(stem).suffix
    return re.sub(rf"\b{re.escape(lang)}\b", "", stem.removesuffix(suffix) if suffix in COMPRESSED else stem)


def _some(files: list[str]) -> str:
    return ", ".join([*files[:3], *["…"] * (len(files) > 3)])
