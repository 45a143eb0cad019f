"""Words of pieces: in scripts with spaces and without, spelled by bytes, between symbols."""

from __future__ import annotations

import pytest

from transformer_mt.text.words import word_numbers, words_of

SYMBOLS = {"<2de>", "<s>", "</s>"}
MAN = [f"<0x{byte:02X}>" for byte in "만".encode()]
HORSE = [f"<0x{byte:02X}>" for byte in "馬".encode()]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ("▁A ▁dog ▁run s . </s>", "A|dog|run s .|</s>"),
        ("<2de> ▁A ▁dog", "<2de>|A|dog"),
        ("<s> ▁Ein", "<s>|Ein"),
        ("a dog", "a dog"),  # a model without the space before the first word, and pieces that follow each other
        ("<s> a dog </s>", "<s>|a dog|</s>"),
        ("▁ dog ▁ cat", "▁ dog|▁ cat"),  # a space that is a piece by itself
        ("▁ ▁dog", "▁|dog"),
        ("▁ <unk> ▁a <unk>", "▁ <unk>|a <unk>"),
        ("▁100 % ▁$ 5 _", "100 %|$ 5 _"),
        ("▁나 는 ▁간다 .", "나 는|간다 ."),
        ("▁我们 喜欢 Py thon ， 真的 。", "我们|喜欢|Py thon|，|真的|。"),
        ("▁ 我 爱 你", "▁ 我|爱|你"),
        ("▁น ้ำ", "น ้ำ"),  # a vowel sign does not stand alone
        (f"▁a {' '.join(MAN)} b", f"a {' '.join(MAN)} b"),
        (f"▁我 {' '.join(HORSE)} {' '.join(HORSE)} 。", f"我|{' '.join(HORSE)}|{' '.join(HORSE)}|。"),
        (f"▁ {' '.join(MAN[:2])} ▁b", f"▁ {' '.join(MAN[:2])}|b"),  # half a character
        ("▁a <0x41> <0xC3> </s>", "a <0x41> <0xC3>|</s>"),
        ("", ""),
    ],
)
def test_each_piece_is_in_one_word(pieces: str, words: str) -> None:
    listed = pieces.split()
    found = words_of(listed, SYMBOLS)
    assert [number for word in found for number in word.pieces] == list(range(len(listed)))
    parts = [" ".join(listed[number] for number in word.pieces) for word in found]
    assert [part.removeprefix("▁") or part for part in parts] == [
        part.removeprefix("▁") or part for part in words.split("|") if part
    ]


def test_words_are_written_as_people_write_them() -> None:
    pieces = ["<s>", "▁", *MAN, "나", "▁dog", "s", *MAN[:1], "▁", "</s>"]
    assert [word.text for word in words_of(pieces, SYMBOLS)] == ["<s>", "만나", "dogs�", "▁", "</s>"]


def test_words_between_white_space_by_their_places() -> None:
    """What a word has in front of it is its own; behind the last there is no other."""
    text = "  ab c\u00a0你好 \t d  "
    #       01 2345     678 9 0 1 2
    starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert word_numbers(text, starts) == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert word_numbers(" ", [0, 1]) == [0, 0]
