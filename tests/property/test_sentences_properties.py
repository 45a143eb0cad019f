"""What `split_line` promises for any line and any limit: nothing is lost, nothing is blank, the limit holds."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.text.sentences import SplitLine, split_line

MARKS = ".!?…。！？；؟۔।,;:、，：–—\"'“”«»„‘’()[]「」【】¿¡-*#$"
LETTERS = "abzßÄ1２éсЯ한나字かｶﾞกำकषعあ"
SPACES = " \t\u00a0\u2028\u202f\u3000\x1c"
JOINING = "\u0301\u0323\u200d\ufe0f\u094d\u093f\u1112\u1161\u11ab\u00ad👩👍🏽🇩🇪\U000e0067\U000e007f"

CHUNKS = (
    'e.g.|Dr.|z. B.|A dog.|ein|Hund|3.|10|etc...|!|?|,|«|» |"| |  |...|- |字。|「字」|です|갔다.|👩\u200d👧|🇩🇪|e\u0301|'
    "\u2028|word word word word word |xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
)

lines = st.one_of(
    st.text(max_size=80),  # all of Unicode
    st.text(alphabet=MARKS + LETTERS + SPACES + JOINING, max_size=80),
    st.lists(st.sampled_from(CHUNKS.split("|")), max_size=30).map("".join),
)


def count_words(text: str) -> int:
    return len(text.split())


def count_bytes(text: str) -> int:
    return len(text.encode())


def count_pairs(text: str) -> int:
    """Like pieces that reach over several characters."""
    return (len(text) + 1) // 2


def count_wildly(text: str) -> int:
    """A longer text may have fewer tokens."""
    return zlib.crc32(text.encode()) % 8


counters = st.sampled_from([count_words, len, count_bytes, count_pairs, count_wildly])


def split(line: str, count: Callable[[str], int], max_tokens: int) -> SplitLine:
    def count_all(texts: list[str]) -> list[int]:
        assert texts and all(texts)
        return [count(text) for text in texts]

    return split_line(line, count_all, max_tokens)


@given(lines, counters, st.integers(1, 20))
def test_texts_and_gaps_are_the_line(line: str, count: Callable[[str], int], max_tokens: int) -> None:
    done = split(line, count, max_tokens)
    assert done.lead + "".join(text + gap for text, gap in done.parts) == line
    assert done.join([part.text for part in done.parts]) == line
    assert done.lead.strip() == ""
    assert all(part.gap.strip() == "" for part in done.parts)
    assert (done.parts == []) == (line.strip() == "")


@given(lines, counters, st.integers(1, 20))
def test_no_part_is_blank_or_has_white_space_around_it(line: str, count: Callable[[str], int], max_tokens: int) -> None:
    for part in split(line, count, max_tokens).parts:
        assert part.text == part.text.strip() != ""


@given(lines, counters, st.integers(0, 20))
def test_the_limit_holds_for_all_but_single_code_points(
    line: str, count: Callable[[str], int], max_tokens: int
) -> None:
    for part in split(line, count, max_tokens).parts:
        assert count(part.text) <= max_tokens or len(part.text) == 1


@given(lines, st.integers(1, 20))
def test_a_word_is_cut_only_where_it_is_too_long(line: str, max_tokens: int) -> None:
    """Of text without the marks that need no white space behind them."""
    line = "".join(character for character in line if character not in "!?。｡！？；؟۔।॥။។።։、､，：")
    words = line.split()
    cut = [part.text for part in split(line, len, max_tokens).parts]
    kept = [word for word in words if len(word) <= max_tokens]
    found = [word for text in cut for word in text.split()]
    # Words that fit are found whole, in order.
    position = 0
    for word in kept:
        position = found.index(word, position) + 1


@given(lines, st.integers(1, 12))
def test_neighbours_that_were_cut_between_words_would_not_fit_together(line: str, max_tokens: int) -> None:
    """Without any marks, pieces are as long as they can be."""
    line = " ".join(word for word in line.split() if word.isalnum())
    parts = split(line, count_words, max_tokens).parts
    assert [count_words(part.text) for part in parts[:-1]] == [max_tokens] * (len(parts) - 1)


CHARACTERS = [
    *"aß字か한कعก1👩",
    *[
        "e\u0301",
        "e\u0301\u0323",
        "\u1112\u1161\u11ab",
        "\u1112\u1161",
        "가\u11ab",
        "कि",
        "क्षि",
        "क्",
        "น้ำ",
        "ｶﾞ",
        "か\u3099",
    ],
    *[
        "👩\u200d👩\u200d👧",
        "👍🏽",
        "❤\ufe0f",
        "🏴\U000e0067\U000e0062\U000e007f",
        "🇩🇪",
        "🇫🇷",
        "a\u00ad",
        "1\ufe0f\u20e3",
    ],
]


@given(st.lists(st.sampled_from(CHARACTERS), max_size=40).map("".join), st.integers(1, 20))
def test_characters_as_readers_see_them_stay_whole(line: str, max_tokens: int) -> None:
    """Against annex 29 as the `regex` package has it: every cut is between characters, or in one that is too long."""
    regex = pytest.importorskip("regex")
    size_around = {
        position: found.end() - found.start()
        for found in regex.finditer(r"\X", line)
        for position in range(found.start() + 1, found.end())
    }
    position = 0
    for part in split(line, len, max_tokens).parts[:-1]:
        position += len(part.text)
        assert position not in size_around or size_around[position] > max_tokens
