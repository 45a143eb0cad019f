"""Each kind of output by hand-made examples and by the nearest ones that are not of it; nothing but counts is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.evaluation import output_checks
from transformer_mt.evaluation.output_checks import OutputStats, is_copy
from transformer_mt.text import loops
from transformer_mt.text.loops import has_loop
from transformer_mt.text.scripts import UNSPACED_CHARACTER, WORD


@pytest.mark.parametrize(
    "text",
    [
        "no no no no",
        "No, no, NO, no!",
        "He said that he said that he said that he said that he left.",
        "a man in a man in a man in a man in",
        "of the city of the city of the city of the city",  # the period is three words
        "one two three four " * 4,
        "the end . . . . . . .",
        "2010 2010 2010 2010",
        "그는 갔다 그는 갔다 그는 갔다 그는 갔다",
        "वह गया वह गया वह गया वह गया",
        "好的好的好的好的",
        "我喜欢我喜欢我喜欢我喜欢你",
        "这是一个很好的这是一个很好的这是一个很好的这是一个很好的",  # seven characters
        "哈哈哈哈哈哈哈哈",
        "ですですですです。",
        "ไปไปไปไปไป",
        "我 说 我 说 我 说 我 说 ok",  # Chinese in single characters, as tokenised text has it
        "我 like 我 like 我 like 我 like",
    ],
)
def test_loops(text: str) -> None:
    assert has_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "no",
        "no no",
        "no no no",
        "No, no, no, I said no.",
        "that he said that he said that he left",
        "one two three four " * 3 + "one two three",
        "one two three four five " * 6,  # five words are no n-gram of ours
        "1 2 3 4 1 2 5 6 1 2 7 8 1 2 9 0",
        "10.0 10.1 10.2 10.3 10.4 10.5",
        "| 1 | 2 | 3 | 4 | 5 |",
        ". ; ! ?",
        "का की के को का की के को",  # a vowel sign makes the word
        "aaaaaaaaaaaaaaaa hahahahahaha ........",  # one word each
        "哈哈哈哈",
        "谢谢谢谢",
        "好的好的好的",
        "一二三四五六七八九" * 5,  # nine characters
        "人人为我，我为人人",
        "ㅋㅋㅋㅋㅋㅋㅋㅋ",
        "もももももももか",  # seven of the same
    ],
)
def test_near_misses_are_no_loops(text: str) -> None:
    assert not has_loop(text)


@pytest.mark.parametrize("text", ["no " * 6, "one two three four " * 6, "好的" * 6, "哈" * 8])
def test_number_of_repeats_is_the_callers(text: str) -> None:
    number = 8 if text[0] == "哈" else 6
    assert has_loop(text, number)
    assert not has_loop(text, number + 1)


def has_loop_unit_by_unit(text: str, min_repeats: int) -> bool:
    """The slow twin: every unit is compared with the one a period before, and equal ones in a row are counted."""
    units = [unit.strip(loops._PUNCTUATION) or unit for unit in WORD.findall(text.casefold())]
    for period in range(1, loops.MAX_LOOP_CHARACTERS + 1):
        length = period
        for i in range(period, len(units)):
            length = length + 1 if units[i] == units[i - period] else period
            if length >= min_repeats * period:
                if not all(UNSPACED_CHARACTER.match(unit) for unit in units[i - period + 1 : i + 1]):
                    if period <= loops.MAX_LOOP_WORDS:
                        return True
                elif length >= loops.MIN_CHARACTERS:
                    return True
    return False


loop_units = st.lists(st.sampled_from(["a ", "A, ", ". ", "; ", "的", "好", "好 ", "。", "b"]), max_size=10).map(
    "".join
)


@given(loop_units, loop_units, st.integers(0, 6), loop_units, st.integers(2, 6))
def test_loops_are_found_as_unit_by_unit(before: str, repeated: str, times: int, after: str, min_repeats: int) -> None:
    text = before + repeated * times + after
    assert has_loop(text, min_repeats) == has_loop_unit_by_unit(text, min_repeats)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("Ein Hund.", "Ein Hund."),
        ("Ein Hund.", " ein  HUND. "),
        ("STRASSE", "straße"),
        ("你好", "你好"),
        ("Was?\u00a0Wo?", "Was? Wo?"),
        ("x = 3", "x = 3"),
    ],
)
def test_copies(source: str, output: str) -> None:
    assert is_copy(source, output)


@pytest.mark.parametrize(
    ("source", "output"),
    [("Ein Hund.", "Ein Hund"), ("12 345", "12 345"), ("...", "..."), ("", ""), ("你好", "您好"), ("Hund", "Hunde")],
)
def test_numbers_marks_and_other_words_are_no_copies(source: str, output: str) -> None:
    assert not is_copy(source, output)


def test_each_kind_is_counted_by_itself() -> None:
    stats = OutputStats()
    stats.count("Ein Hund.", "A dog.", 4, 5)
    stats.count("Eine Katze.", " \u3000", 5, 0)
    stats.count("Nur das.", "only that only that only that only that", 4, 9)
    stats.count("Berlin", "Berlin", 2, 2)
    stats.count("Ja.", "Yes, this is a long one.", 3, 17)
    stats.count(" \t", "", 0, 0)
    assert (stats.num_translations, stats.num_blank) == (5, 1)
    assert (stats.num_empty, stats.num_looping, stats.num_copied, stats.num_too_long) == (1, 1, 1, 1)
    assert (stats.num_source_tokens, stats.num_target_tokens) == (18, 33)
    assert stats.num_alike == 0


def test_an_output_may_be_of_several_kinds() -> None:
    stats = OutputStats()
    stats.count("Ja", "ja ja ja ja ja", 1, 60, hit_limit=True)
    assert (stats.num_looping, stats.num_too_long, stats.num_translations) == (1, 1, 1)


def test_a_loop_that_the_source_has_is_no_fault_of_the_output() -> None:
    stats = OutputStats()
    stats.count("0 0 0 0 0", "0 0 0 0 0", 5, 5)
    stats.count("哈哈哈哈哈哈哈哈！", "ha ha ha ha ha", 9, 5)
    stats.count("| 0 | 0 | 0 | 0 |", "| 0 | 0 | 0 | 0 |", 9, 9)
    stats.count("0 0 0", "0 0 0 0 0 0", 3, 6)
    assert stats.num_looping == 1


@pytest.mark.parametrize(("num_target_tokens", "expected"), [(20, 0), (21, 1)])
def test_too_long_is_more_than_twice_the_source_and_ten(num_target_tokens: int, expected: int) -> None:
    stats = OutputStats()
    stats.count("a b c d e", "f g", 5, num_target_tokens)
    assert stats.num_too_long == expected


def test_length_limit_is_too_long_whatever_the_length() -> None:
    stats = OutputStats()
    stats.count("a b c d e", "f g", 5, 6, hit_limit=True)
    assert stats.num_too_long == 1


def test_alike_counts_different_sources() -> None:
    stats = OutputStats()
    for source in ("Ja.", "Ja.", " Ja. ", "Jawohl."):
        stats.count(source, "Yes.", 2, 2)
    for source in ("Nein.", "Nö.", "Nicht doch."):
        stats.count(source, " No. ", 2, 2)
    for i in range(10):
        stats.count(f"Satz {i}.", "", 2, 0)  # these are empty already
    assert (stats.num_alike, stats.most_frequent, stats.num_sources) == (3, "No.", 15)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_checks, "MAX_SOURCES", 3)
    stats = OutputStats()
    for i in range(10):
        stats.count(f"{i}.", "x" if i > 1 else f"{i}!", 2, 2)
    assert (stats.num_translations, stats.num_sources, stats.num_alike) == (10, 3, 0)
    assert len(stats._frequencies) == 3


def test_format_has_throughput_kinds_and_the_most_frequent() -> None:
    stats = OutputStats()
    for i in range(1000):
        stats.count(f"Satz {i}.", "Yes." if i < 15 else f"Sentence {i}." if i < 999 else "", 12, 10)
    stats.count("", "", 0, 0)
    assert stats.format(seconds=8.0).splitlines() == [
        "1,000 translations (blank lines left out: 1) in 8.0 s: "
        "125.0 sentences/s, 1,500 source and 1,250 target tokens/s",
        "1 (0.1%) empty, 0 (0.0%) looping, 0 (0.0%) copied from the source, 0 (0.0%) too long",
        "most frequent: 15 (1.5%) of the different sources gave 'Yes.'",
    ]


def test_format_of_nothing_and_of_no_time() -> None:
    assert OutputStats().format(seconds=0.0).splitlines() == [
        "0 translations in 0.0 s",
        "0 (0.0%) empty, 0 (0.0%) looping, 0 (0.0%) copied from the source, 0 (0.0%) too long",
        "most frequent: no two sources gave the same",
    ]


def test_a_long_frequent_output_stays_on_one_short_line() -> None:
    stats = OutputStats()
    for source in "ab":
        stats.count(source, "\x1b[2J" + "long\u2028" * 50, 1, 1)
    line = stats.format(seconds=1.0).splitlines()[2]
    assert len(line) < 130
    assert line.endswith("…'")
    assert line.isprintable()
