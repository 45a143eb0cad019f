"""Directories of parallel text that commands make: files of both sides, and a section of a configuration for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.loading import as_yaml
from transformer_mt.data.pairs import NamedSource
from transformer_mt.data.readers.sources import source_files
from transformer_mt.errors import InputError
from transformer_mt.system.whole_files import replaced_file

DATA_FILE = "data.yaml"


def side_files(stem: str, languages: tuple[str, str], suffix: str) -> tuple[str, str]:
    """The names of two files, "news.en" and "news.de"; ``suffix`` is ".gz" or nothing."""
    src_lang, tgt_lang = languages
    return f"{stem}.{src_lang}{suffix}", f"{stem}.{tgt_lang}{suffix}"


def check_names(names: Iterable[tuple[str, str]]) -> None:
    """Refuse names of files that are paths, or two that are the same.

    Raises:
        InputError: such a name.
    """
    seen: set[str] = set()
    for name in (name for both in names for name in both):
        if Path(name).name != name:
            raise InputError(f"{name!r} cannot be a file's name; change the source's name or languages in data.train")
        if name in seen:
            raise InputError(f"two files would be called {name}; change the source's name or languages in data.train")
        seen.add(name)


def check_inputs(sources: Sequence[NamedSource], output: Path) -> None:
    """Refuse to read from the directory that will be written.

    Raises:
        InputError: a source has a file there.
    """
    for named in sources:
        for path in source_files(named.source, *named.languages):
            if output.resolve() in Path(path).resolve().parents:
                raise InputError(f"{output}: {path} is read from there; choose another --output")


class PairFiles:
    """Files of both sides, by a key of the caller's. A pair of files is made when the first pair of lines comes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[tuple[str, str], tuple[IO[bytes], IO[bytes]]] = {}
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._opened.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._opened.__exit__(*failure)

    def write(self, names: tuple[str, str], src: str, tgt: str) -> None:
        """Append lines, each with its end."""
        if names not in self._files:
            src_file, tgt_file = (self._opened.enter_context(replaced_file(self._directory / name)) for name in names)
            self._files[names] = src_file, tgt_file
        for file, text in zip(self._files[names], (src, tgt), strict=True):
            file.write(text.encode("utf-8"))


def data_section(data: DataConfig, comment: str, **replaced: Any) -> bytes:
    """The section ``data`` of a configuration as YAML, less what it leaves to defaults, with some keys replaced, and
    without stages' weights and languages' scripts of sources that it no longer has.

    Raises:
        InputError: that is no configuration: all sources with a weight are gone.
    """
    section = data.model_dump(mode="json", exclude_unset=True) | replaced
    sources = section["train"]
    names = {source.get("name") for source in sources}
    for stage in section.get("stages", []):
        stage["weights"] = {name: weight for name, weight in stage["weights"].items() if name in names}
    if scripts := section.get("clean", {}).get("scripts"):
        languages = {source.get(key, section[key]) for source in sources for key in ("src_lang", "tgt_lang")}
        section["clean"]["scripts"] = {language: own for language, own in scripts.items() if language in languages}
    try:
        DataConfig.model_validate(section)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"what is left makes no configuration ({problem}); change data.stages or weights") from None
    return f"# {comment}\n{as_yaml({'data': section})}".encode()


def source_entry(named: NamedSource, output: Path, names: tuple[str, str]) -> dict[str, Any]:
    """A source that reads two files in place of another, and is like it otherwise."""
    src, tgt = (str(output / name) for name in names)
    kept = named.source.model_dump(
        include={"name", "weight", "tag", "src_lang", "tgt_lang", "license"}, exclude_none=True
    )
    return {"src": src, "tgt": tgt, **kept}
