"""A source as somebody has named it, and which of its sides is which."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.readers.languages import is_turned
from transformer_mt.errors import InputError
from transformer_mt.recipes.languages import MaybeCodes

MaybeColumns = tuple[str | None, str | None]  # names or numbers, of the source and the target


class Files(NamedTuple):
    """A source as somebody named it on the command line."""

    settings: dict[str, Any]  # as a configuration has them
    codes: MaybeCodes
    how: str  # the codes are known
    is_by_language: bool = False  # its sides are found by their languages, and cannot be the wrong way round

    @property
    def source(self) -> SourceConfig:
        return SourceConfig(**self.settings)

    @property
    def columns(self) -> tuple[str | int, str | int]:
        """The columns of a table whose sides are not found by their languages."""
        return self.settings.get("src_column", 1), self.settings.get("tgt_column", 2)

    def turned(self) -> Files:
        """Return a table with its columns exchanged."""
        src, tgt = self.columns
        return self._replace(settings={**self.settings, "src_column": tgt, "tgt_column": src}, codes=self.codes[::-1])


def in_order(files: Files, wanted: MaybeCodes) -> Files:
    """Return a table with its columns exchanged where its languages are those that are wanted, the other way round.

    What is not known of either may be any language.
    """
    (src, tgt), (one, other) = wanted, files.codes
    return files.turned() if is_turned((src or "", tgt or ""), (one or "", other or "")) else files


def right_way(files: Files, wanted: tuple[str, str], of_text: MaybeCodes, part: str = "") -> Files:
    """Return a source with its sides the right way round, by its text or, where that does not tell, by its names.

    Args:
        part: of the options that name it, as "valid-". Only tables without one can be told which columns to take.

    Raises:
        InputError: they are the other way round, and have to be named so.
    """
    told, how = (files.codes, files.how) if _are_turned(wanted, of_text) is None else (of_text, "by the text itself")
    if not _are_turned(wanted, told):
        return files
    is_table = "src" not in files.settings
    if files.is_by_language:
        if told is of_text and {"csv", "tsv", "jsonl", "parquet"} & {*files.settings}:
            raise InputError(
                f"{files.source}: its columns for {wanted[0]} and {wanted[1]} have the text of each other ({how}); "
                "exchange their names"
            )
        return files
    if is_table and part:
        return files.turned()
    remedy = f"exchange --{part}src and --{part}tgt"
    if is_table:
        src, tgt = files.columns
        remedy = f"say --src-column {tgt} --tgt-column {src} --src-lang {wanted[0]} --tgt-lang {wanted[1]}"
    raise InputError(
        f"{files.source}: is {told[0]} to {told[1]} ({how}), not {wanted[0]} to {wanted[1]}; {remedy}, or exchange the "
        "languages"
    )


def _are_turned(wanted: tuple[str, str], found: MaybeCodes) -> bool | None:
    one, other = found
    return is_turned(wanted, (one, other)) if one and other else None
