"""Statistics of parallel text against counting by hand, and the page that shows them."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
from harness import write
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.config.data_sections import CleanConfig, DataConfig, SourceConfig
from transformer_mt.curation.charts import nice_ceiling
from transformer_mt.curation.common import format_table, share
from transformer_mt.curation.page import render_page
from transformer_mt.curation.stats import (
    REPEATS,
    RULES,
    Lengths,
    PairStats,
    PartStats,
    Repeats,
    character_class,
    collect,
    ratio_bin,
    rounded_length,
)
from transformer_mt.curation.summary import as_dict, format_summary
from transformer_mt.data.cleaning import clean
from transformer_mt.data.sentence_pair import SentencePair

Pairs = Sequence[tuple[str, str]]

DEFAULT = CleanConfig()
OFF = dict(drop_identical=False, max_chars=None)


def corpus(directory: Path, *sources: Pairs, clean: CleanConfig = DEFAULT) -> DataConfig:
    """A training part of these sources."""
    train = []
    for number, pairs in enumerate(sources):
        src = write(directory / f"{number}.en", [src for src, _ in pairs])
        tgt = write(directory / f"{number}.ko", [tgt for _, tgt in pairs])
        train.append(SourceConfig(src=str(src), tgt=str(tgt)))
    cache = str(directory / "cache")
    return DataConfig(src_lang="en", tgt_lang="ko", train=tuple(train), clean=clean, cache_dir=cache)


def stats_of(directory: Path, *sources: Pairs, clean: CleanConfig = DEFAULT) -> PartStats:
    with patch("transformer_mt.system.processes.num_cores", return_value=1):
        [part] = collect(corpus(directory, *sources, clean=clean))
    return part


@given(st.integers(0, 10**9))
def test_rounded_length_is_right_to_one_percent(length: int) -> None:
    rounded = rounded_length(length)
    assert rounded <= length < rounded * 1.01 + 1
    assert len(str(rounded).rstrip("0")) <= 3


@given(st.lists(st.integers(0, 3000), min_size=1), st.integers(1, 5))
def test_percentiles_are_nearest_ranks_however_the_lines_come(lengths: list[int], num_parts: int) -> None:
    found = Lengths()
    for start in range(num_parts):
        part = Lengths()
        part.add(lengths[start::num_parts])
        found.merge(part)
    for percent in (1, 5, 50, 95, 99, 99.5, 100):
        rank = math.ceil(percent / 100 * len(lengths))
        assert found.percentile(percent) == rounded_length(sorted(lengths)[rank - 1])
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))
    assert found.longest == max(lengths)


def test_lengths_of_nothing() -> None:
    assert (Lengths().mean, Lengths().percentile(50), Lengths().longest) == (0, 0, 0)


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        ("aßÅＡªﬁ", "Latin"),
        ("한ㅎ", "Hangul"),
        ("漢々", "Han"),
        ("かー", None),
        ("Жж", "Cyrillic"),
        ("0٣½", "digits"),
        (".,—「", "punctuation"),
        ("+€©", "symbols"),
        (" \t\u00a0\u2028\u3000", "white space"),
        ("\u0301\x07\ufeff\ue000", "other"),
    ],
)
def test_kinds_of_characters(characters: str, expected: str | None) -> None:
    found = {character_class(character) for character in characters}
    assert found == ({expected} if expected else {"Hiragana", "Katakana"})


def test_counts_of_a_small_corpus(tmp_path: Path) -> None:
    part = stats_of(tmp_path, [("  A dog. ", "개 한 마리."), ("A dog.", "개"), ("OK", "OK"), ("", "빈 줄")])
    total = part.total
    assert (total.pairs, total.copies) == (4, 1)
    assert (total.src.words.total, total.src.characters.total) == (5, 6 + 6 + 2)
    assert (total.tgt.words.total, total.tgt.characters.total) == (3 + 1 + 1 + 2, 7 + 1 + 2 + 3)
    assert total.src.classes == {"Latin": 10, "white space": 2, "punctuation": 2}
    assert total.tgt.classes == {"Hangul": 4 + 1 + 2, "white space": 3, "punctuation": 1, "Latin": 2}
    assert total.ratios == {ratio_bin(6, 7): 1, ratio_bin(6, 1): 1, 0: 1}  # no blank side
    assert total.repeats[Repeats("source sides", "exact")] == 1
    assert total.suspects.rejected["empty"] == 1
    assert part.places.describe(3) == "train.0, line 4"


@pytest.mark.parametrize(("src", "tgt", "expected"), [(8, 8, 0), (8, 16, 8), (16, 8, -8), (1, 10**6, 32), (9, 1, -25)])
def test_bins_of_ratios_are_eighths_of_octaves(src: int, tgt: int, expected: int) -> None:
    assert ratio_bin(src, tgt) == expected


def near(text: str) -> str:
    return "".join(character.lower() for character in text if character.isalpha()) or text.strip()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_repeats_are_those_of_a_set(tmp_path: Path, seed: int) -> None:
    """Of the second source also what stands in the first."""
    draw = random.Random(seed)

    def side() -> str:
        return "".join(draw.choices("aAbc가나.! ", k=draw.randint(0, 4)))

    first, second = ([(side(), side()) for _ in range(count)] for count in (150, 250))
    part = stats_of(tmp_path, first, second)
    for one in REPEATS:
        change = near if one.kind == "near" else str.strip
        seen: set[object] = set()
        for label, pairs in (("train.0", first), ("train.1", second)):
            expected = 0
            for src, tgt in pairs:
                key = {"pairs": (change(src), change(tgt)), "source sides": change(src)}.get(one.unit, change(tgt))
                expected += key in seen
                seen.add(key)
            assert part.sources[label].repeats[one] == expected, one


def test_a_pair_counts_for_each_rule_that_it_breaks(tmp_path: Path) -> None:
    sides = [
        "a dog",
        "<b>a dog</b>",
        "7 dogs",
        "x" * 120,
        "개 한 마리",
        "",
        "a\x07",
        "go " * 9,
        "see www.tmt.org",
        "z" * 3001,
    ]
    pairs = [(src, tgt) for src in sides for tgt in sides]
    part = stats_of(tmp_path, pairs)
    assert {rule.key for rule in RULES} - {rule.key for rule in part.rules.values()} == {"min_language_probability"}
    broken = [set[str]() for _ in pairs]
    for rule in part.rules.values():
        alone = CleanConfig(**{**OFF, rule.key: rule.value})
        verdicts = [clean(SentencePair(*pair), alone, "en", "ko").reason for pair in pairs]
        assert set(verdicts) <= {None, "empty", rule.reason}
        assert part.total.suspects.rejected.get(rule.reason, 0) == verdicts.count(rule.reason)
        for reasons, verdict in zip(broken, verdicts, strict=True):
            if verdict is not None:
                reasons.add(verdict)
    assert part.total.suspects.kept == broken.count(set())
    assert set(part.total.suspects.rejected) >= part.rules.keys() - {"wrong_script"}  # each has something to do


def test_a_rule_of_the_configuration_has_its_value(tmp_path: Path) -> None:
    pairs = [("four words of text", "두 단어")] * 3
    part = stats_of(tmp_path, pairs, clean=CleanConfig(max_word_ratio=1.5, scripts={"ko": ("Cyrillic",)}))
    assert part.total.suspects.rejected == {"word_ratio": 3, "length_ratio": 3, "wrong_script": 3}
    assert part.rules["word_ratio"].is_configured and part.rules["wrong_script"].is_configured
    assert not part.rules["length_ratio"].is_configured
    assert " * " in next(line for line in format_summary([part]).splitlines() if line.startswith("word_ratio"))


def test_scripts_are_those_of_the_text_the_most_frequent_first(tmp_path: Path) -> None:
    part = stats_of(tmp_path, [("Press OK", "OK를 누르세요")] * 50 + [("Нажмите", "누르세요")])
    assert part.rules["wrong_script"].value == {"en": ("Latin",), "ko": ("Hangul", "Latin")}
    assert part.total.suspects.rejected["wrong_script"] == 1


def test_rules_of_all_sources_are_told(tmp_path: Path) -> None:
    data = corpus(tmp_path, [("yes", "예")], [("yes", "да")])
    russian = data.train[1].model_copy(update={"tgt_lang": "ru"})
    with patch("transformer_mt.system.processes.num_cores", return_value=1):
        [part] = collect(data.model_copy(update={"train": (data.train[0], russian)}))
    assert part.rules["wrong_script"].value == {"en": ("Latin",), "ko": ("Hangul",), "ru": ("Cyrillic",)}
    assert "wrong_script" not in part.total.suspects.rejected


@pytest.mark.parametrize("pairs", [[], [("", "")], [("A dog.", "개")]])
def test_tiny_corpora_have_tables_a_page_and_json(tmp_path: Path, pairs: Pairs) -> None:
    parts = [stats_of(tmp_path, pairs)]
    sizes = format_summary(parts).split("copies\n")[1].split("\n")[0]
    assert sizes.split()[:2] == ["train", str(len(pairs))]
    assert json.loads(json.dumps(as_dict(parts)))["train"]["total"]["pairs"] == len(pairs)
    assert_well_formed(render_page(parts, "tiny", CleanConfig()))


def test_the_cache_is_left_empty(tmp_path: Path) -> None:
    stats_of(tmp_path, [("a", "가")] * 3)
    assert list((tmp_path / "cache").iterdir()) == []


class Tags(HTMLParser):
    """Checks that tags close in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_well_formed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_the_page_shows_text_as_text_and_needs_nothing_else(tmp_path: Path) -> None:
    evil = "<script>alert('&amp;')</script>"
    part = stats_of(tmp_path, [(evil, "가"), ("A dog.", "개 한 마리")], [("one", "하나")])
    page = render_page([part], "<b>&", CleanConfig())
    tags = assert_well_formed(page)
    assert not {"script", "b", "img", "link"} & (tags.seen - {"b"})
    assert "&lt;script&gt;alert(&#39;&amp;amp;&#39;)&lt;/script&gt;" in page
    assert "<h1>&lt;b&gt;&amp;</h1>" in page
    assert "://" not in page and "url(" not in page
    assert page.count("<details><summary>train.") == 2


def words_of_page(part: PartStats, clean: CleanConfig) -> str:
    """With one space wherever the page has white space."""
    return re.sub(r"\s+", " ", render_page([part], "limits", clean))


def test_the_page_says_what_a_limit_will_drop(tmp_path: Path) -> None:
    part = stats_of(tmp_path, [("a" * 50, "b" * 49), ("a" * 10, "b" * 50)], clean=CleanConfig(max_chars=49))
    page = words_of_page(part, CleanConfig(max_chars=49))
    assert page.startswith("<!DOCTYPE html>")
    assert "Pairs with a side right of the red line will be dropped: 2 (100.0 %)." in page
    assert "would be dropped by max_char_ratio 3, which is usual but not set: 1 (50.0 %)." in page
    assert 'class="limit dashed"' in page
    page = words_of_page(part, CleanConfig(max_chars=100, max_char_ratio=5))
    assert "No line reaches max_chars 100" in page
    assert "Pairs left or right of the red lines will be dropped by max_char_ratio 5" in page
    assert 'class="limit dashed"' not in page
    assert "No limit is set" in words_of_page(part, CleanConfig(max_chars=None))


@given(st.floats(1e-6, 1e6))
def test_axes_end_at_round_numbers(value: float) -> None:
    assert value <= nice_ceiling(value) * (1 + 1e-9)
    assert nice_ceiling(value) <= 1.5 * value * (1 + 1e-9)


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [
        (0, 0, "0"),
        (0, 7, "0"),
        (1, 10**6, "1 (< 0.01 %)"),
        (4, 1000, "4 (0.40 %)"),
        (1234, 1234, "1,234 (100.0 %)"),
    ],
)
def test_shares(count: int, total: int, expected: str) -> None:
    assert share(count, total) == expected


def test_tables_are_aligned() -> None:
    assert format_table(["", "pairs"], [["train", "1,000"], ["x", "1"]]) == "       pairs\ntrain  1,000\nx          1"


def test_merging_is_counting_all_at_once() -> None:
    pairs = [SentencePair("a b", "가"), SentencePair("c", "나 다"), SentencePair("x", "x")]
    together, merged = PairStats(), PairStats()
    together.add(pairs)
    for pair in pairs:
        one = PairStats()
        one.add([pair])
        merged.merge(one)
    assert merged == together


def test_lines_that_are_too_long_to_be_read_are_only_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.readers.sources.LONGEST_LINE", 100)
    stats = stats_of(tmp_path, [("A dog.", "개"), ("x" * 101, "긴"), ("y" * 102, "긴")])
    total = stats.total
    assert (total.pairs, total.src.words.total, total.src.words.counts.total()) == (3, 2, 1)
    assert set(total.repeats.values()) == {0}
    assert as_dict([stats])["train"]["total"]["suspicious"]["too_long_line"]["pairs"] == 2
    assert "too_long_line" in format_summary([stats])
    (tmp_path / "all").mkdir()
    assert_well_formed(render_page([stats_of(tmp_path / "all", [("x" * 101, "y" * 101)])], "no line", CleanConfig()))
