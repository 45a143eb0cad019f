"""Each rule at its limit and one beyond it, on either side, in several scripts; keys of duplicates; counts and their
examples; nothing is invented."""

from __future__ import annotations

import dataclasses
import importlib
import json
import multiprocessing
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.data.clean_report import MAX_EXAMPLES, CleanReport, Example
from transformer_mt.data.cleaning import Verdict, check_rules, clean
from transformer_mt.data.duplicate_keys import duplicate_key, text_key
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.text import languages
from transformer_mt.text.scripts import SCRIPTS, UNSPACED_CHARACTER, script_of

NO_RULES = CleanConfig(drop_identical=False, max_chars=None, max_char_ratio=None, max_word_chars=None)

# Pieces that the rules look for, so that some rule is broken often and at its edge.
pieces = st.sampled_from(
    [
        *"aé字ж가7٧. \t\x00\u2028\u00a0\u0301\ufffd",
        "1,000",
        "1 000",
        "no no ",
        "好的",
        "<b>",
        "< b",
        "&amp;",
        "x@y.org",
        "www.x.org.",
    ]
)
texts = st.lists(pieces, max_size=12).map("".join)
pairs = st.builds(SentencePair, texts, texts)
codes = st.sampled_from(["en", "zh", "xx"])
rule_sets = st.builds(
    CleanConfig,
    drop_identical=st.booleans(),
    max_chars=st.none() | st.integers(1, 8),
    max_char_ratio=st.none() | st.floats(1, 4),
    max_word_ratio=st.none() | st.floats(1, 4),
    max_word_chars=st.none() | st.integers(1, 6),
    min_number_overlap=st.none() | st.floats(0, 1),
    match_urls=st.booleans(),
    max_repeats=st.none() | st.integers(2, 4),
    scripts=st.sampled_from([{}, {"en": ("Latin",)}, {"en": ("Latin", "Greek"), "zh": ("Han",)}]),
    min_script_share=st.floats(0.1, 1),
    drop_html=st.booleans(),
    drop_control_characters=st.booleans(),
)


def reason(src: str, tgt: str, rules: CleanConfig = NO_RULES, src_lang: str = "en", tgt_lang: str = "en") -> str | None:
    """The reason, which is the same where the sides change places."""
    found = clean(SentencePair(src, tgt), rules, src_lang, tgt_lang).reason
    assert clean(SentencePair(tgt, src), rules, tgt_lang, src_lang).reason == found
    return found


def test_kept_pair_loses_only_the_white_space_around_it() -> None:
    pair = SentencePair(" \tA  dog.\u00a0", "Ein\u2028Hund. \n")
    assert clean(pair, CleanConfig()) == Verdict(SentencePair("A  dog.", "Ein\u2028Hund."), None)


@pytest.mark.parametrize(("src", "tgt"), [("", "Hund"), ("dog", ""), ("", ""), (" \t\u00a0\u3000", "Hund")])
def test_empty_side_is_rejected_without_any_rule(src: str, tgt: str) -> None:
    assert reason(src, tgt) == "empty"


def test_identical_sides_are_kept_unless_asked() -> None:
    assert reason("Berlin", "Berlin", CleanConfig()) is None
    assert reason("Berlin ", " Berlin", CleanConfig(drop_identical=True)) == "identical"
    assert reason("Berlin", "berlin", CleanConfig(drop_identical=True)) is None


@pytest.mark.parametrize(
    ("rules", "at_limit", "beyond", "expected"),
    [
        (CleanConfig(), "x" * 3000, "x" * 3001, "too_long_characters"),
        (CleanConfig(max_chars=4), "字字字字", "字字字字字", "too_long_characters"),
        (CleanConfig(max_char_ratio=2.5), "12345", "123456", "length_ratio"),
        (CleanConfig(max_char_ratio=1.1), "x" * 22, "x" * 23, "length_ratio"),
        (CleanConfig(max_word_chars=3), "abc def", "abc defg", "word_too_long"),
    ],
)
def test_limit_is_kept_and_one_beyond_is_rejected(
    rules: CleanConfig, at_limit: str, beyond: str, expected: str
) -> None:
    other = "ab" if rules.max_char_ratio != 1.1 else "x" * 20
    assert reason(at_limit, other, rules) is None
    assert reason(beyond, other, rules) == expected
    assert reason(beyond, other) is None


@pytest.mark.parametrize("limit", [1.1, 1.15, 1.7, 2.3, 4.35])
def test_ratios_at_the_limit_are_kept_whatever_their_rounding(limit: float) -> None:
    """A hundred times 4.35 is less than 435 in binary."""
    longer = round(limit * 100)
    rules = CleanConfig(max_char_ratio=limit)
    assert reason("x" * 100, "x" * longer, rules) is None
    assert reason("x" * 100, "x" * (longer + 1), rules) == "length_ratio"


@pytest.mark.parametrize(
    ("src", "tgt", "expected"),
    [
        ("one two", "eins zwei drei vier", None),
        ("one two", "eins zwei drei vier fünf", "word_ratio"),
        ("one\u00a0two", "eins  zwei\tdrei\u2028vier", None),
        ("I go to school .", "나는 학교에 간다", None),
        ("I go to school and then to the market .", "나는 학교에 간다", "word_ratio"),
        ("I go to school and then to the market .", "我去学校，然后去市场。", None),  # one word or nine, who knows
        ("I go to school and then to the market .", "ฉันไปโรงเรียนแล้วไปตลาด", None),
        ("I go to school and then to the market .", "学校へ 行く", None),
    ],
)
def test_words_are_compared_where_spaces_part_them(src: str, tgt: str, expected: str | None) -> None:
    assert reason(src, tgt, CleanConfig(max_word_ratio=2)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "a\x1bb",
        "a\x0bb",  # a vertical tab
        "a\rb",
        "a\x7fb",
        "Wait\x85 I know",  # an ellipsis in Windows' encoding
        "it\x92s",
        "stra\ufffde",
        "\ue000 private",
        "private \U000f1234",
        "no character \ufffe",
        "no character \ufdd0",
        "half \ud83d",
    ],
)
def test_control_characters(text: str) -> None:
    assert reason(text, "ok", CleanConfig(drop_control_characters=True)) == "control_characters"
    assert reason(text, "ok") is None


@pytest.mark.parametrize(
    "text",
    [
        "a\tb",
        "a\u00a0b\u2028c\u2009d",
        "می\u200cخواهم",  # Persian needs its non-joiner
        "क्\u200dष",
        "👩\u200d💻",
        "soft\u00adhyphen",
        "\u200fשלום",
        "\ufeffbom",
        "𝔘𝔫𝔦 😀 字 𠀀",
        "\x0b a \x85",  # white space around a side goes
    ],
)
def test_text_without_control_characters(text: str) -> None:
    assert reason(text, "ok", CleanConfig(drop_control_characters=True)) is None


@pytest.mark.parametrize(
    "text",
    [
        "a <b>bold</b> word",
        "closing </p>",
        "line<br/>break",
        "line<br />break",
        'see <a href="x.html">this</a>',
        "see <A HREF=x>this",
        "中文<h1>标题",
        "<!-- hidden",
        "copy the <file> there",
        'open <xliff:g id="n">%d</xliff:g>',
        "AT&amp;T",
        "it&#39;s",
        "it&#x27;s",
        "a&nbsp;b",
        "&Eacute;tat",
    ],
)
def test_html(text: str) -> None:
    assert reason(text, "ok", CleanConfig(drop_html=True)) == "html"
    assert reason(text, "ok") is None


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "a <b and c> d",
        "a<b, c>d",
        "I <3 you",
        "x <- y; y -> z; <>",
        "<john@example.org>",
        "<http://example.org>",
        "AT&T",
        "R&D;",
        "Q&A; M&S; &; &#; &#x;",
        "salt & pepper;",
        "«a» ‹b› 〈c〉",
    ],
)
def test_near_misses_are_no_html(text: str) -> None:
    assert reason(text, "ok", CleanConfig(drop_html=True)) is None


@pytest.mark.parametrize(
    ("src", "tgt", "expected"),
    [
        ("no address", "nichts", None),
        ("See http://example.org/a.", "Siehe http://example.org/a!", None),
        ("See (https://example.org/a/).", "Siehe https://EXAMPLE.org/a", None),
        ("See http://example.org/a", "Siehe http://example.org/b", "url_mismatch"),
        ("See http://example.org/a", "Siehe dort", "url_mismatch"),
        ("Twice: www.x.org, www.x.org", "Einmal: www.x.org", None),
        ("Visit WWW.x.org.", "Besuche www.x.org", None),
        ("Visit http://example.org/q?a=1&b=2#c now", "请访问http://example.org/q?a=1&b=2#c。", None),
        ("Visit http://example.org/", "http://example.org/에서 보세요", None),
        ("Visit http://example.org", "เยี่ยมชม http://example.com", "url_mismatch"),
        ("Write to Ann.Lee+x@mail.example.org.", "Пишите: ann.lee+x@mail.example.org", None),
        ("Write to ann@example.org.", "اكتب إلى bob@example.org", "url_mismatch"),
        ("邮箱ann@example.org。", "Mail: ann@example.org", None),
        ("Visit www.x.org", "www.x.orgı ziyaret edin", None),
        ("meet @ noon, a@b", "um 12 @ Haus", None),
        ("awww.so cute", "süß", None),
        ("and/or, e.g.this, file.txt", "usw.", None),
    ],
)
def test_addresses(src: str, tgt: str, expected: str | None) -> None:
    assert reason(src, tgt, CleanConfig(match_urls=True)) == expected
    assert reason(src, tgt) is None


@pytest.mark.parametrize(
    ("src", "tgt"),
    [
        ("no number", "keine Zahl"),
        ("It costs 1,000.50 dollars.", "Es kostet 1.000,50 Dollar."),
        ("It costs 1,000.50 dollars.", "Cela coûte 1 000,50 dollars."),
        ("It costs 1,000.50 dollars.", "Cela coûte 1\u202f000,50 dollars."),
        ("1,234,567", "1 234 567"),
        ("1'234'567", "1.234.567"),
        ("1,234,567", "12,34,567"),  # India
        ("12,345,678 rupees", "१,२३,४५,६७८ रुपये"),
        ("In 2010, 300 people came.", "2010 300명이 왔다."),
        ("2019年3月5日", "3월 5일 2019년"),
        ("on 5.3.2019", "on 05/03/2019"),
        ("at 10:30", "um 10.30 Uhr"),
        ("15 years", "١٥ سنة"),
        ("page ３０", "หน้า ๓๐"),
        ("007", "7"),
        ("x² and ½", "x"),  # these are no digits
        ("0", "00"),
        ("3 and 5", "5 und 3"),
    ],
)
def test_equal_numbers(src: str, tgt: str) -> None:
    assert reason(src, tgt, CleanConfig(min_number_overlap=1)) is None


@pytest.mark.parametrize(
    ("src", "tgt", "overlap"),
    [
        ("5 dogs", "Hunde", 0),
        ("5 dogs", "6 Hunde", 0),
        ("5 dogs and 7 cats", "5 Hunde", 2 / 3),
        ("1 2 3 4", "1 2 3 5", 3 / 4),
        ("5 5 5", "5", 1 / 2),  # each number has one partner
        ("1000 and 200", "1 000 und 20", 1 / 2),
        ("12.5", "125", 0),
        ("15 years", "١٦ سنة", 0),
        ("2010 300", "2010300", 0),
        ("1 10", "110", 0),
        ("2019年3月5日", "5 March 2019", 4 / 5),
    ],
)
def test_number_overlap_counts_partners(src: str, tgt: str, overlap: float) -> None:
    assert reason(src, tgt, CleanConfig(min_number_overlap=overlap)) is None
    assert reason(src, tgt, CleanConfig(min_number_overlap=min(1.0, overlap + 0.01))) == "number_mismatch"


def test_a_long_row_of_numbers_takes_no_time() -> None:
    """A hundred thousand of them: with a square of it the test would not end."""
    assert reason("12," * 100_000, "12", CleanConfig(max_chars=None, min_number_overlap=0.5)) == "number_mismatch"
    assert (
        reason("a" * 300_000, "<" * 300_000 + "@&", CleanConfig(max_chars=None, drop_html=True, match_urls=True))
        is None
    )


@pytest.mark.parametrize(
    ("at_limit", "beyond"),
    [
        ("no no no", "no no no no"),
        ("No, no, no!", "No, no, no, NO!"),
        ("he said that " * 3, "he said that " * 4),
        ("Он сказал " * 3, "Он сказал " * 4),
        ("그는 갔다 " * 3, "그는 갔다 " * 4),
        ("वह गया " * 3, "वह गया " * 4),
        ("我喜欢" * 3, "我喜欢" * 4),
        ("ไปไปไปไป"[:6], "ไป" * 4),
        ("1 . . . 5", "1 . . . . 5"),  # leaders of a table of contents, too
    ],
)
def test_words_in_a_row(at_limit: str, beyond: str) -> None:
    rules = CleanConfig(max_repeats=3)
    assert reason(at_limit, "something else", rules) is None
    assert reason(beyond, "something else", rules) == "repeated_ngram"
    assert reason(beyond, "ha ha ha ha", rules) is None  # a translation repeats what its source does
    assert reason(beyond, "something else") is None


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("A dog.", "en", None),
        ("Собака.", "en", "wrong_script"),
        ("Собака лает.", "ru", None),
        ("Sobaka", "ru", "wrong_script"),
        ("ab де", "en", None),  # half of them is the limit
        ("ab деж", "en", "wrong_script"),
        ("Der Hund heißt ﬁdo, ｆｉｄｏ, 1.ª 𝐟", "en", None),
        ("12 % — 😀!", "ru", None),  # no letters
        ("나는 간다", "ko", None),
        ("ㅎㅎ ﾡ", "ko", None),
        ("我去", "ko", "wrong_script"),
        ("私は東京タワーへ行く", "ja", None),
        ("ｶﾀｶﾅ 々", "ja", None),
        ("나는 간다", "ja", "wrong_script"),
        ("我去学校", "zh", None),
        ("カタカナ", "zh", "wrong_script"),
        ("ฉันไป", "th", None),
        ("أنا ذاهب ﷺ", "ar", None),
        ("मैं जाता हूँ", "hi", None),
        ("Πάω στο σχολείο", "el", None),
        ("Πάω στο σχολείο", "ar", "wrong_script"),
        ("ꯃꯤꯇꯩ ꯂꯣꯟ", "mni", None),
        ("𐎀𐎁𐎂", "en", "wrong_script"),  # Ugaritic
        ("что угодно", "xx", None),  # nothing is known of the language
    ],
)
def test_scripts(text: str, language: str, expected: str | None) -> None:
    scripts: dict[str, tuple[str, ...]] = {
        "en": ("Latin",),
        "ru": ("Cyrillic",),
        "ko": ("Hangul",),
        "ja": ("Han", "Hiragana", "Katakana"),
        "zh": ("Han",),
        "th": ("Thai",),
        "ar": ("Arabic",),
        "hi": ("Devanagari",),
        "el": ("Greek",),
        "mni": ("Meetei Mayek",),
    }
    rules = CleanConfig(scripts=scripts, min_script_share=0.5)
    for _ in range(2):  # the second time every character is known
        assert reason(text, "12", rules, language, "xx") == expected
    assert reason(text, "12") is None


@pytest.mark.parametrize("text", ["Hawaiʻi", "1.ª Ｆila, eﬃcient 𝐟 Å", "naïve cafe\u0301", "Đặng Ǝ Ꞵ"])
def test_letters_of_many_forms_are_latin_and_shared_ones_of_no_script(text: str) -> None:
    assert reason(text, "12", CleanConfig(scripts={"en": ("Latin",)}, min_script_share=1.0)) is None


@pytest.mark.parametrize("share", [0.55, 0.7, 1.0])
def test_script_share_at_its_limit(share: float) -> None:
    rules = CleanConfig(scripts={"ru": ("Cyrillic",)}, min_script_share=share)
    own = round(share * 20)
    assert reason("ж" * own + "a" * (20 - own), "12", rules, "ru") is None
    assert reason("ж" * (own - 1) + "a" * (21 - own), "12", rules, "ru") == "wrong_script"


@pytest.mark.parametrize(
    ("name", "nearest"), [("hangul", "Hangul"), ("Hangeul", "Hangul"), ("Hiragna", "Hiragana"), ("LATIN", "Latin")]
)
def test_unknown_script_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    rules = CleanConfig(scripts={"en": ("Latin", name)})
    message = f"data.clean.scripts: unknown script '{name}'; the nearest known one is '{nearest}'"
    with pytest.raises(InputError) as caught:
        check_rules(rules, "en", "de")
    assert str(caught.value) == message
    with pytest.raises(InputError) as caught:
        clean(SentencePair("a", "b"), rules, "en", "de")
    assert str(caught.value) == message


def test_every_script_has_letters() -> None:
    found = {script_of(chr(code)) for code in range(0x20000)}
    for name in SCRIPTS:
        check_rules(CleanConfig(scripts={"xx": (name,)}), "", "")
        assert name in found, name


def test_scripts_without_spaces_are_known_by_their_letters() -> None:
    unspaced = {"Thai", "Lao", "Tibetan", "Myanmar", "Khmer", "Hiragana", "Katakana", "Bopomofo", "Han"}
    missed = [
        hex(code)
        for code in range(0x40000)
        if chr(code).isalpha() and script_of(chr(code)) in unspaced and not UNSPACED_CHARACTER.match(chr(code))
    ]
    assert missed == []


def test_first_broken_rule_is_the_reason() -> None:
    rules = CleanConfig(drop_identical=True, max_chars=3, max_char_ratio=1.0, max_word_chars=2)
    assert reason("", "abcd", rules) == "empty"
    assert reason("abcd", "abcd", rules) == "identical"
    assert reason("abcd", "abc", rules) == "too_long_characters"
    assert reason("abc", "ab", rules) == "length_ratio"
    assert reason("abc", "a c", rules) == "word_too_long"


def test_cheap_rules_come_first() -> None:
    """Each addition breaks one rule more, which comes before those that were broken already."""
    rules = CleanConfig(
        max_word_ratio=12,
        max_word_chars=8,
        drop_control_characters=True,
        drop_html=True,
        match_urls=True,
        min_number_overlap=1,
        max_repeats=2,
        scripts={"en": ("Latin",)},
    )
    text = "ж"
    for addition, expected in [
        ("", "wrong_script"),
        (" ж ж", "repeated_ngram"),
        (" 1", "number_mismatch"),
        (" a@x.org", "url_mismatch"),
        (" <b>", "html"),
        (" \x00 .", "control_characters"),
        (" xxxxxxxxx", "word_too_long"),
        (" and four more words", "word_ratio"),
    ]:
        text += addition
        assert reason(text, "a", rules) == expected


@given(pairs, rule_sets, codes, codes)
def test_clean_invents_no_text_and_is_idempotent(
    pair: SentencePair, rules: CleanConfig, src_lang: str, tgt_lang: str
) -> None:
    verdict = clean(pair, rules, src_lang, tgt_lang)
    for before, after in zip(pair, verdict.pair, strict=True):
        assert after in before
        assert before.replace(after, "", 1).strip() == ""
    assert clean(verdict.pair, rules, src_lang, tgt_lang) == verdict


@given(pairs, rule_sets, codes, codes)
def test_sides_are_judged_alike_and_rules_only_reject(
    pair: SentencePair, rules: CleanConfig, src_lang: str, tgt_lang: str
) -> None:
    if reason(pair.src, pair.tgt, rules, src_lang, tgt_lang) is None:
        assert reason(pair.src, pair.tgt) is None


@given(texts, texts, st.sampled_from(["max_word_ratio", "min_number_overlap", "match_urls", "max_repeats"]))
def test_a_side_agrees_with_itself(text: str, more: str, rule: str) -> None:
    """No rule that compares sides finds a difference between equal ones."""
    values: dict[str, Any] = {"max_word_ratio": 1, "min_number_overlap": 1, "match_urls": True, "max_repeats": 2}
    text = f"x {text} {more}"
    assert reason(text, text, CleanConfig(**{rule: values[rule]})) is None


@pytest.fixture
def fresh_languages() -> Iterator[None]:
    yield
    for cached in (languages._identifier, languages.language_label):
        cached.cache_clear()


def languages_told_apart() -> CleanConfig:
    pytest.importorskip("py3langid")
    return CleanConfig(min_language_probability=0.05)


@pytest.mark.parametrize(
    ("src", "src_lang", "tgt", "tgt_lang", "expected"),
    [
        ("The dog sleeps in the garden.", "en", "Der Hund schläft im Garten.", "de", None),
        ("The dog sleeps in the garden.", "en", "The dog sleeps in the house.", "de", "wrong_language"),
        ("The dog sleeps in the garden.", "en-US", "狗在花园里睡觉。", "zh_TW", None),
        ("The dog sleeps in the garden.", "eng_Latn", "개가 정원에서 자고 있다.", "kor_Hang", None),
        ("The dog sleeps in the garden.", "eng", "Собака спит в саду.", "deu", "wrong_language"),
        ("Собака спит в саду.", "ru", "Ο σκύλος κοιμάται στον κήπο.", "ell", None),
        ("Hunden ligger i hagen, og katten sitter på taket.", "nb", "الكلب نائم في الحديقة.", "ar", None),
        ("สุนัขนอนอยู่ในสวน", "th", "कुत्ता बगीचे में सो रहा है।", "hi", None),
    ],
)
def test_languages(src: str, src_lang: str, tgt: str, tgt_lang: str, expected: str | None) -> None:
    rules = languages_told_apart()
    check_rules(rules, src_lang, tgt_lang)
    assert reason(src, tgt, rules, src_lang, tgt_lang) == expected
    assert reason(src, tgt, NO_RULES, src_lang, tgt_lang) is None


def test_language_probability_is_the_sides_own() -> None:
    """The limit is what the identifier gives to the language, be it the best one or not."""
    pytest.importorskip("py3langid")
    for text, language in (("The dog sleeps.", "en"), ("The dog sleeps.", "nl"), ("Der Hund", "nl")):
        probability = dict(languages._identifier().rank(text))[language]
        for factor, expected in ((0.999, None), (1.001, "wrong_language")):
            rules = CleanConfig(min_language_probability=min(probability * factor, 0.9999999))
            if probability * factor < 1:
                assert clean(SentencePair(text, text), rules, language, language).reason == expected


@pytest.mark.parametrize("language", ["tlh", "", "trees"])
def test_unknown_language_is_refused(language: str) -> None:
    rules = languages_told_apart()
    for refuse in (
        lambda: check_rules(rules, "en", language),
        lambda: clean(SentencePair("The dog sleeps.", "x"), rules, "en", language),
    ):
        with pytest.raises(InputError, match=f"min_language_probability: the language '{language}' is not one of the "):
            refuse()


def test_codes_of_three_letters_old_ones_and_members_of_macrolanguages() -> None:
    pytest.importorskip("py3langid")
    codes = (
        "eng:en deu:de ger:de fra:fr fre:fr ces:cs cze:cs zho:zh chi:zh cmn:zh arb:ar azj:az ekk:et pes:fa kmr:ku",
        "lvs:lv plt:mg khk:mn zsm:ms npi:ne nob:no nb:no nno:nn gaz:om ory:or pbt:ps quy:qu swh:sw tgl:tl fil:tl",
        "uzn:uz als:sq iw:he in:id ki:kik gn:gug hrv:hr srp:sr bos:bs se:se sme:se",  # codespell:ignore
    )
    known = languages._identifier().labels
    for code, label in (pair.split(":") for line in codes for pair in line.split()):
        assert languages.language_label(code) == label, code
    assert [languages.language_label(label) for label in known] == known
    assert set(languages._LABELS.values()) <= set(known)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, fresh_languages: None) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(name)

    languages._identifier.cache_clear()
    languages.language_label.cache_clear()
    monkeypatch.setattr(importlib, "import_module", fail)
    check_rules(CleanConfig(), "en", "de")
    with pytest.raises(InputError, match=r"min_language_probability: .*: pip install transformer-mt\[langid\]$"):
        check_rules(CleanConfig(min_language_probability=0.5), "en", "de")


def judge_in_german(text: str) -> str | None:
    rules = CleanConfig(min_language_probability=0.05)
    return clean(SentencePair("The dog sleeps in the garden.", text), rules, "en", "de").reason


def test_forked_processes_tell_languages_apart() -> None:
    check_rules(languages_told_apart(), "en", "de")
    texts = ["Der Hund schläft im Garten.", "Le chien dort dans le jardin."] * 4
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(judge_in_german, texts) == [None, "wrong_language"] * 4


NEAR = [
    ("A dog.", "a  DOG"),
    ("A dog.", "“A dog!” "),
    ("A dog.", "> a dog = ♥ €^"),
    ("A dog.", "A\u00a0dog…"),
    ("Straße", "STRASSE"),
    ("café", "cafe\u0301"),
    ("Café", "cafe"),
    ("5 dogs, 17 cats", "123 Dogs; 4 cats"),
    ("1,000 dogs", "7 dogs"),
    ("٣ كلاب", "١٢ كلاب"),
    ("ｄｏｇ ①", "dog 2"),
    ("Ποιος;", "ποιοσ"),
    ("ёлка", "ЕЛКА"),
    ("我去。", "我 去！"),
    ("나는 간다", unicodedata.normalize("NFD", "나는 간다.")),
    ("soft\u00adhyphen", "softhyphen"),
    ("آب", unicodedata.normalize("NFD", "آب")),
    ("a\u0651\u064e", "a\u064e\u0651"),  # marks in another order
]
DIFFERENT = [
    ("a dog", "a dot"),
    ("dog", "dogs"),
    ("का", "की"),  # a vowel sign makes the word
    ("か", "が"),
    ("ไป", "ไป่"),
    ("나는", "너는"),
    ("我去", "你去"),
    ("dog", "dog 1"),
    ("!", "?"),
    ("...", "…"),
    ("5", "x"),
]


@pytest.mark.parametrize(("one", "other"), NEAR)
def test_near_texts_share_a_key(one: str, other: str) -> None:
    assert text_key(one, "near") == text_key(other, "near")
    assert text_key(one, "exact") != text_key(other, "exact")
    assert duplicate_key(SentencePair(one, other), "near") == duplicate_key(SentencePair(other, one), "near")


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_texts_have_different_keys(one: str, other: str) -> None:
    assert text_key(one, "near") != text_key(other, "near")
    assert duplicate_key(SentencePair(one, other), "near") != duplicate_key(SentencePair(other, one), "near")
    assert duplicate_key(SentencePair(one, "x"), "near") != duplicate_key(SentencePair(other, "x"), "near")


any_text = st.text(max_size=20).filter(lambda text: "\n" not in text)  # sides hold no line end


@given(any_text, any_text, st.sampled_from(["exact", "near"]))
def test_keys_are_of_stripped_text_and_of_both_sides(one: str, other: str, kind: Any) -> None:
    key = text_key(one, kind)
    assert 0 <= key < 1 << 64
    assert key == text_key(f" \t{one}\u3000", kind)
    same = text_key(one, kind) == text_key(other, kind)
    for pair in (SentencePair(one, "x"), SentencePair("x", one)):
        replaced = SentencePair(*(other if side is one else side for side in pair))
        assert (duplicate_key(pair, kind) == duplicate_key(replaced, kind)) == same
    if one.strip() == other.strip():
        assert same
    elif kind == "exact":
        assert not same


@given(any_text)
def test_forms_of_unicode_and_case_are_near(text: str) -> None:
    key = text_key(f"x{text}", "near")
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert text_key(f"x{unicodedata.normalize(form, text)}", "near") == key
    assert text_key(f"x{text.casefold()}", "near") == key
    assert text_key(f"x, ({text})…", "near") == key


def test_pair_of_two_sides_is_not_the_pair_of_their_letters() -> None:
    assert duplicate_key(SentencePair("ab", "c"), "exact") != duplicate_key(SentencePair("a", "bc"), "exact")
    assert duplicate_key(SentencePair("a b", "c"), "near") != duplicate_key(SentencePair("a", "b c"), "near")


def test_keys_are_the_same_in_every_process() -> None:
    """BLAKE2b of eight bytes over UTF-8, as `b2sum -l 64` prints it, and surrogates that JSON may have brought."""
    assert text_key("dog", "exact") == 0x3984C7C1D25E9C9F
    assert text_key(" Dog! ", "near") == 0x3984C7C1D25E9C9F
    assert text_key("\ud83d", "exact") != text_key("\ud83c", "exact")


def test_report_counts_any_reason() -> None:
    report = CleanReport()
    for found in [None, "length_ratio", None, "empty", "too_many_src_tokens", "length_ratio"]:
        report.count(found)
    assert report == CleanReport(2, {"length_ratio": 2, "empty": 1, "too_many_src_tokens": 1})
    assert report.num_pairs == 6
    assert report.summary() == "6 pairs: 2 kept, 1 empty, 2 length_ratio, 1 too_many_src_tokens"


def test_summary_groups_thousands() -> None:
    report = CleanReport(28_731, {"length_ratio": 257, "empty": 12})
    assert report.summary() == "29,000 pairs: 28,731 kept, 12 empty, 257 length_ratio"
    assert CleanReport().summary() == "0 pairs: 0 kept"


reasons = st.sampled_from([None, "empty", "html"])


def counted(judged: Sequence[tuple[int, str | None]]) -> CleanReport:
    report = CleanReport()
    for place, found in judged:
        report.count(found, SentencePair(f"src {place}", f"tgt {place}"), place)
    return report


@given(st.lists(reasons, max_size=60), st.data())
def test_reports_do_not_depend_on_order_and_split(found: list[str | None], data: st.DataObject) -> None:
    judged = data.draw(st.permutations(list(enumerate(found))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(judged)), max_size=4)))
    merged = CleanReport()
    for start, end in zip([0, *cuts], [*cuts, len(judged)], strict=True):
        merged.merge(counted(judged[start:end]))
    assert merged == counted(list(enumerate(found)))
    for name, examples in merged.examples.items():
        assert len(examples) == min(MAX_EXAMPLES, found.count(name))
        assert len(set(examples)) == len(examples)
        for place, src, tgt in examples:
            assert (found[place], src, tgt) == (name, f"src {place}", f"tgt {place}")


def test_examples_are_a_uniform_sample() -> None:
    """Over 400 corpora of 100 pairs, five of each: a tenth of them has 200 of the 2,000 examples, give or take 60 (more
    than four standard deviations of a binomial distribution, 13.4)."""
    tenths = [0] * 10
    for corpus in range(400):
        report = counted([(100 * corpus + i, "empty") for i in range(100)])
        for example in report.examples["empty"]:
            tenths[example.place % 100 // 10] += 1
    assert sum(tenths) == 2000
    assert max(abs(number - 200) for number in tenths) < 60


def test_examples_are_cut_and_only_of_what_came_with_text() -> None:
    report = CleanReport()
    report.count("html", SentencePair("x" * 300, "y" * 301), place=7)
    report.count("empty")
    report.count(None, SentencePair("a", "b"), place=8)
    assert report.examples == {"html": [Example(7, "x" * 300, "y" * 299 + "…")]}
    assert report == CleanReport(1, {"html": 1, "empty": 1}, report.examples)


def test_a_merged_report_shares_nothing() -> None:
    one, other = counted([(1, "html")]), counted([(2, "html"), (3, "empty")])
    one.merge(other)
    one.count("empty", SentencePair("a", "b"), 4)
    assert other == counted([(2, "html"), (3, "empty")])


def test_reports_survive_json() -> None:
    report = CleanReport(3, {"empty": 4, "identical": 5})
    report.merge(counted([(2, "html"), (3, None), (5, "html")]))
    again = CleanReport(**json.loads(json.dumps(dataclasses.asdict(report))))
    assert again == report
    assert isinstance(again.examples["html"][0], Example)
