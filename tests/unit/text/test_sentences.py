"""Where lines of several languages are cut and where they are not, and what becomes of a sentence that is too long."""

from __future__ import annotations

import pytest

from transformer_mt.text.sentences import CountTokens, Part, SplitLine, split_line
from transformer_mt.text.tokenizer import Tokenizers


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def split_words(line: str, max_tokens: int) -> list[str]:
    return checked(line, split_line(line, words, max_tokens))


def split_characters(line: str, max_tokens: int) -> list[str]:
    return checked(line, split_line(line, characters, max_tokens))


def sentences(line: str) -> list[str]:
    """The parts of a line that only as a whole is too long."""
    return checked(line, split_line(line, lambda texts: [1 + (text == line) for text in texts], 1))


def checked(line: str, split: SplitLine) -> list[str]:
    assert split.lead + "".join(text + gap for text, gap in split.parts) == line
    return [part.text for part in split.parts]


@pytest.mark.parametrize(
    "expected",
    [
        # English
        ["A dog runs.", "A man sits!", "Who is it?", "Nobody knows…", "The end."],
        ['He said "Stop!"', '"Why?"', "(Nobody answered.)", "[So he left.]", "And that’s it."],
        ["Dr. Smith met Mr. and Mrs. J. R. R. Tolkien in the U.S. Capitol at 3.5 km.", "They left at 10:30."],
        [
            "Bring fruit, e.g. apples, i.e. something sweet... or nothing at all.",
            "See No. 5, Fig. 2 and Jan. 2025.",
            "OK.",
        ],
        ["Did he say no.", "Yes.", "No.", "Yes.", "5 of them did.", "$5 is enough."],
        ["Approx. 5 dogs ran.", "Cf. Smith."],
        ["“Really?” he asked.", "‘Stop!’ – she cried.", "“Well...” and he left."],
        ["Version 2.0.1 of example.com/a.b?c=d is out.", "Nice."],
        ["1. Introduction.", "It begins.", "2. The end"],
        ["* Item one.", "* Item two.", "- Item three."],
        ["... And so on.", "OK! ...", "¡Attention!!!", "Wait?!", "WHAT..?", "Yes."],
        ["Great! 👍 Thanks. 🎉🎉", "Bye."],
        # German
        ["Am 3. Mai kam er an.", "Prof. Müller und Hr. Weiß waren z. B. am 24.12. geschlossen.", "Schade."],
        ["Vgl. Müller.", "Ca. 5 Hunde."],
        ["Er sagte: „Komm her!“", "»Nein.«", "Dann ging er, bzw. er fuhr.", "Über 1.000,5 Meter!"],
        # French, with its spaces before marks, no-break ones too
        ["Bonjour !", "Ça va ?", "« Oui ! »", "Il dit : « Non. »", "Elle part."],
        ["Quoi\u202f?", "«\u00a0Rien\u00a0!\u00a0»", "M. Dupont rit.", "— Vraiment ? dit-il.", "École fermée."],
        # Spanish, Russian
        ["¿Qué pasa?", "¡Nada!", "Ángel vive en la pág. 5."],
        ["Он ушёл.", "А. С. Пушкин родился в Москве.", "«Стой!» — сказал он.", "Да."],
        # Korean: a syllable is a word, and a word in lower case is a foreign one
        ["그는 집에 갔다.", "네.", "알겠습니다!", "정말?", "list를 돌려줍니다.", "string은 문자열입니다."],
        # Arabic, Urdu, Hindi
        ["مرحبا بكم.", "كيف حالك؟", "أنا بخير، شكرا."],
        ["وہ گھر گیا۔", "وہ سو گیا۔"],
        ["वह घर गया।", "क्या वह सो गया?", "हाँ।"],
        # Tokenised and in lower case
        ["a dog runs .", "a man sits .", "then . . . they left ."],
        ["A dog runs .", "What ?", "No ! ! !", 'He said : " Come . "', "She came ."],
    ],
)
def test_sentences_between_white_space(expected: list[str]) -> None:
    assert sentences(" ".join(expected)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        # Chinese
        ["你好。", "再见！", "什么？！", "真的……是吗？", "我喜欢；", "你不喜欢；", "完。"],
        ["“什么？”", "他说：“走吧。”", "“好。”", "（他走了。）", "再见。"],
        ["好吗?", "好!", "版本３．５很好。", "iPhone也好。", "OK"],
        # Japanese
        ["「行こう。」と言った。", "「はい。」", "そうですか？", "『本』です｡", "ﾊｲ。"],
        # Hindi, Urdu and Arabic without the white space
        ["वह घर गया।", "और सो गया।"],
        ["كيف حالك؟", "بخير"],
    ],
)
def test_sentences_without_white_space(expected: list[str]) -> None:
    line = "".join(expected)
    assert split_characters(line, len(line) - 1) == expected


def test_a_line_that_fits_is_one_part() -> None:
    assert split_line(" One. Two. \t", words, 2) == SplitLine(" ", [Part("One. Two.", " \t")])


@pytest.mark.parametrize("line", ["", " ", "\u2028\u00a0\t"])
def test_a_blank_line_has_no_parts(line: str) -> None:
    assert split_line(line, words, 5) == SplitLine(line, [])
    assert split_line(line, words, 5).join([]) == line


def test_white_space_is_kept_as_it_stands() -> None:
    line = "\u3000 One dog.  \u2028Two\u00a0dogs.\u00a0\tThree dogs.\x0b"
    split = split_line(line, words, 2)
    assert split.lead == "\u3000 "
    assert split.parts == [
        Part("One dog.", "  \u2028"),
        Part("Two\u00a0dogs.", "\u00a0\t"),
        Part("Three dogs.", "\x0b"),
    ]
    assert split.join(["Ein Hund.", "Zwei Hunde.", ""]) == "\u3000 Ein Hund.  \u2028Zwei Hunde.\u00a0\t\x0b"


def test_short_sentences_are_not_put_together() -> None:
    assert split_words("Yes. No. One two three four. Maybe.", 5) == ["Yes.", "No.", "One two three four.", "Maybe."]


def test_a_long_sentence_is_cut_at_the_last_weak_mark_that_fits() -> None:
    line = "One two, three four; five six: seven eight nine (ten), eleven 12,5 twelve – thirteen fourteen. Short, one."
    assert split_words(line, 7) == [
        "One two, three four; five six:",
        "seven eight nine (ten),",
        "eleven 12,5 twelve – thirteen fourteen.",
        "Short, one.",
    ]


def test_a_sentence_end_in_doubt_is_a_weak_mark_but_an_abbreviation_is_none() -> None:
    assert split_words("he went home. then he slept e.g. here or there! and he woke up", 6) == [
        "he went home.",
        "then he slept e.g. here or",
        "there! and he woke up",
    ]


def test_weak_marks_without_white_space() -> None:
    assert split_characters("他喜欢苹果，也喜欢梨、香蕉，１，０００个：都好", 8) == [
        "他喜欢苹果，",
        "也喜欢梨、香蕉，",
        "１，０００个：",
        "都好",
    ]
    assert split_words("أنا بخير، شكرا لك؛ وأنت كيف حالك", 3) == ["أنا بخير،", "شكرا لك؛", "وأنت كيف حالك"]


def test_then_at_white_space_as_late_as_it_may() -> None:
    line = " ".join(f"w{i}" for i in range(1003))
    parts = split_words(line, 10)
    assert words(parts) == [10] * 100 + [3]


def test_white_space_beside_a_mark_and_no_break_spaces_are_second_choice() -> None:
    assert split_words("one two three four !", 4) == ["one two three", "four !"]
    assert split_words("one two three ( four five", 4) == ["one two three", "( four five"]
    assert split_words("one two 100\u00a0km 200\u00a0km", 3) == ["one two", "100\u00a0km", "200\u00a0km"]
    assert split_words("one\u00a0two\u00a0three\u00a0four", 3) == ["one\u00a0two\u00a0three", "four"]


def test_then_between_characters() -> None:
    assert split_characters("a" * 10_005, 10) == ["a" * 10] * 1000 + ["a" * 5]
    # Only the word that is too long is cut, and what fits behind it stays together.
    assert split_characters("ab cdefghijkl mn op", 5) == ["ab", "cdefg", "hijkl", "mn op"]


@pytest.mark.parametrize(
    "whole",
    [
        "e\u0301\u0323",  # marks
        "\u1112\u1161\u11ab",  # 한 in three letters
        "क्षि",  # two consonants joined by a virama, and a vowel sign
        "น้ำ",
        "ｶﾞ",
        "👩\u200d👩\u200d👧",  # joiners
        "👍🏽",  # skin tone
        "❤\ufe0f",
        "🏴\U000e0067\U000e0062\U000e007f",  # tags
        "🇩🇪",
        "co\u00adop"[1:3],  # a soft hyphen
    ],
)
def test_characters_of_several_code_points_stay_whole(whole: str) -> None:
    size = len(whole)
    for limit in range(size, 2 * size):
        assert split_characters(whole * 50, limit) == [whole] * 50
    assert split_characters("x" + whole * 50, 2 * size) == ["x" + whole, *[whole * 2] * 24, whole]
    # A limit below even that: nothing is whole, but the limit holds.
    assert max(characters(split_characters(whole * 3, size - 1))) <= size - 1


def test_a_code_point_with_more_tokens_than_allowed_is_a_part_by_itself() -> None:
    def in_bytes(texts: list[str]) -> list[int]:
        return [len(text.encode()) for text in texts]

    assert checked("ab字c👍", split_line("ab字c👍", in_bytes, 2)) == ["ab", "字", "c", "👍"]


def test_join_adds_the_space_that_a_spaced_language_needs() -> None:
    split = split_line("你好。再见，朋友！", characters, 5)
    assert [part.text for part in split.parts] == ["你好。", "再见，", "朋友！"]
    assert split.join(["Hello.", "Bye,", "friend!"]) == "Hello. Bye, friend!"
    assert split.join(["こんにちは。", "また、", "友よ！"]) == "こんにちは。また、友よ！"
    assert split.join(["Hello.", "", "friend!"]) == "Hello.friend!"
    assert split.join(["你好。", "再见，", "朋友！"]) == "你好。再见，朋友！"
    assert split_line("वह गया।और", characters, 8).join(["He went.", "And"]) == "He went. And"
    # A word cut in two has no space in it afterwards.
    assert split_line("abcdef", characters, 3).join(["xyz", "uvw"]) == "xyzuvw"
    with pytest.raises(ValueError):
        split.join(["Hello."])


def test_where_texts_begin_in_the_joined_line() -> None:
    split = split_line("  你好。再见，朋友！  Bye. ", characters, 4)
    for texts in (["Hello.", "Bye,", "", "再见。"], [part.text for part in split.parts]):
        line, starts = split.join(texts), split.starts(texts)
        assert [line[start : start + len(text)] for start, text in zip(starts, texts, strict=True)] == texts
        assert starts == sorted(starts) and starts[0] == 2
    assert SplitLine(" ", []).starts([]) == []


def test_with_a_real_tokenizer(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizers.src.encode(texts)]

    lines = grammar_lines[:100]
    text = " ".join(line if line.endswith(".") else line + "." for line in lines)
    longest = max(count(text.split(". ")))
    parts = checked(text, split_line(text, count, longest + 2))
    assert len(parts) >= len(lines)
    joined = text.replace(" ", "").replace(".", "")
    parts = checked(joined, split_line(joined, count, 20))
    assert max(count(parts)) <= 20
    assert sum(count(parts)) / len(parts) > 17


@pytest.mark.parametrize(
    "unit",
    [
        "word ",
        "Ein Satz. ",
        "a, ",
        "字",
        "字。",
        "字，",
        "x",
        "! ",
        "!)",
        "- ",
        '. " ',
        ". (",
        "a. ",
        "🇩",
        "\u0301",
        "a" + " " * 50,
    ],
)
@pytest.mark.parametrize("count", [words, characters])
def test_what_is_counted_grows_with_the_line_only(unit: str, count: CountTokens) -> None:
    """Without a clock: how many characters the tokenizer sees, at two sizes of line."""

    def seen(num_units: int) -> int:
        total = 0

        def counting(texts: list[str]) -> list[int]:
            nonlocal total
            total += sum(map(len, texts))
            return count(texts)

        split_line("x" + unit * num_units, counting, 60)
        return total

    small = seen(2000)
    assert seen(8000) < 5 * small
    assert small < 20 * 2000 * len(unit)
