"""Splitting a corpus for training, validation and test, without leaks.

Only pairs neither of whose sides, near ones included, occurs in any other pair, on either side, are held out. So
nothing of them is in the training text, and nothing has to be dropped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transformer_mt.checkpoints.exports import exported_directory
from transformer_mt.config.data_sections import DataConfig
from transformer_mt.curation.common import PARTS, named_sources, workspace
from transformer_mt.curation.files import (
    DATA_FILE,
    PairFiles,
    check_inputs,
    check_names,
    data_section,
    side_files,
    source_entry,
)
from transformer_mt.data.duplicate_keys import text_key
from transformer_mt.data.duplicates import ONLY, DuplicateFinder, Keys, Occurrences
from transformer_mt.data.pairs import Chunk, NamedSource, read_chunks
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.console import counted
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG
from transformer_mt.system.processes import on_all_cores

_BLOCK = 1 << 20  # pairs counted at once


class SplitReport(NamedTuple):
    """How many pairs went where."""

    counts: dict[str, int]  # by part
    num_unique: int  # those that could have been held out
    num_too_long: int  # in no part, as one of their lines is too long to be read

    def summary(self) -> str:
        """ "29,000 pairs: 28,000 train, 500 valid, 500 test; 28,610 could have been held out"."""
        sizes = ", ".join(f"{count:,} {part}" for part, count in self.counts.items())
        if self.num_too_long:
            sizes += f", {self.num_too_long:,} left out (a line of more than {LONGEST_LINE >> 20} MiB)"
        total = sum(self.counts.values()) + self.num_too_long
        return f"{counted(total, 'pair')}: {sizes}; {self.num_unique:,} could have been held out"


def split_corpus(data: DataConfig, output: Path, num_valid: int, num_test: int, seed: int, suffix: str) -> SplitReport:
    """Write each pair of ``data.train`` into the files of one part, in order; the held-out ones are drawn uniformly.
    A pair of which a line is too long to be read goes nowhere, and is counted.

    ``output`` gets two files for each part (and source, where there are several) that has pairs, and a section to paste
    into the configuration; whole, or not at all.

    Raises:
        InputError: a source that cannot be read, no pairs or too few that could be held out, or a directory that holds
            other files.
        RunError: the place cannot be written.
    """
    sources = named_sources(data, "train")
    stems = [""] if len(sources) == 1 else [named.label.removeprefix("train") for named in sources]
    names = {
        (number, part): side_files(part + stem, named.languages, suffix)
        for number, (named, stem) in enumerate(zip(sources, stems, strict=True))
        for part in PARTS
    }
    check_names(names.values())
    check_inputs(sources, output)
    counts = dict.fromkeys(names, 0)
    with exported_directory(output, {"made_by": "tmt data split"}) as made, workspace(data) as directory:
        occurrences = _find_unique(sources, directory)
        if not len(occurrences):
            raise InputError("data.train: empty, no sentence pairs; check its files")
        num_unique = sum(
            int(np.count_nonzero(_is_unique(occurrences, start, start + _BLOCK)))
            for start in range(0, len(occurrences) // 2, _BLOCK)
        )
        if num_valid + num_test > num_unique:
            raise InputError(
                f"--valid {num_valid} and --test {num_test}: only {num_unique:,} pairs have sides that occur in no "
                "other pair; ask for fewer"
            )
        drawn = random.Random(seed).sample(range(num_unique), num_valid + num_test)
        part_of = dict.fromkeys(drawn[:num_valid], "valid") | dict.fromkeys(drawn[num_valid:], "test")
        rank = 0  # among the unique pairs
        num_too_long = 0
        with PairFiles(made) as files:
            for chunk in read_chunks(sources, "splitting", []):
                for pair, is_unique in zip(chunk.pairs(), _is_unique(occurrences, chunk.first, chunk.end), strict=True):
                    if TOO_LONG in pair:
                        num_too_long += 1
                        continue
                    key = chunk.source, part_of.get(rank, "train") if is_unique else "train"
                    rank += bool(is_unique)
                    files.write(names[key], f"{pair.src}\n", f"{pair.tgt}\n")
                    counts[key] += 1
        sections = {
            part: [
                source_entry(named, output, names[number, part])
                for number, named in enumerate(sources)
                if counts[number, part]
            ]
            for part in PARTS
        }
        made_of = {part: section for part, section in sections.items() if section}
        section = data_section(data, f"What tmt data split has made, with --seed {seed}.", **made_of)
        (made / DATA_FILE).write_bytes(section)
    by_part = {part: sum(counts[number, part] for number in range(len(sources))) for part in PARTS}
    return SplitReport(by_part, num_unique, num_too_long)


def _find_unique(sources: Sequence[NamedSource], directory: Path) -> Occurrences:
    """How often the source and the target side of each pair occur, by turns."""
    finder = DuplicateFinder(directory)
    for keys in on_all_cores(_side_keys, read_chunks(sources, "comparing", [])):
        finder.add(keys)
    return finder.find()


def _side_keys(chunk: Chunk) -> Keys:
    return np.array([key for pair in chunk.pairs() for key in _keys_of(pair)], dtype=np.uint64)


def _keys_of(pair: SentencePair) -> list[int]:
    """The keys of both sides. A pair with a blank side has one key twice, so that it is not held out; one with a line
    that is too long to be read is like a blank one."""
    keys = [text_key(side, "near") for side in pair if side.strip() and TOO_LONG not in pair] or [0]
    return [keys[0], keys[-1]]


def _is_unique(occurrences: Occurrences, begin: int, end: int) -> npt.NDArray[np.bool_]:
    is_only: npt.NDArray[np.bool_] = occurrences[2 * begin : 2 * end] == ONLY
    return is_only[::2] & is_only[1::2]
