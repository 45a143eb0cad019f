"""What a prepared corpus depends on: the content of files, remembered, and the revision of data sets."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from transformer_mt.config.data_sections import DataConfig, SourceConfig
from transformer_mt.data.pairs import NamedSource
from transformer_mt.data.readers.sources import source_files
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.whole_files import advice_on, reason_of, replaced_file, write_error

# What these kinds of files are read as has changed: corpora prepared from them before have other keys.
_READINGS = {"tmx": 3, "tsv": 3, "csv": 2, "xliff": 3, "po": 2}


def source_key(named: NamedSource, cache: Path) -> Any:
    """Return what a source's pairs depend on: the content of its files, or the settings of what has no files here."""
    source = named.source
    settings = source.model_dump(exclude_none=True, exclude={"name", "weight", "license"})
    paths = source_files(source, *named.languages)
    if paths:  # their content counts, not their names
        for name in ("src", "tgt", source.kind):
            settings.pop(name, None)
        settings["kind"] = source.kind
        if source.kind in _READINGS:
            settings["reading"] = _READINGS[source.kind]
    elif source.hub is not None:
        settings["revision"] = named.revision
    elif source.builtin is not None:
        from transformer_mt.toy_corpus import grammar

        settings["version"] = grammar.VERSION
    # In a data set's directory the names tell which split a file is of.
    names = [os.path.relpath(path, source.hub) for path in paths] if source.hub is not None else []
    return [settings, names, [content_hash(path, cache) for path in paths]]


def training_files(data: DataConfig) -> dict[str, str]:
    """Return the SHA-256 of every file that the training pairs are read from, by its path."""
    cache = Path(data.cache_dir).expanduser()
    files = (path for source in data.train for path in source_files(source, *data.languages(source)))
    return {path: content_hash(path, cache) for path in files}


def content_hash(path: str, cache: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, remembered in the cache by path, size and modification time.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        stat = os.stat(path)
        memo = _memo(cache, os.path.abspath(path))
        stamp = f"{stat.st_size} {stat.st_mtime_ns} "
        if memo.exists() and (text := memo.read_text("latin-1")).startswith(stamp):  # so that damage is no error
            return text.removeprefix(stamp)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); {advice_on(error)}") from None
    _remember(memo, stamp + digest)
    return digest


def hub_revision(source: SourceConfig, cache: Path) -> str | None:
    """Return the newest commit of a data set on the hub.

    Where the hub cannot be asked it is the one that it named last time; None for sources that are not on it.
    """
    if source.hub is None or Path(source.hub).is_dir():
        return None
    memo = _memo(cache, f"hub {source.hub}")
    try:
        from huggingface_hub import HfApi  # slow to import

        revision = HfApi().dataset_info(source.hub, timeout=10).sha
    except Exception:  # whatever the network may raise; a name that is wrong is told when it is read
        return memo.read_text("latin-1") if memo.exists() else None
    if revision is not None:
        _remember(memo, revision)
    return revision


def _memo(cache: Path, subject: str) -> Path:
    return cache / "hashes" / hashlib.sha256(os.fsencode(subject)).hexdigest()[:24]  # paths have any bytes


def _remember(memo: Path, text: str) -> None:
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{write_error(memo.parent, error)}, or name another folder as data.cache_dir") from error
    with replaced_file(memo) as out:
        out.write(text.encode())
