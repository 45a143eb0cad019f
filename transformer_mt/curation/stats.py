"""What parallel text is made of: sizes, lengths, repeats, scripts, and pairs that rules of cleaning would reject."""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_mt.config.data_sections import CleanConfig, DataConfig
from transformer_mt.curation.common import PARTS, named_sources, workspace
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.cleaning import check_rules, clean
from transformer_mt.data.duplicate_keys import Kind, duplicate_key, text_key
from transformer_mt.data.duplicates import LATER, DuplicateFinder, Keys
from transformer_mt.data.pairs import Chunk, NamedSource, Places, read_chunks
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.processes import on_all_cores
from transformer_mt.system.whole_files import write_error
from transformer_mt.text.scripts import SCRIPTS, script_of

RATIO_BINS = 8  # of an octave: bin b holds length ratios around 2^(b/8)
_MAX_RATIO_BIN = 4 * RATIO_BINS  # longer than 16 times
PERCENTILES = (1, 5, 50, 95, 99)
_BLOCK = 1 << 20  # keys read or counted at once


class Repeats(NamedTuple):
    """A way to compare pairs, and what it finds."""

    unit: str  # of UNITS
    kind: Kind  # "near": alike but for case, accents, digits, punctuation and white space


UNITS = PAIRS, SOURCES, TARGETS = ("pairs", "source sides", "target sides")
KINDS: tuple[Kind, Kind] = ("exact", "near")
REPEATS = [Repeats(unit, kind) for unit in UNITS for kind in KINDS]


class Rule(NamedTuple):
    """A rule of cleaning, and the value to judge by: the usual one, or data.clean's. With `off` it is not tried."""

    reason: str
    key: str  # of data.clean
    value: Any
    off: Any
    is_configured: bool = False


RULES = (
    Rule("identical", "drop_identical", True, False),
    Rule("too_long_characters", "max_chars", 3000, None),
    Rule("length_ratio", "max_char_ratio", 3.0, None),
    Rule("word_ratio", "max_word_ratio", 3.0, None),
    Rule("word_too_long", "max_word_chars", 100, None),
    Rule("control_characters", "drop_control_characters", True, False),
    Rule("html", "drop_html", True, False),
    Rule("url_mismatch", "match_urls", True, False),
    Rule("number_mismatch", "min_number_overlap", 0.5, None),
    Rule("repeated_ngram", "max_repeats", 4, None),
    Rule("wrong_script", "scripts", {}, {}),
    Rule("wrong_language", "min_language_probability", None, None),  # ten times slower than all others together
)


def rounded_length(length: int) -> int:
    """Its first three digits: histograms stay small, and percentiles are right to 1 %."""
    unit: int = 10 ** max(0, len(str(length)) - 3)
    return length // unit * unit


@dataclass
class Lengths:
    """How long lines are, in words or in characters."""

    total: int = 0
    longest: int = 0
    counts: Counter[int] = field(default_factory=Counter)  # lines by rounded length

    def add(self, lengths: Sequence[int]) -> None:
        self.total += sum(lengths)
        self.longest = max(self.longest, *lengths, 0)
        self.counts.update(map(rounded_length, lengths))

    def merge(self, other: Lengths) -> None:
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self.counts.update(other.counts)

    @property
    def mean(self) -> float:
        return self.total / max(1, self.counts.total())

    def percentile(self, percent: float) -> int:
        """The least length that so many percent of lines do not exceed."""
        wanted = math.ceil(self.counts.total() * percent / 100)
        lengths = sorted(self.counts)
        sums = itertools.accumulate(self.counts[length] for length in lengths)
        return next((length for length, reached in zip(lengths, sums, strict=True) if reached >= wanted), 0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "mean": round(self.mean, 3),
            "percentiles": {str(percent): self.percentile(percent) for percent in PERCENTILES},
            "longest": self.longest,
            "histogram": {str(length): self.counts[length] for length in sorted(self.counts)},
        }


@dataclass
class SideStats:
    words: Lengths = field(default_factory=Lengths)  # what stands between white space
    characters: Lengths = field(default_factory=Lengths)
    classes: Counter[str] = field(default_factory=Counter)  # characters by `character_class`

    def add(self, lines: Sequence[str]) -> None:
        self.words.add([len(line.split()) for line in lines])
        self.characters.add([len(line) for line in lines])
        for character, number in Counter("".join(lines)).items():
            self.classes[character_class(character)] += number

    def merge(self, other: SideStats) -> None:
        self.words.merge(other.words)
        self.characters.merge(other.characters)
        self.classes.update(other.classes)

    def as_dict(self) -> dict[str, Any]:
        classes = dict(self.classes.most_common())
        return {"words": self.words.as_dict(), "characters": self.characters.as_dict(), "classes": classes}


@functools.lru_cache(1 << 16)
def character_class(character: str) -> str:
    """A letter's script, or "digits", "punctuation" and so on; letters that scripts share are "other"."""
    category = unicodedata.category(character)
    if category[0] in "LM":
        return script_of(character) or "other"
    if category.startswith("Z") or character == "\t":
        return "white space"
    return {"N": "digits", "P": "punctuation", "S": "symbols"}.get(category[0], "other")


def scripts_of(classes: Counter[str]) -> tuple[str, ...]:
    """The scripts that text is written in: those of 5 % of its letters or more, the most frequent first."""
    letters = Counter({name: number for name, number in classes.items() if name in SCRIPTS})
    return tuple(name for name, number in letters.most_common() if number >= letters.total() / 20)


@dataclass
class PairStats:
    """Of one source, or of several together."""

    pairs: int = 0
    copies: int = 0  # both sides the same, not blank
    src: SideStats = field(default_factory=SideStats)
    tgt: SideStats = field(default_factory=SideStats)
    ratios: Counter[int] = field(default_factory=Counter)  # target / source characters, by bin; no blank sides
    repeats: dict[Repeats, int] = field(default_factory=dict)  # of an earlier line, also of another source of the part
    suspects: CleanReport = field(default_factory=CleanReport)  # a pair counts for each rule that it breaks

    def add(self, pairs: Sequence[SentencePair]) -> None:
        self.pairs += len(pairs)
        self.src.add([pair.src for pair in pairs])
        self.tgt.add([pair.tgt for pair in pairs])
        both = [pair for pair in pairs if pair.src and pair.tgt]
        self.copies += sum(pair.src == pair.tgt for pair in both)
        self.ratios.update(ratio_bin(len(pair.src), len(pair.tgt)) for pair in both)

    def merge(self, other: PairStats) -> None:
        self.pairs += other.pairs
        self.copies += other.copies
        self.src.merge(other.src)
        self.tgt.merge(other.tgt)
        self.ratios.update(other.ratios)
        self.suspects.merge(other.suspects)
        for repeats, number in other.repeats.items():
            self.repeats[repeats] = self.repeats.get(repeats, 0) + number


def ratio_bin(src: int, tgt: int) -> int:
    return max(-_MAX_RATIO_BIN, min(_MAX_RATIO_BIN, round(RATIO_BINS * math.log2(tgt / src))))


@dataclass
class PartStats:
    """Of "train", "valid" or "test"."""

    name: str
    sources: dict[str, PairStats]  # by label
    rules: dict[str, Rule]  # those that were tried, by reason
    places: Places

    @property
    def total(self) -> PairStats:
        total = PairStats()
        for stats in self.sources.values():
            total.merge(stats)
        return total


def collect(data: DataConfig) -> list[PartStats]:
    """The statistics of each part that has sources, in one pass over it.

    Raises:
        InputError: a source that cannot be read.
        RunError: the cache, where keys of pairs wait to be compared, cannot be written.
    """
    return [_part_stats(data, part) for part in PARTS if named_sources(data, part)]


def _part_stats(data: DataConfig, part: str) -> PartStats:
    sources = named_sources(data, part)
    judges = [_Judge(data.clean, source) for source in sources]

    def count(chunk: Chunk) -> tuple[int, PairStats, dict[Repeats, Keys]]:
        pairs = [_stripped(pair) for pair in chunk.readable()]
        stats = PairStats(pairs=len(chunk.src) - len(pairs))  # of the others only their number is told
        stats.add(pairs)
        for place, pair in enumerate(map(_stripped, chunk.pairs()), chunk.first):
            judges[chunk.source].judge(pair, place, stats.suspects)
        return chunk.source, stats, {one: keys_of(pairs, one) for one in REPEATS}

    found = [PairStats() for _ in sources]
    counts: list[int] = []
    num_keys = [0 for _ in sources]
    with workspace(data) as directory:
        files = {one: _KeyFile(directory / f"{number}.keys") for number, one in enumerate(REPEATS)}
        for number, stats, keys in on_all_cores(count, read_chunks(sources, "counting", counts)):
            found[number].merge(stats)
            num_keys[number] += len(keys[REPEATS[0]])
            for one, file in files.items():
                file.add(keys[one])
        for one, file in files.items():
            for stats, repeated in zip(found, file.count_later(directory, num_keys), strict=True):
                stats.repeats[one] = repeated
    labels = [source.label for source in sources]
    return PartStats(
        part,
        dict(zip(labels, found, strict=True)),
        _all_rules(judges),
        Places(labels, counts),
    )


def _stripped(pair: SentencePair) -> SentencePair:
    return SentencePair(pair.src.strip(), pair.tgt.strip())


def _all_rules(judges: Iterable[_Judge]) -> dict[str, Rule]:
    """The same for each source, but for the scripts of its languages."""
    rules: dict[str, Rule] = {}
    for judge in judges:
        for reason, rule in judge.rules.items():
            if reason in rules and isinstance(rule.value, dict):
                rule = rule._replace(value=rules[reason].value | rule.value)
            rules[reason] = rule
    return rules


def keys_of(pairs: Iterable[SentencePair], repeats: Repeats) -> Keys:
    """A key for each pair: equal keys are repeats."""
    kind = repeats.kind
    if repeats.unit == PAIRS:
        keys = [duplicate_key(pair, kind) for pair in pairs]
    elif repeats.unit == SOURCES:
        keys = [text_key(pair.src, kind) for pair in pairs]
    else:
        keys = [text_key(pair.tgt, kind) for pair in pairs]
    return np.array(keys, dtype=np.uint64)


class _KeyFile:
    """Keys in the order in which they come; finders, which have many files open, take them one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.add(np.empty(0, dtype=np.uint64))

    def add(self, keys: Keys) -> None:
        try:
            with open(self._path, "ab") as file:
                keys.tofile(file)
        except OSError as error:
            raise write_error(self._path, error) from error

    def count_later(self, directory: Path, counts: Sequence[int]) -> list[int]:
        """How many keys repeat an earlier one, for each source's number of keys. The file is gone then."""
        finder = DuplicateFinder(directory)
        with open(self._path, "rb") as file:
            while len(keys := np.fromfile(file, dtype=np.uint64, count=_BLOCK)):
                finder.add(keys)
        self._path.unlink()
        occurrences = finder.find()
        ends = list(itertools.accumulate(counts, initial=0))
        return [
            sum(
                int(np.count_nonzero(occurrences[start : min(start + _BLOCK, end)] == LATER))
                for start in range(begin, end, _BLOCK)
            )
            for begin, end in itertools.pairwise(ends)
        ]


class _Judge:
    """Tries every rule on pairs of a source: as data.clean has it, or with its usual value."""

    def __init__(self, configured: CleanConfig, source: NamedSource) -> None:
        self._languages = source.languages
        self.rules: dict[str, Rule] = {}
        for rule in RULES:
            value = getattr(configured, rule.key)
            if value != rule.off:
                rule = rule._replace(value=value, is_configured=True)
            elif rule.key == "scripts":
                rule = rule._replace(value=self._scripts(source))
            if rule.value != rule.off:
                self.rules[rule.reason] = rule
        self._all = configured.model_copy(update={rule.key: rule.value for rule in self.rules.values()})
        check_rules(self._all, *source.languages)
        self._without = functools.cache(self._rules_without)

    @staticmethod
    def _scripts(source: NamedSource) -> dict[str, tuple[str, ...]]:
        """What the beginning of a source is written in."""
        src_lang, tgt_lang = source.languages
        first = next(read_chunks([source], "reading", []), None)
        if first is None:
            return {}
        start = PairStats()
        start.add(list(first.readable()))
        return {src_lang: scripts_of(start.src.classes), tgt_lang: scripts_of(start.tgt.classes)}

    def judge(self, pair: SentencePair, place: int, report: CleanReport) -> None:
        """Count a pair for each rule that it breaks, and as kept where it breaks none."""
        broken: frozenset[str] = frozenset()
        while (reason := clean(pair, self._without(broken), *self._languages).reason) is not None:
            report.count(reason, pair, place)
            broken |= {reason}
            if reason not in self.rules:
                return  # "empty", which leaves nothing to judge
        if not broken:
            report.count(None)

    def _rules_without(self, reasons: frozenset[str]) -> CleanConfig:
        return self._all.model_copy(update={self.rules[reason].key: self.rules[reason].off for reason in reasons})
