"""Findings about parallel text that spoil a training or its scores: leaks, damage, alignment, languages.

They are about text, whatever format it is read from: what a file's bytes have to say, its reader says when it refuses
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from transformer_mt.config.data_sections import CleanConfig, DataConfig
from transformer_mt.curation.common import PARTS, Finding, named_sources, share
from transformer_mt.curation.leaks import Ints, LeakFinder, keys_of_each
from transformer_mt.curation.repeated_texts import Repeated, RepeatedTexts, repeated_in
from transformer_mt.curation.shifted_lines import Block, Shifts, shifted_blocks
from transformer_mt.curation.stats import Repeats
from transformer_mt.curation.text_faults import Seen, TextFaults, faults_of
from transformer_mt.curation.wrong_language import SideLanguage, WrongLanguages, labels_of, side_languages_of
from transformer_mt.data.pairs import Chunk, NamedSource, Places, read_chunks
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.console import counted
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.system.processes import on_all_cores

_LONGEST = 3000  # characters of a side, or more where `data.clean.max_chars` allows it
_MANY_LEFT_OUT = 0.2  # of the training pairs, for the sake of held-out text; what `tmt init` draws is a tenth at most

_Result = TypeVar("_Result")


class _Looked(NamedTuple):
    """What one look at a chunk gave."""

    num_usable: int  # pairs with text on both sides
    seen: Seen
    blocks: list[Block]
    languages: list[SideLanguage]
    repeated: Repeated


def check(data: DataConfig) -> list[Finding]:
    """Return the findings, what ruins a model first. A source that cannot be read is one, and the others are checked.

    Of the held-out text six keys a pair are in memory, and of each that is another one the key and its first place once
    more: up to 144 MB for a million pairs.
    """
    train = named_sources(data, "train")
    held_out = [named for part in PARTS[1:] for named in named_sources(data, part)]
    languages = WrongLanguages([*held_out, *train])
    longest = max(_LONGEST, data.clean.max_chars or 0)

    held_out_text = _Text(held_out, languages, 0, longest, rules=None)
    leaks = LeakFinder(len(held_out), held_out_text.read(keys_of_each))

    train_text = _Text(train, languages, len(held_out), longest, rules=data.clean)

    def look_up(chunk: Chunk, pairs: list[SentencePair]) -> dict[Repeats, tuple[Ints, Ints]]:
        return {one: leaks.look_up(keys, one, chunk.first) for one, keys in keys_of_each(chunk, pairs).items()}

    num_shared = 0  # training pairs that have something of the held-out text
    for _, found in train_text.read(look_up):
        num_shared += len(np.unique(np.concatenate([places for places, _ in found.values()])))
        leaks.see(found)

    findings = [
        *held_out_text.findings(),
        *train_text.findings(),
        *languages.findings([*held_out_text.counts, *train_text.counts]),
    ]
    findings += leaks.between(held_out, held_out_text.counts)
    num_pairs = sum(train_text.counts)
    if not data.clean.drop_held_out:
        places_in_train = Places([one.label for one in train], train_text.counts)
        findings += leaks.findings(held_out, held_out_text.counts, places_in_train)
    elif num_shared > _MANY_LEFT_OUT * num_pairs:
        text = (
            f"train: {share(num_shared, num_pairs)} of {num_pairs:,} pairs have a side of the validation or test text"
        )
        findings.append(Finding(f"{text}: drop_held_out leaves them out of training", num_shared > num_pairs / 2))
    # What several sources share, as a missing file, is told once.
    return sorted(dict.fromkeys(findings), key=lambda finding: not finding.ruins)


class _Text:
    """The training text, or the held-out text, and what was found in it by itself."""

    def __init__(
        self,
        sources: Sequence[NamedSource],
        languages: WrongLanguages,
        first: int,
        longest: int,
        rules: CleanConfig | None,
    ) -> None:
        """``first``: the number that its first source has for ``languages``. ``rules``: those of training text."""
        self.counts: list[int] = []  # of pairs
        self._sources, self._rules, self._longest = sources, rules, longest
        self._languages, self._first = languages, first
        self._num_usable = [0 for _ in sources]
        self._refusals: list[InputError] = []
        self._shifts, self._faults, self._repeated = Shifts(), TextFaults(), RepeatedTexts(len(sources))

    def read(self, function: Callable[[Chunk, list[SentencePair]], _Result]) -> Iterator[tuple[int, _Result]]:
        """Look at all of it, and yield each chunk's source with a function's result.

        The function gets the chunk, and its pairs with two blank sides where a line is too long: it is like no other.
        """
        labels = [labels_of(named) for named in self._sources]

        def look(chunk: Chunk) -> tuple[int, _Looked, _Result]:
            pairs = [SentencePair("", "") if TOO_LONG in pair else pair for pair in chunk.pairs()]
            looked = _Looked(
                sum(1 for src, tgt in pairs if src.strip() and tgt.strip()),
                faults_of(chunk, self._sources[chunk.source].languages, self._longest),
                shifted_blocks(chunk),
                side_languages_of(chunk, labels[chunk.source]),
                repeated_in(chunk),
            )
            return chunk.source, looked, function(chunk, pairs)

        doing = "reading" if self._rules is None else "comparing"
        chunks = read_chunks(self._sources, doing, self.counts, refusals=self._refusals)
        for number, looked, result in on_all_cores(look, chunks):
            self._num_usable[number] += looked.num_usable
            self._faults.add(number, looked.seen)
            self._shifts.add(number, looked.blocks)
            self._repeated.add(number, looked.repeated)
            self._languages.add(self._first + number, looked.languages)
            yield number, result

    def findings(self) -> Iterator[Finding]:
        for refusal in self._refusals:
            yield Finding(f"{refusal}; nothing behind that is checked", ruins=True)
        yield from self._empty_sources()
        yield from self._same_sources()
        yield from self._faults.findings(self._sources, self.counts, self._longest, self._rules)
        yield from self._repeated.findings(self._sources, self.counts, self._rules)
        yield from self._shifts.findings(self._sources, self.counts)

    def _same_sources(self) -> Iterator[Finding]:
        """One for each source that reads the same as one before it."""
        seen: dict[tuple[str, ...], str] = {}
        for named in self._sources:
            key = *named.languages, repr(named.source.model_dump(exclude={"name", "weight", "license"}))
            if (first := seen.setdefault(key, named.label)) != named.label:
                yield Finding(
                    f"{named.label}: is {first} once more; remove one of them, and give the other a weight where "
                    f"its text is to be seen more often ({named.source})",
                    ruins=False,
                )

    def _empty_sources(self) -> Iterator[Finding]:
        """One for each source without a pair that can be used."""
        for named, count, usable in zip(self._sources, self.counts, self._num_usable, strict=True):
            if count > 0 and usable == 0:
                yield Finding(
                    f"{named.label}: none of its {counted(count, 'pair')} has text on both sides ({named.source})",
                    ruins=True,
                )
            elif count == 0:
                with contextlib.suppress(InputError):  # it cannot be read, which is told
                    next(read_pairs(named.source, *named.languages), None)
                    yield Finding(f"{named.label}: empty, no sentence pairs ({named.source})", ruins=True)
