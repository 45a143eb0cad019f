"""What is seen of somebody's files: sources and languages, repeats, and what is held out."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import write

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.curation.stats import SideStats
from transformer_mt.data import pairs as reading
from transformer_mt.data.duplicate_keys import text_key
from transformer_mt.data.readers.json_rows import json_rows
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.recipes import look as looking
from transformer_mt.recipes.cleaning import are_kept, rules_for
from transformer_mt.recipes.files import files_of
from transformer_mt.recipes.held_out import hold_out
from transformer_mt.recipes.languages import (
    UNKNOWN,
    Direction,
    contradictions,
    direction,
    language_of,
    languages_of_pairs,
)
from transformer_mt.recipes.look import Look, look_at
from transformer_mt.recipes.names import check_codes, codes_of_file, codes_of_names, without_parentheses
from transformer_mt.recipes.sides import Files, right_way
from transformer_mt.recipes.unread import refuse_unread
from transformer_mt.system.console import tell_nobody
from transformer_mt.toy_corpus import grammar

NO = (None, None)


def numbered(src: int, tgt: int) -> dict[str, int]:
    return {"src_column": src, "tgt_column": tgt}


def named(src: str, tgt: str) -> dict[str, str]:
    return {"src_column": src, "tgt_column": tgt}


def files(directory: Path, pairs: list[tuple[str, str]]) -> SourceConfig:
    src, tgt = (write(directory / f"train.{lang}", [pair[i] for pair in pairs]) for i, lang in enumerate(("en", "de")))
    return SourceConfig(src=str(src), tgt=str(tgt))


def seen(directory: Path, pairs: list[tuple[str, str]]) -> Look:
    return look_at(files(directory, pairs), ("en", "de"), "text")


# ---------------------------------------------------------------- files and languages


@pytest.mark.parametrize(
    ("src", "tgt", "codes"),
    [
        ("train.en", "train.de", ("en", "de")),
        ("a/train.en.gz", "a/train.de.gz", ("en", "de")),
        # a word before the language, also one that is a code; locales
        ("ted_en.txt", "ted_de.txt", ("en", "de")),
        ("web-EN.txt", "web-DE.txt", ("en", "de")),
        ("a/my_en.txt", "b/my_de.txt", ("en", "de")),
        ("EU_EN.txt", "EU_DE.txt", ("en", "de")),
        ("x.fr_be", "x.fr_ca", ("fr_be", "fr_ca")),
        ("x.pt_br", "x.pt_pt", ("pt_br", "pt_pt")),
        ("x.fr_FR", "x.fr_CA", ("fr_FR", "fr_CA")),
        ("x.en_us", "x.en_gb", ("en_us", "en_gb")),
        ("zh_CN.txt", "zh_TW.txt", ("zh_CN", "zh_TW")),
        ("en/train.txt", "fr/train.txt", ("en", "fr")),
        ("train.en.txt", "train.swa.txt", ("en", "swa")),
        ("x/corpus.de-en.de", "x/corpus.de-en.en", ("de", "en")),
        ("en_US.txt", "pt_BR.txt", ("en_US", "pt_BR")),
        ("train_en.txt", "train_de.txt", ("en", "de")),
        ("en-US.txt", "pt-BR.txt", ("en-US", "pt-BR")),
        ("train-en.txt", "train-ko.txt", ("en", "ko")),
        ("TRAIN.EN", "TRAIN.DE", ("en", "de")),
        ("text_en_US.txt", "text_ko_KR.txt", ("en_US", "ko_KR")),
        ("text_en_us.txt", "text_ko_kr.txt", ("en", "ko")),
        ("a.zh_Hans_CN.txt", "a.pt-BR.txt", ("zh_Hans_CN", "pt-BR")),
        ("my-mt/a.en-GB", "my-mt/a.de", ("en-GB", "de")),
        ("train.src", "train.tgt", NO),
        ("source.txt", "target.txt", NO),
        ("en/a.txt", "fr/b/a.txt", NO),
        ("en_text.txt", "de_text.txt", ("en", "de")),
        ("train.en", "x/train.de.gz", ("en", "de")),  # only what they end in
        ("a.en-sh.en", "a.en-sh.sh", ("en", "sh")),
        ("a/part.one", "part.txt", NO),
        # words that are no script or region, and some that are
        ("en_test.txt", "de_test.txt", ("en", "de")),
        ("en-wiki.txt", "de-wiki.txt", ("en", "de")),
        ("a.eng_file.txt", "a.deu_file.txt", ("eng", "deu")),
        ("en_tc.txt", "de_tc.txt", ("en", "de")),
        ("en_001.txt", "de_001.txt", ("en", "de")),
        ("x.es-419", "x.en", ("es-419", "en")),
        ("x_eng_Latn.txt", "x_zho_Hans.txt", ("eng_Latn", "zho_Hans")),
        ("x.fr_fr", "x.ko_kr", ("fr_fr", "ko_kr")),
        # names of languages
        ("English.txt", "Tigrinya.txt", ("en", "ti")),
        ("train.english.gz", "train.am.gz", ("en", "am")),
        ("Hawaiian Bible.txt", "English Bible.txt", ("haw", "en")),
        ("Deutsch/a.txt", "Mixtec/a.txt", ("de", UNKNOWN)),
        ("german.old.txt", "german.new.txt", NO),
    ],
)
def test_names_of_two_files_tell_languages(src: str, tgt: str, codes: tuple[str | None, str | None]) -> None:
    assert codes_of_names(src, tgt) == codes


def test_what_is_surest_tells_the_language() -> None:
    assert direction(("xx", None), ("en", None), "names", ("fr", "pt"), (None, "it"))[:2] == ("xx", "it")
    assert direction(NO, ("en", None), "names", (None, "ko"))[:2] == ("en", "ko")
    assert direction(NO, NO, "names")[:2] == ("src", "tgt")
    described = direction(NO, ("en", UNKNOWN), "names", ("en", "sw")).described()  # Mixtec is no Swahili
    assert described == "en (names) to tgt (nothing tells which language it is: put its code here)"
    assert direction(("en", "en"), ("en", "de"), "names")[:2] == ("en", "en")
    with pytest.raises(
        InputError, match=r"languages: de \(as said on the command line\) to de \(names\); say what both"
    ):
        direction(("de", None), ("en", "de"), "names")
    with pytest.raises(InputError, match=r"languages: de .* to DE-DE"):
        direction(("de", None), ("EN-US", "DE-DE"), "names")
    assert direction(("pt-BR", None), ("pt-BR", "pt-PT"), "names")[:2] == ("pt-BR", "pt-PT")


def test_letters_contradict_codes_of_countries_and_none_at_all() -> None:
    """Of names of files nobody is asked: train.ch is Chinese, and no Chamorro. What somebody says is refused."""
    for code, text, found in (("ch", "zh", "zh"), ("kr", "ko", "ko"), ("jap", "ja", "ja"), ("yue", "zh", "yue")):
        assert direction(NO, ("en", code), "names", ("en", text))[:2] == ("en", found)
    assert direction(NO, ("de", "nds"), "names", ("en", "th"))[:2] == ("de", "nds")
    with pytest.raises(InputError, match="--tgt-lang kr: the text is ko, by its letters; say --tgt-lang ko"):
        direction(("en", "kr"), NO, "", (None, "ko"))
    assert direction(("ko", "en"), NO, "", ("en", "ko"))[:2] == ("ko", "en")  # what is turned round is told elsewhere
    for asked, meant in (("jp", "ja"), ("Japanese", "ja"), ("cz", "cs")):
        with pytest.raises(InputError, match=f"--src-lang {asked}: is no language's code; say --src-lang {meant}"):
            check_codes((asked, None))
    check_codes(("hsb", "sr@latin"))
    with pytest.raises(InputError, match="--tgt-lang a/b: is no language's code; say one, as en or zh-Hans"):
        check_codes(("hsb", "a/b"))


def test_what_stands_in_parentheses_says_no_column() -> None:
    assert without_parentheses("Text (EN) (old)") == "Text"
    assert without_parentheses("(" * 1_000_000) == "(" * 1_000_000  # in time that grows with its length


def test_text_in_another_language_than_is_said_is_warned_of() -> None:
    pytest.importorskip("py3langid")
    pairs = [SentencePair(*pair) for pair in grammar.generate("train", 100)]
    for codes, warnings in (
        (("en", "de"), []),
        (("fr", "de-AT"), ["warning: fr (said): most of the text looks like en; if it is, say --src-lang en"]),
        (("eng", "nl"), ["warning: nl (by name): most of the text looks like de; if it is, say --tgt-lang de"]),
        (("src", "tgt"), []),
        # a rare code that was a word; German by the name of a kin of it
        (("ted", "de"), ["warning: ted (said): most of the text looks like en; if it is, say --src-lang en"]),
        (("en", "nds"), ["warning: nds (by name): most of the text looks like de; if it is, say --tgt-lang de"]),
    ):
        assert [*contradictions(Direction(*codes, ("said", "by name")), pairs)] == warnings
    assert [*contradictions(Direction("fr", "nl", ("said", "said")), pairs[:3])] == []  # too few to tell
    none = [SentencePair("x_1 = f(0x3a); " * 4, "12 345 678 " * 9)] * 100
    assert "zxx" not in " ".join(contradictions(Direction("en", "de", ("said", "said")), none))
    turned = [SentencePair(tgt, src) for src, tgt in pairs]  # at the beginning only
    assert [*contradictions(Direction("en", "de", ("said", "said")), turned + pairs * 9)] == []
    [warning] = contradictions(Direction("src", "tgt", ("", "")), turned + pairs)
    assert warning.startswith("warning: lines of both sides look like de and en; write those of each direction into")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("nds", "De ole Mann geiht jeden Morgen na de School un drinkt sien Koffie."),
        ("hsb", "Hdyž dźeći do šule přińdu, wuča so najprjedy čitać a pisać."),
        ("gsw", "Mir hend geschter z Nacht nöd chöne schlafe, wil s eso luut gsi isch uf de Strass."),
        ("chr", "ᎣᏏᏲ ᎤᏪᏘ ᎠᏓᏅᏖᏗ ᎣᏏᏲ ᎤᏪᏘ ᎠᏓᏅᏖᏗ ᎣᏏᏲ ᎤᏪᏘ ᎠᏓᏅᏖᏗ"),
    ],
)
def test_small_languages_are_not_taken_for_their_kin(code: str, text: str) -> None:
    pairs = [SentencePair("The old man goes to the school every morning.", f"{text} {i}") for i in range(100)]
    assert [*contradictions(Direction("en", code, ("said", "said")), pairs)] == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("안녕하세요 세계", "ko"),
        ("API를 누르세요", "ko"),
        ("大韓民國 대한민국의 헌법은", "ko"),
        ("これは本です。漢字", "ja"),
        ("这是一本书", "zh"),
        ("สวัสดี", "th"),
        ("καλημέρα", "el"),
        ("ᎣᏏᏲ ᎤᏪᏘ ᎠᏓᏅᏖᏗ", "chr"),
    ],
)
def test_scripts_tell_some_languages(text: str, language: str) -> None:
    stats = SideStats()
    stats.add([text])
    assert language_of(stats, [text]) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The old man goes to the school every morning. ", "en"),
        ("ذهب الولد إلى المدرسة في الصباح. كان الجو باردا جدا والمطر ينزل بغزارة على الشوارع. ", "ar"),
        ("ꨌꩌ ꨀꨇꩉ ꨣꨮꩀ ", None),  # Cham, for which it says Korean
        ("ⵜⴰⵎⴰⵣⵉⵖⵜ ⴰⵎⴰⵏ ", None),
        ("menu.open menu.file\n", None),
        ("17 3.5 ", None),
        ("Hānau kūʻokoʻa ʻia nā kānaka apau loa, a ua kau like ka hanohano. ", None),
    ],
)
def test_what_the_identifier_does_not_know_is_not_guessed(text: str, language: str | None) -> None:
    pytest.importorskip("py3langid")
    stats, lines = SideStats(), [text] * 50
    stats.add(lines)
    assert language_of(stats, lines) == language


def test_files_of_pairs_are_known_by_their_names_and_contents(tmp_path: Path) -> None:
    row = {"id": 3, "en": "a", "de": "b"}
    path = str(write(tmp_path / "a.jsonl", ["", json.dumps(row)]))
    assert files_of(path, None, NO, NO)[:2] == ({"jsonl": path}, ("en", "de"))
    assert files_of(path, None, NO, ("de", "en"))[:2] == ({"jsonl": path}, ("de", "en"))
    write(tmp_path / "a.jsonl", [json.dumps({"en": None, "de": "b"}), json.dumps({"de": "b", "en": "a"})])
    assert files_of(path, None, NO, NO)[:2] == ({"jsonl": path}, ("en", "de"))
    nested = str(write(tmp_path / "b.ndjson", [json.dumps({"translation": {"en": "a", "ko": "b"}})]))
    assert files_of(nested, None, NO, NO)[:2] == ({"jsonl": nested}, ("en", "ko"))
    named = str(write(tmp_path / "corpus.en-fr.jsonl", [json.dumps({"Source": "a", "Target": "b"})]))
    columns = {"src_column": "Source", "tgt_column": "Target"}
    assert files_of(named, None, NO, NO)[:2] == ({"jsonl": named, **columns}, ("en", "fr"))
    assert files_of(path, None, ("de", "en"), NO).settings == {"jsonl": path, "src_column": "de", "tgt_column": "en"}
    tsv = str(tmp_path / "x_en-de.TSV.gz")
    Path(tsv).write_bytes(gzip.compress(b"a dog\tein Hund\tx\n"))
    assert files_of(tsv, None, NO, NO)[:2] == ({"tsv": tsv}, ("en", "de"))
    assert files_of(tsv, None, ("3", "1"), NO).settings == {"tsv": tsv, "src_column": 3, "tgt_column": 1}


@pytest.mark.parametrize(
    ("name", "first", "settings", "codes"),
    [
        ("a.tsv", "a dog\tein Hund", {}, NO),
        ("a.tsv", "en\tde\tnote", {}, ("en", "de")),
        ("a.tab", "id\tSource\tTarget", {"src_column": "Source", "tgt_column": "Target"}, NO),
        ("a.csv", "en,de", {}, ("en", "de")),
        ("a.csv", '"A dog, a cat; no","Ein Hund"', {"header": False}, NO),
        (
            "a.csv",
            "source_text;translation;note",
            {"delimiter": ";", "src_column": "source_text", "tgt_column": "translation"},
            NO,
        ),
        ("a.csv", "eng\tfra", {"delimiter": "tab"}, ("eng", "fra")),
        ("a.csv", "id,en,de", {}, ("en", "de")),
        ("a.csv", "en,id", {}, ("en", "id")),
        ("a.csv", "English;German", {"delimiter": ";"}, ("en", "de")),
        ("a.csv", "Nr,English,German", {}, ("en", "de")),
        ("a.tsv", "Español\tEnglish (old)\tenglish", {}, ("es", "en")),
        ("a.csv", "SID,분야,한국어,english", {}, ("ko", "en")),
        ("a.csv", "No,English,Klingon\n1,a,b", {"header": True, **numbered(2, 3)}, ("en", UNKNOWN)),
        ("a.tsv", "\n".join(f"word{i}\tWort{i}\tnoun" for i in range(20)), {}, NO),
        ("a.tsv", "German\tDeutsch\nred\trot", {}, NO),
        ("a.tsv", "A dog.\tEin Hund.\n" + "A cat.\t\n" * 9 + "No.\tNein.", {}, NO),
        ("a.csv", "Key,English,Hmong\nx.y,a,b", None, NO),
        (
            "a.csv",
            "Source (EN);Target (DE)",
            {"delimiter": ";", "src_column": "Source (EN)", "tgt_column": "Target (DE)"},
            NO,
        ),
        ("a.tsv", "원문\t번역문", {"src_column": "원문", "tgt_column": "번역문"}, NO),
        (  # Excel's "Unicode Text"
            "a.txt",
            "\n".join(['"A dog, a cat"\t"Ein ""Hund"""'] * 20 + ['"A dog,\na cat"\tEin Hund']),
            {"delimiter": "tab", "header": False},
            NO,
        ),
        ("a.csv", "key,English,German,French\nx.y,a,b,c", None, NO),
        ("a.csv", "en,de,url\na,b,c", {}, ("en", "de")),
        ("a.csv", "key,source_phrase,translation", {"src_column": "source_phrase", "tgt_column": "translation"}, NO),
        ("a.csv", "src_text,tgt_text", {"src_column": "src_text", "tgt_column": "tgt_text"}, NO),
        ("a.csv", "src,tgt,src_lang,tgt_lang", {"src_column": "src", "tgt_column": "tgt"}, NO),
        # languages of rows beside the text, scores, what machines have made of it
        (
            "a.csv",
            "en,de,source_lang,target_lang\n" + "\n".join(f"a dog {i},ein Hund {i},en,de" for i in range(10)),
            {},
            ("en", "de"),
        ),
        (
            "a.csv",
            "sn,data_set,ko_original,ko,mt,en,source_language,target_language,source\n1,x,a,b,c,d,ko,en,web",
            {},
            ("ko", "en"),
        ),
        ("a.csv", "lp,src,mt,ref,score\nen-de,a b,c d,e f,70", {"src_column": "src", "tgt_column": "ref"}, NO),
        ("a.csv", "src,mt,pe\na b,c d,e f", None, NO),
        ("a.csv", "src,mt\na b,c d", {"header": True, **numbered(1, 2)}, NO),
        ("a.csv", "en,mt,score\na b,c d,0.7", {}, ("en", "mt")),
        ("a.csv", "id,en,sn\n1,a b,c d", {}, ("en", "sn")),
        ("a.csv", "en,de,source,reference\na b,c d,book,p. 7", {}, ("en", "de")),
        ("a.tsv", "It rained on day 2 here\t第2天下雨了\nIt is day 3\t第3天", {}, NO),
        ("a.tsv", "Go.\tGeh.\nHi.\tHallo!\nRun.\tLauf!", {}, NO),
        (
            "a.csv",
            "English words/sentences,French words/sentences\nHi.,Salut !",
            {"src_column": "English words/sentences", "tgt_column": "French words/sentences"},
            ("en", "fr"),
        ),
        # tabs, and quotes where they are needed
        (
            "a.tsv",
            "en\tde\n" + "a, b\tc, d\n" * 20 + '"He said: ""Yes"", and"\tEr sagte\n',
            {"delimiter": "tab"},
            ("en", "de"),
        ),
        ("a.txt", "en\tde\n" + '"a\nb\nc"\td\n' * 20, {"delimiter": "tab"}, ("en", "de")),
        ("a.csv", "Hello, John;Hallo\na dog;ein Hund", {"delimiter": ";", "header": False}, NO),
        ("a.csv", '"a b", "c, d"\n"e", "f"', {"header": False}, NO),
        ("ko-KR.csv", "Source,Target", {"src_column": "Source", "tgt_column": "Target"}, NO),
        ("en-US_de-DE.csv", "Source,Target", {"src_column": "Source", "tgt_column": "Target"}, ("en-US", "de-DE")),
        ("x.en-US.de-DE.tsv", "a b\tc d", {}, ("en-US", "de-DE")),
        ("pt-BR.tsv", "a b\tc d", {}, NO),
        (
            "a.csv",
            "a dog,ein Hund,en,de\na cat,eine Katze,en,de",
            {"src_column": 1, "tgt_column": 2, "header": False},
            ("en", "de"),
        ),
        ("a.tsv", "eng\tHello\tdeu\tHallo\neng\ta\tdeu\tb", {"src_column": 2, "tgt_column": 4}, ("eng", "deu")),
        ("a.tsv", "A dog\tEin Hund\t1.1\ten\tde\nA cat\tEine Katze\t1\ten\tde", numbered(1, 2), ("en", "de")),
        ("a.csv", "en,de\ra,b\r", {}, ("en", "de")),  # of old Macs
        # words that look like codes
        ("a.tsv", "Hi\tTag\nA dog\tEin Hund", {}, NO),
        ("a.tsv", "ice\tEis\nA dog\tEin Hund", {}, NO),
        ("a.tsv", "no\tnein\nA dog\tEin Hund", {}, NO),
        ("a.tsv", "\n".join(f"Hi, {i}.\tTag, {i}.\tCC-BY 2.0 (France) #{i}" for i in range(20)), {}, NO),
        ("a.csv", "en,hsb", {}, ("en", "hsb")),
        ("a.csv", "EN,DE", {}, ("en", "de")),
        ("a.csv", "En,De", {}, ("en", "de")),
        ("a.csv", "in,en", {}, ("in", "en")),
        ("a.csv", "to,with", {"header": False}, NO),
        ("a.csv", "key_name,en,de", {}, ("en", "de")),
        ("a.csv", "key_name,comment,en-US,de-DE,max_characters", {}, ("en-US", "de-DE")),
        ("a.csv", "Map,en-US,de-DE", {}, ("en-US", "de-DE")),
        ("a.csv", "Map,English,de-DE", {}, ("en", "de-DE")),
        ("a.csv", "EN,CN", {"src_column": "EN", "tgt_column": "CN"}, ("en", "zh")),
        ("a.csv", "Key,KR,EN", {"src_column": "KR", "tgt_column": "EN"}, ("ko", "en")),
        # other names of columns
        ("a.csv", "Deutsch;Englisch", {"delimiter": ";"}, ("de", "en")),
        ("a.csv", "Inglés;Alemán", {"delimiter": ";"}, ("en", "de")),
        ("a.tsv", "영어\t한국어", {}, ("en", "ko")),
        ("a.csv", "Deutsch;Klingonisch", {"delimiter": ";", "header": True, **numbered(1, 2)}, ("de", UNKNOWN)),
        ("a.csv", "Deutsch;Traduction", {"delimiter": ";", "header": True, **numbered(1, 2)}, ("de", None)),
        ("a.csv", "English,Hawaiian", {}, ("en", "haw")),
        ("a.csv", "Eng,Haw", {}, ("eng", "haw")),
        ("a.csv", "Northern Sami,Norwegian Bokmål", named("Northern Sami", "Norwegian Bokmål"), ("se", "nb")),
        (
            "a.csv",
            "Chinese (Simplified),Chinese (Traditional)",
            named("Chinese (Simplified)", "Chinese (Traditional)"),
            ("zh-Hans", "zh-Hant"),
        ),
        (
            "a.csv",
            "Simplified Chinese text,English text",
            named("Simplified Chinese text", "English text"),
            ("zh-Hans", "en"),
        ),
        (
            "a.csv",
            "English (US),German (Germany)",
            {"src_column": "English (US)", "tgt_column": "German (Germany)"},
            ("en", "de"),
        ),
        ("a.tsv", "source_en\ttarget_de", {"src_column": "source_en", "tgt_column": "target_de"}, ("en", "de")),
        (
            "a.tsv",
            "sentence_eng\tsentence_deu",
            {"src_column": "sentence_eng", "tgt_column": "sentence_deu"},
            ("eng", "deu"),
        ),
        ("a.csv", "string_id,en_text,de_text", {}, ("en", "de")),
        ("a.csv", "en , de", {}, ("en", "de")),
        ("a.csv", "original,translated", {"src_column": "original", "tgt_column": "translated"}, NO),
        ("a.tsv", "input\toutput", {"src_column": "input", "tgt_column": "output"}, NO),
        ("a.csv", "term,translation,comment", {"src_column": "term", "tgt_column": "translation"}, NO),
        # columns beside the text
        ("a.tsv", "17\tA dog\t21\tEin Hund", numbered(2, 4), NO),
        ("a.csv", "Line,From,To\n1,A dog,Ein Hund\n2,A cat,Eine Katze", named("From", "To"), NO),
        ("a.tsv", "from\tto\nA dog\tEin Hund", named("from", "to"), NO),
        ("a.tsv", "to\tfrom\nEin Hund\tA dog", named("from", "to"), NO),
        ("a.tsv", "from\tto\ten\tde\nx\ty\tA dog\tEin Hund", {}, ("en", "de")),
        ("a.csv", ",0,1\n0,A dog,Ein Hund", {"header": True, **numbered(2, 3)}, NO),
        ("a.tsv", "http://a/b c\thttp://a/d\tA dog\tEin Hund\t0.7", numbered(3, 4), NO),
        ("x.de-en.tsv", "europarl_0\tEin Hund\tA dog\neuroparl_0\tJa.\tYes.", numbered(2, 3), ("de", "en")),
        ("a.tsv", "k\t一只狗\tA dog\nk\t猫\tA cat", numbered(2, 3), NO),
        ("a.tsv", "en-de\tA dog\tEin Hund\nen-de\tA cat\tEine Katze", numbered(2, 3), NO),
        (
            "a.csv",
            "Domain,Englisch,Deutsch (formell)\nLaw,A dog,Ein Hund",
            {"src_column": "Englisch", "tgt_column": "Deutsch (formell)"},
            ("en", "de"),
        ),
        ("a.tsv", "1\tA dog\tEin Hund\n2\tA cat\tEine Katze", numbered(2, 3), NO),
        ("a.tsv", "\n".join(f"court law\tA dog {i}\tEin Hund {i}" for i in range(20)), numbered(2, 3), NO),
        ("a.csv", "ID,From,To\nx1,A dog,Ein Hund", named("From", "To"), NO),
        ("a.csv", "key,en,Klingon\nx1,A dog,Ang aso", {"header": True, **numbered(2, 3)}, ("en", UNKNOWN)),
        ("a.csv", 'sep=;\n"en";"de"\na;b', {"delimiter": ";"}, ("en", "de")),
        # called alike but for the language, or as programs and people do
        (
            "a.csv",
            "Segment (en-US),Segment (de-DE)\na b,c d",
            named("Segment (en-US)", "Segment (de-DE)"),
            ("en-US", "de-DE"),
        ),
        ("a.csv", "id,label_en,label_de\n1,a b,c d", named("label_en", "label_de"), ("en", "de")),
        ("a.csv", "Sentence,Translation\na b,c d", named("Sentence", "Translation"), NO),
        ("a.csv", "text1,text2\na b,c d", named("text1", "text2"), NO),
        ("a.csv", "input_text,target_text\na b,c d", named("input_text", "target_text"), NO),
        # text
        ("a.csv", "No text,Kein Text\na b,c d", {"header": False}, NO),
        ("a.csv", "Say no,Dis no\na b,c d", {"header": False}, NO),
        # blank lines before the columns' names
        ("a.csv", ",\nsource,target\na b,c d\n \n", named("source", "target"), NO),
        ("a.tsv", " \t\n1\t2\na b\tc d\n \n", {"header": True, **numbered(1, 2)}, NO),
        (
            "a.tsv",
            "%d\t%EN-US\t%v\t%DE-DE\t%t\n" + "".join(f"1\tEN-US\ta b {i}\tDE-DE\tc d {i}\n" for i in range(12)),
            {"header": True, **numbered(3, 5)},
            ("en-US", "de-DE"),
        ),
        ("a.json", '{"schema": {"x": [{"y": 1}]}, "tags": ["z"], "data": [{"en": "a", "ko": "b"}]}', {}, ("en", "ko")),
        ("a.json", '[{"en": "a", "ko": "b"}]', {}, ("en", "ko")),
        ("a.json", '[{"English": "a", "Mixtec": "b"}]', named("English", "Mixtec"), ("en", UNKNOWN)),
        ("a.json", '[{"한국어": "a", "en-GB": "b"}]', {}, ("ko", "en-GB")),
        (
            "a.jsonl",
            '{"src_lang": "eng_Latn", "english_text": "a b", "tgt_lang": "deu_Latn", "german_text": "c d"}\n' * 10,
            {},
            ("en", "de"),
        ),
        (
            "a.json",
            '{\n "name": "x", "data": [\n{"sn": "A1", "ko": "집", "en": "a b"},\n{"sn": "A2", "ko": "물", "en": ""}]}',
            {},
            ("ko", "en"),
        ),
    ],
)
def test_first_lines_of_tables_tell_columns(
    name: str, first: str, settings: dict[str, Any] | None, codes: tuple[str | None, str | None], tmp_path: Path
) -> None:
    """And what is found can be read. (Where that is None, it has to be said which they are.)"""
    path = write(tmp_path / name, [first])
    if settings is None:
        with pytest.raises(InputError, match=r"has the columns .*; say with --src-column and --tgt-column"):
            files_of(str(path), None, NO, NO)
        return
    found = files_of(str(path), None, NO, NO)
    assert found.settings == {found.source.kind: str(path), **settings} and found.codes == codes
    pairs = list(read_pairs(found.source, *(code or "xx" for code in codes)))
    assert len(pairs) <= first.count("\n") + 1 and not {"eng", "en"} & {side for pair in pairs for side in pair}


@pytest.mark.parametrize(
    ("name", "columns", "settings", "codes"),
    [
        ("headed.csv", ("1", "2"), {"header": True}, ("en", "de")),
        ("headed.csv", ("German", "English"), {}, ("de", "en")),
        ("headed.tsv", ("2", "1"), {"header": True}, ("de", "en")),
        ("x.en-de.tsv", ("1", "2"), {}, ("en", "de")),
        ("x.en-de.tsv", ("2", "1"), {}, ("de", "en")),
        ("a.csv", ("1", "2"), {"header": False}, NO),
        ("named.csv", ("2", "1"), {"header": True}, NO),
        ("a.csv", ("1", "1"), "--src-column 1, --tgt-column 1: are the same column", NO),
        ("a.csv", ("0", "1"), "--src-column 0: columns are counted from 1", NO),
        ("a.csv", ("1", "00"), "--tgt-column 00: columns are counted from 1", NO),
        ("a.csv", ("2", None), "--src-column 2: is one side's column; say --tgt-column as well", NO),
        ("a.csv", (None, "b"), "--tgt-column b: is one side's column; say --src-column as well", NO),
    ],
)
def test_columns_may_be_named(
    name: str,
    columns: tuple[str | None, str | None],
    settings: dict[str, bool] | str,
    codes: tuple[str | None, str | None],
    tmp_path: Path,
) -> None:
    mark = "\t" if name.endswith(".tsv") else ","
    rows = [{"headed": ["English", "German"], "named": ["source", "target"]}.get(name[:-4]), ["A dog", "Ein Hund"]]
    path = str(write(tmp_path / name, [mark.join(row) for row in rows if row]))
    if isinstance(settings, str):
        with pytest.raises(InputError, match=settings):
            files_of(path, None, columns, NO)
        return
    found = files_of(path, None, columns, NO)
    header = {key: value for key, value in found.settings.items() if key == "header"}
    assert (header, found.codes) == (settings, codes)
    assert len(list(read_pairs(found.source, "xx", "yy"))) == 1
    assert files_of(path, None, columns, ("xx", "yy")).codes == ("xx", "yy")


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("en-zh_CN.tsv", ("en", "zh_CN")),
        ("en-pt-BR.tsv", ("en", "pt-BR")),
        ("NLLB.eng_Latn-kac_Latn.tsv", ("eng_Latn", "kac_Latn")),
        ("sr-Latn-en.tsv", ("sr-Latn", "en")),
        ("en-de_data.tsv", ("en", "de")),
        ("EN-DE-test.tsv", ("en", "de")),
        ("my_en-de.tsv", ("en", "de")),
        ("en2de.tsv.gz", ("en", "de")),
        ("de.en.tsv", ("de", "en")),
        ("x.de_hsb.tsv", ("de", "hsb")),
        ("en-kac-test.tsv", NO),
        ("en-de-fr.tsv", NO),
        ("en.zip.tsv", NO),
        ("English_Hawaiian.csv", ("en", "haw")),
        ("news.german-english.csv", ("de", "en")),
    ],
)
def test_names_of_files_of_pairs_tell_languages(name: str, codes: tuple[str | None, str | None]) -> None:
    assert codes_of_file(f"a/{name}") == codes


@pytest.mark.parametrize("name", ["dev-set.tsv", "git_log.tsv", "pre-war.csv", "add-ons.tsv", "en.tsv"])
def test_words_in_names_are_no_languages(name: str) -> None:
    assert codes_of_file(name) == NO and codes_of_file(f"{name[:-4]}.hsb-de.tsv") == ("hsb", "de")


@pytest.mark.parametrize(
    ("name", "first", "columns"),
    [
        ("x.de-en.tsv", "Ein Hund\tA dog", (2, 1)),
        ("x.de-en.tsv", "1.2\tEin Hund\tA dog", (3, 2)),
        ("x.de-en.csv", "Ein Hund,A dog", (2, 1)),
        ("x.de-en.csv", "source,target", ("target", "source")),
        ("a.csv", "Ein Hund,A dog,DE,EN\nEine Katze,A cat,DE,EN", (2, 1)),
        ("a.csv", "Deutsch,Other", (2, 1)),
        ("a.csv", "Other,English", (2, 1)),
    ],
)
def test_a_table_is_read_the_way_that_is_asked_for(
    name: str, first: str, columns: tuple[int | str, int | str], tmp_path: Path
) -> None:
    path = str(write(tmp_path / name, [first]))
    found = files_of(path, None, NO, ("en", "de"))
    assert found.columns == columns
    again = files_of(path, None, NO, ("de", "en"))
    assert again.columns == columns[::-1]
    assert list(read_pairs(again.source, "de", "en")) == [pair[::-1] for pair in read_pairs(found.source, "en", "de")]


def test_sides_that_are_the_wrong_way_round_are_seen() -> None:
    """By the text, or else by the names; of text held out, a table can be read the other way round."""
    two = Files({"src": "a.en", "tgt": "a.de"}, ("en", "de"), "names")
    table, memory = Files({"tsv": "a.txt"}, NO, ""), Files({"tmx": "a.tmx"}, ("en", "de"), "", is_by_language=True)
    for wanted, of_text in ((("en", "de"), NO), (("de", "en"), ("de", "en")), (("src", "tgt"), ("de", "en"))):
        assert right_way(two, wanted, of_text) == two
    for wanted, of_text, how in ((("de", "en"), NO, "names"), (("en", "de"), ("de", "en"), "by the text itself")):
        with pytest.raises(InputError, match=rf"\({how}\), not .*; exchange --valid-src and --valid-tgt"):
            right_way(two, wanted, of_text, "valid-")
        assert right_way(memory, wanted, of_text) == memory
    by_column = Files({"csv": "a.csv"}, ("en", "de"), "", is_by_language=True)
    with pytest.raises(InputError, match=r"a.csv: its columns for en and de have the text of each other \(by the text"):
        right_way(by_column, ("en", "de"), ("de", "en"))
    assert right_way(by_column, ("de", "en"), NO) == by_column
    with pytest.raises(InputError, match="say --src-column 2 --tgt-column 1 --src-lang de --tgt-lang en, or exchange"):
        right_way(table, ("de", "en"), ("en", "de"))
    assert right_way(table, ("de", "en"), ("en", "de"), "test-").columns == (2, 1)
    sample = [SentencePair("집이 하나 있다.", "บ้าน"), SentencePair("두 집이 있다.", "บ้าน")]
    assert languages_of_pairs(iter(sample)) == ("ko", "th")


def test_languages_that_were_named_are_columns(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.csv", ["key,en-US,de-DE,French", "x.y,a,b,c"]))
    for asked, pair in ((("en", "de"), ("a", "b")), (("fr", "en"), ("c", "a"))):
        found = files_of(path, None, NO, asked)
        assert found.codes == asked and list(read_pairs(found.source, *asked)) == [pair]
    for asked in (("en", "ko"), ("en", "en-GB")):
        with pytest.raises(InputError, match="has the columns key, en-US"):
            files_of(path, None, NO, asked)
    path = str(write(tmp_path / "b.csv", ["en,de", "a b,c d"]))
    with pytest.raises(InputError, match="has the columns en, de"):
        files_of(path, None, NO, ("en", "ko"))
    for header, asked in (
        ("to,en", ("to", "en")),
        ("German (old),English (US),x", ("de", "en")),
        ("German (old),en,English (US),x", ("de", "en")),
    ):
        path = str(write(tmp_path / "c.csv", [header, "a,b" + ",c" * (header.count(",") - 1)]))
        assert list(read_pairs(files_of(path, None, NO, asked).source, *asked)) == [("a", "b")]


@pytest.mark.parametrize(
    ("name", "text", "codes"),
    [
        ("a.xlf", '<xliff version="1.2"><file source-language="en" target-language="fr-CA"/></xliff>', ("en", "fr-CA")),
        ("a.xliff", '<xliff version="2.0" srcLang="de" trgLang="ar"/>', ("de", "ar")),
        ("a.txt.SDLXLIFF", '<xliff version="2.0" srcLang="de" trgLang="ar"/>', ("de", "ar")),
        ("a.tmx", '<tmx><tuv lang="EN"/><tuv lang="de-DE"/><tuv lang="en"/><tuv lang="DE-DE"/></tmx>', ("en", "de-DE")),
        ("b.tmx", '<tmx><tuv lang="English (US)"/><tuv lang="Chinese (Simplified)"/></tmx>', ("en", "zh-Hans")),
        ("a.po", 'msgid ""\nmsgstr ""\n"Language: pt_BR\\n"\n', ("en", "pt_BR")),
        ("a.po", 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\nLanguage: de\\n"\n', ("en", "de")),
        ("d.po", 'msgid ""\nmsgstr ""\n"Language: German\\n"\n', ("en", "de")),
        ("b.po", 'msgid ""\nmsgstr ""\n"Language: de\\n"\n"X-Source-Language: fr\\n"\n', ("fr", "de")),
        (
            "c.po",
            '# Jörg\nmsgid ""\nmsgstr ""\n"Language: de\\n"\n"Content-Type: text/plain; charset=ISO-8859-1\\n"\n',
            ("en", "de"),
        ),
        ("a.mxliff", '<xliff version="2.0" srcLang="de" trgLang="ar"/>', ("de", "ar")),
    ],
)
def test_formats_of_translators_tell_their_languages(
    name: str, text: str, codes: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    assert files_of(str(tmp_path / name), None, NO, NO).codes == codes
    assert files_of(str(tmp_path / name), None, NO, ("xx", None)).codes == ("xx", codes[1])


def test_rows_of_several_languages_are_refused(tmp_path: Path) -> None:
    rows = [("de", "hsb", f"a {i}", f"b {i}") for i in range(9)] + [("hsb", "de", "b", "a")] * 4
    names = "source_lang", "target_lang", "source", "target"
    lines = [",".join(row) for row in rows]
    paths = {
        "a.csv": [",".join(names), *lines],
        "b.tsv": [line.replace(",", "\t") for line in lines],
        "c.jsonl": [json.dumps(dict(zip(names, row, strict=True))) for row in rows],
        "d.csv": ["id,lp,src,tgt", *[f"{i},{'en-de' if i % 2 else 'en-cs'},a {i},b {i}" for i in range(13)]],
    }
    for name, text in paths.items():
        path = str(write(tmp_path / name, text))
        with pytest.raises(InputError, match=r"rows are in several languages .*; write those of one direction into"):
            files_of(path, None, NO, NO)
    src, tgt = names[2:]
    path = str(tmp_path / "c.jsonl")
    assert files_of(path, None, (src, tgt), NO).settings == {"jsonl": path, "src_column": src, "tgt_column": tgt}
    one_way = [row for row in rows if row[0] == "de"] * 2
    for name, mark, first in ("e.csv", ",", [names]), ("f.tsv", "\t", []):
        text = [mark.join(row) for row in [*first, *one_way]]
        found = files_of(str(write(tmp_path / name, text)), None, NO, NO)
        assert (found.codes, found.how) == (("de", "hsb"), "columns of the file")
        assert files_of(str(tmp_path / name), None, NO, ("hsb", "de")).columns[0] == found.columns[1]
    # Countries are no languages.
    write(tmp_path / "g.csv", ["lang,src,tgt", *[f"en-{'US' if i % 2 else 'GB'},a {i},b {i}" for i in range(13)]])
    assert files_of(str(tmp_path / "g.csv"), None, NO, NO).columns == ("src", "tgt")


def test_columns_of_parquet_are_languages(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path = tmp_path / "a.parquet"
    write_table(pa.table({"id": [1], "de": ["b"], "en": ["a"]}), path)
    assert files_of(str(path), None, NO, ("en", "de"))[:2] == ({"parquet": str(path)}, ("en", "de"))
    far = pa.array([253402300800000000], pa.timestamp("us", "UTC"))  # the year 10000
    write_table(pa.table({"expires": far, "de": pa.array(["b"]).dictionary_encode(), "en": ["a"]}), path)
    assert files_of(str(path), None, NO, ("en", "de")).settings == {"parquet": str(path)}
    write_table(pa.table({"expires": far, "translation": [{"de": "b", "en": "a", "n": 1}]}), path)
    assert files_of(str(path), None, NO, NO)[:2] == ({"parquet": str(path)}, ("de", "en"))
    write_table(pa.table({"en": pa.array([], pa.string())}), path)
    with pytest.raises(InputError, match=r"a\.parquet: no rows with columns in it"):
        files_of(str(path), None, NO, NO)


def test_patterns_and_home_directories_lead_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [json.dumps({"en": name, "de": "x"})])
        write(tmp_path / f"{name}.en", [name])
        write(tmp_path / f"{name}.de", ["x"])
    found = files_of("~/*.jsonl", None, NO, NO)
    assert found[:2] == ({"jsonl": "~/*.jsonl"}, ("en", "de"))
    assert [pair.src for pair in read_pairs(found.source, "en", "de")] == ["a", "b"]
    both = files_of("~/*.en", "~/*.de", NO, NO)
    assert both.codes == ("en", "de")
    assert [pair.src for pair in read_pairs(both.source, "en", "de")] == ["a", "b"]
    with pytest.raises(InputError, match=r"\*\.tmx"):
        files_of("~/*.tmx", None, NO, NO)
    write(tmp_path / "deu.txt", ["Go.\tGeh.\tCC-BY 2.0", *[f"Hi {i}.\tHe {i}!\tCC-BY 2.0 (France)" for i in range(11)]])
    table = files_of("~/deu.txt", None, NO, NO)
    assert table[:2] == ({"tsv": "~/deu.txt"}, (None, None))
    assert [pair.tgt for pair in read_pairs(table.source, "en", "de")] == ["Geh.", *(f"He {i}!" for i in range(11))]


def test_a_translation_memory_names_its_languages(tmp_path: Path) -> None:
    unit = "<tu>" + "".join(f'<tuv xml:lang="{code}"><seg>x</seg></tuv>' for code in ("fr-FR", "en-US")) + "</tu>"
    path = tmp_path / "a.tmx.gz"
    path.write_bytes(gzip.compress(f'<tmx><header o-tmf="x" srclang="EN-us"/><body>{unit}</body></tmx>'.encode()))
    assert files_of(str(path), None, NO, NO)[:2] == ({"tmx": str(path)}, ("en-US", "fr-FR"))
    path.write_bytes(gzip.compress(f"<tmx>{unit}{unit.replace('fr-FR', 'de')}</tmx>".encode()))
    with pytest.raises(
        InputError, match=r"has the languages fr-FR, en-US, de; say with --src-lang and --tgt-lang which"
    ):
        files_of(str(path), None, NO, NO)
    assert files_of(str(path), None, NO, ("de", "en")).codes == ("de", "en")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.po", 'msgid "a"\nmsgstr "b"', "translated into; say --tgt-lang$"),
        ("a.xlf", '<xliff><file source-language="en"/></xliff>', "translated into; say --tgt-lang$"),
        ("a.xlf", '<xliff><file target-language="en"/></xliff>', "translated from; say --src-lang$"),
        ("a.xlf", "<xliff><file/></xliff>", "translated from and into; say --src-lang and --tgt-lang$"),
    ],
)
def test_what_does_not_tell_its_languages_asks_for_them(name: str, content: str, reason: str, tmp_path: Path) -> None:
    path = str(write(tmp_path / name, content.split("\n")))
    with pytest.raises(InputError, match=f"{name}: does not say which language it is {reason}"):
        files_of(path, None, NO, NO)
    codes = tuple("en" if option in reason else None for option in ("--src-lang", "--tgt-lang"))
    assert all(files_of(path, None, NO, codes).codes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("src", "tgt", "reason"),
    [
        ("-", None, "stdin: training reads its text more than once"),
        ("a.en", "-", "stdin: "),
        ("{}/pipe", "a.de", r"pipe \(a pipe or a device\): training reads its text more than once"),
        ("{}", "a.de", r"is a folder; name files, as .*/data/train-0.parquet, or set hub: .* and split: train in a"),
        ("{}", None, r"is a folder; name files"),
        (
            "{}/a.en",
            None,
            r"a.en: has no columns with tabs .*; of one side of the text, name the file of the other side as well, of",
        ),
        ("{}/few.txt", None, r"few.txt: has no columns with tabs"),
        ("{}/text", None, r"/text: is a folder; name files, as .*/text/a.de and .*/text/a.en$"),
        ("{}/dicts.csv", None, r"dicts.csv: column translation holds both sides as one text; save .*to_json"),
        ("{}/sentences.tsv", None, r"sentences.tsv: has one sentence a line with its language, and no pairs"),
        ("{}/sentences.csv", None, r"sentences.csv: has one sentence a line with its language, and no pairs"),
        (
            "{}/titled.csv",
            None,
            r"titled.csv: the names of its columns are below other text \(English, German\); delete",
        ),
        ("{}/chats.jsonl", None, r"chats.jsonl: none of its columns is text: id \(int\), messages \(list\); each row"),
        ("{}/variable.jsonl", None, r"variable.jsonl: none of its columns is text: language \(list\), translation"),
        (
            "{}/more/variable.parquet",
            None,
            r"variable.parquet: none of its columns is text: translation \(struct<.*; each",
        ),
        ("{}/systems.csv", None, r"begin with 'source' \(1\), 'target_x' .* of the names where these are names, to"),
        ("{}/bars.txt", None, r"bars.txt: has \|\|\| between its sides; write a tab in its place, and name it .tsv"),
        (
            "{}/verses.txt",
            None,
            r"verses.txt: which of its columns are source and target\? They begin with 'Genesis 1:1'",
        ),
        ("{}/verses.txt", "{}/verses.txt2", r"verses.txt: has columns, .* begin with a number or a name: join -t"),
        ("{}/uneven.txt", None, r"uneven.txt, line 9: 3 columns where the first line has 2"),
        ("{}/titles.tsv", None, r"which of its columns are .*'A 0' \(1\), 'A dog 0' \(2\), 'Ein Hund 0' \(3\)"),
        ("{}/keyed.tsv", None, r"which of its columns are source and target"),
        ("{}/commas.csv", None, r"commas.csv: has rows of 2 to 4 columns; give each as many"),
        ("{}/uneven.txt", "{}/a.en", r"uneven.txt: has columns, with tabs between them; name a file of pairs without"),
        ("{}/more/*.tsv", None, r"more/b.tsv: its columns are not called as those of .*/more/a.tsv"),
        ("{}/more/*.csv", None, r"more/d.csv: its columns are not called as those of .*/more/c.csv"),
        ("{}/a.en", "{}/times.de", r"times.de: subtitles"),
        ("{}/none.tsv", None, r"none.tsv: empty"),
        ("{}/a.xlsx", None, r"a.xlsx: a spreadsheet; save it as CSV"),
        ("{}/side.txt", None, r"side.txt: has no columns with tabs"),
        ("{}/empty", None, r"/empty: is an empty folder; name files"),
        ("{}/more/spark.parquet", None, r"spark.parquet: is a folder; name files"),
        ("{}/ragged.tsv", None, r"ragged.tsv, line 3: 2 columns where the first line has 3"),
        ("{}/anki.txt", None, r"anki.txt: an export of Anki"),
        ("{}/none.txt", None, r"none.txt: cannot be read"),
        ("a.tmx", "a.de", r"a.tmx: is a file of pairs, with both sides in it; name it without a second file"),
        (
            "en.json",
            "de.json",
            r"en.json and de.json: of tables and JSON, both sides are read from one file; write one",
        ),
        ("a.en", "a.en", r"a.en: is named for both sides"),
        ("a.en", "./a.en", r"./a.en: is named for both sides"),
        ("{}/none.jsonl", None, r"none.jsonl: cannot be read"),
        ("{}/none.tmx", None, r"none.tmx: cannot be read"),
        ("{}/none.parquet", None, r"none.parquet: cannot be read"),
        ("{}/empty.jsonl", None, r"empty.jsonl: no rows with columns in it"),
        ("{}/list.jsonl", None, r"list.jsonl, line 2: one JSON object a line is needed"),
        ("{}/ids.tsv", None, r"ids.tsv: which of its columns are .* begin with '17' \(1\), 'x' \(2\), '21' \(3\), "),
        ("{}/bad.jsonl", None, r"bad.jsonl, line 1: not JSON"),
        (
            "{}/indented.json",
            None,
            r"indented.json: one object over several lines, not rows; write an array or one .*json2po",
        ),
        ("{}/keys.json", None, r"keys.json: is one object, not rows; .*orient='records'"),
        ("{}/side.csv", None, r"side.csv: its first line has one column; each line needs both sides"),
        ("{}/side.jsonl", None, r"side.jsonl: columns of text found: text; each row needs two"),
        (
            "{}/three.jsonl",
            None,
            r"three.jsonl: has the columns one, two_x, three_x; say with --src-column and --tgt-column",
        ),
    ],
)
def test_what_is_no_source_is_refused(src: str, tgt: str | None, reason: str, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-0.parquet", [])
    for name in ("empty.jsonl", "a.en"):
        write(tmp_path / name, [])
    write(tmp_path / "few.txt", ["a\tb", "c"])
    (tmp_path / "text").mkdir()
    for name in ("a.en", "a.de", ".DS_Store"):
        write(tmp_path / "text" / name, ["A dog"])
    both = {"en": "A dog", "de": "Ein Hund"}
    write(tmp_path / "dicts.csv", ["id,translation", *(f'{i},"{both}"' for i in range(9))])
    write(tmp_path / "sentences.tsv", [f"{i}\t{'eng' if i % 2 else 'deu'}\tA dog {i}" for i in range(30)])
    write(tmp_path / "sentences.csv", [f'{i}\t{"eng" if i % 2 else "deu"}\t"A dog {i}" it is' for i in range(30)])
    write(tmp_path / "titled.csv", ["Captions,Exported 2024", "English,German", "A dog,Ein Hund"])
    write(tmp_path / "chats.jsonl", [json.dumps({"id": 1, "messages": [{"role": "user"}]})] * 2)
    variable = {"translation": {"language": ["en", "de"], "translation": ["A dog", "Ein Hund"]}}
    write(tmp_path / "variable.jsonl", [json.dumps(variable)] * 2)
    write(tmp_path / "systems.csv", ["source,target_x,target_y", *(f"A {i} b,Ein {i} c,Der {i} d" for i in range(9))])
    write(tmp_path / "bars.txt", ["A dog ||| Ein Hund"])
    for name in ("verses.txt", "verses.txt2"):
        write(tmp_path / name, [f"Genesis 1:{i}\tIn the beginning {i}" for i in range(1, 9)])
    write(tmp_path / "uneven.txt", ["a b\tc d"] * 8 + ["a\tb\tc"])
    write(tmp_path / "titles.tsv", [f"A {i}\tA dog {i}\tEin Hund {i}" for i in range(3)])
    write(tmp_path / "keyed.tsv", [f"News_{i}\tA dog {i}" for i in range(3)])
    write(tmp_path / "commas.csv", ["A dog, a cat,Ein Hund", "A dog,Ein Hund", "a, b, c,d"])
    write(tmp_path / "times.de", ["1", "00:00:01,000 --> 00:00:04,000", "Ein Hund"])
    write(tmp_path / "none.tsv", [])
    write(tmp_path / "a.xlsx", ["PK"])
    write(tmp_path / "side.txt", ["A dog"])
    (tmp_path / "more" / "spark.parquet" / "_temporary").mkdir(parents=True)
    write_table(pa.Table.from_pylist([variable]), tmp_path / "more" / "variable.parquet")
    (tmp_path / "empty").mkdir()
    for name, first in (("a.tsv", "a b\tc d"), ("b.tsv", "en\tde"), ("c.csv", "en,de"), ("d.csv", "de,en")):
        write(tmp_path / "more" / name, [first, "A dog,Ein Hund" if name.endswith("csv") else "A dog\tEin Hund"])
    write(tmp_path / "ragged.tsv", ["A dog\tEin Hund\tx", "A cat\tEine Katze\tx", "No\tNein"])
    write(tmp_path / "anki.txt", ["#separator:tab", "#html:true", "a\tb"])
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "list.jsonl", ["", "3"])
    write(tmp_path / "bad.jsonl", ["{a"])
    write(tmp_path / "indented.json", ["{", '  "a": "b"', "}"])
    write(tmp_path / "keys.json", [json.dumps({"menu": "a", "file": "b", "open": "c"})])
    write(tmp_path / "side.csv", ["text", "A dog"])
    write(tmp_path / "side.jsonl", ['{"id": 1, "text": "a"}'] * 2)
    write(tmp_path / "ids.tsv", ["17\tx\t21\tEin Hund"])
    write(tmp_path / "three.jsonl", [json.dumps({"one": "a", "two_x": "b", "three_x": "c", "four": 4})] * 2)
    with pytest.raises(InputError, match=reason):
        look_at(files_of(src.format(tmp_path), tgt and tgt.format(tmp_path), NO, NO).source, ("en", "de"), "text")


@pytest.mark.parametrize(
    ("name", "beginning", "reason"),
    [
        ("a.sgm.gz", "", r"SGML, with a sentence in each <seg>"),
        ("a.PROPERTIES", "", r"keys and texts of Java's; make one file .* prop2po --encoding=utf-8 -t .*; of Latin-1"),
        ("a.strings", "", r"prop2po --personality=strings --encoding=utf-8 -t .*; of UTF-16: without"),
        ("a.srt", "", r"subtitles"),
        ("a.vtt", "", r"subtitles, .*; save them as .srt, and make one .* pairs by equal times"),
        ("a.yml", "", r"YAML, .* yaml2po -t .*; Rails': yaml2po --personality=ruby"),
        ("a.resx", "", r"resx2po"),
        ("a.ftl", "", r"Fluent; make .* fluent2po"),
        ("a.pot", '# Copyright\nmsgid ""\nmsgstr ""\n', r"has no translations yet"),
        ("a.html", "", r"HTML"),
        ("a.en", '\n<srcset setid="x" srclang="any">', r"XML, with a sentence in each <seg>"),
        ("a.en", '<doc docid="x">', r"XML, with a sentence in each <seg>"),
        ("a.xml", '<?xml version="1.0"?>\n<!-- a\nb -->\n<resources>', r"android2po"),
        ("a.ts", "<!DOCTYPE TS>\n<TS>", r"lconvert -of po"),
        ("a.txt", "<!DOCTYPE html>\n<html>", r"HTML"),
        ("a.tsv", "<html>\t<head>", r"HTML"),
        ("a.xml", "<cesAlign version='1.0'>", r"links between sentences"),
        ("a.xml", "<?xml version='1.0'?><TMX>", r"a translation memory; name it \.tmx"),
        ("a.xml", "<?xml version='1.0'?><other>", r"XML; write its sentences"),
        ("a.xml", "<?xml version='1.0'?>" + "\n<!-- a comment -->" * 40, r"XML; write its sentences"),
        ("a.xml", "<?xml version='1.0'?>" + "\n<!-- a comment -->" * 40, r"XML; write its sentences"),
        ("a.txt", "#separator:tab\n#html:true\na b\tc d", r"an export of Anki"),
        ("a.txt", "# Glossary in tab-separated format\nA dog\tEin Hund\ta note\nRain\tRegen", r"remarks above it; rem"),
        ("a.sub", "{25}{45}A dog", r"subtitles"),
        ("a.sbv", "0:00:01.000,0:00:02.900\nA dog", r"subtitles"),
        ("a.lrc", "[ti:Rain]\n[00:01.00]A dog", r"subtitles"),
        (
            "a.ass",
            "Dialogue: 0,0:00:01.00,0:00:02.90,Default,,0,0,0,,A dog",
            r"subtitles, with times; save them as \.srt, and",
        ),
        ("a.sfm", "\\id GEN\n\\c 1\n\\v 1 A dog", r"USFM, with marks before its verses; write"),
        ("a.arb", '{\n  "@@locale": "en",', r"Flutter; make .* arb2po"),
        ("a.txt", '[{"en": "a", "de": "b"}]', r"JSON; name it \.jsonl"),
        ("a.php", "", r"php2po"),
        ("a.txt", "<?php\nreturn [", r"php2po"),
        ("a.xcstrings", "", r"export XLIFF"),
        ("a.txt", '{\n  "menu": "a"\n}', r"JSON; name it \.jsonl"),
        ("a.txt", '{"en": "a", "de": "b"}', r"JSON; name it \.jsonl"),
    ],
)
def test_text_with_markup_or_keys_is_refused(name: str, beginning: str, reason: str, tmp_path: Path) -> None:
    path, good = write(tmp_path / name, [beginning]), write(tmp_path / "b.de", ["<b>a</b> dog", "<s> a"])
    for src, tgt in ((path, good), (good, path), (path, None)):
        with pytest.raises(InputError, match=f"{name}: .*{reason}"):
            files_of(str(src), None if tgt is None else str(tgt), NO, NO)
    files_of(str(good), str(write(tmp_path / "c.mo", ["<unk> a"])), NO, NO)
    files_of(str(good), str(write(tmp_path / "c.pot", ["a"])), NO, NO)  # Potawatomi


@pytest.mark.parametrize("look_at_beginning", [refuse_unread, lambda path: next(json_rows(path))])
def test_of_long_lines_few_are_kept(look_at_beginning: Callable[[str], object], tmp_path: Path) -> None:
    path = write(tmp_path / "a.en", ["{" + f'"a": "{"x" * 100_000}", "b": 1' + "}"] * 50)
    tracemalloc.start()
    try:
        with contextlib.suppress(InputError):
            look_at_beginning(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # of 5 MB
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- looking


def test_a_small_corpus_is_counted_as_a_whole(tmp_path: Path) -> None:
    draw = random.Random(1)
    pairs = [(draw.choice("abcdefgh") * 3, draw.choice("wxyzabcd") * 3) for _ in range(30)]
    pairs += [("a dog", "ein Hund"), ("A dog.", "der Hund"), ("", "leer"), ("one", "eins"), ("one", "eins")]
    look = seen(tmp_path, pairs)
    assert (look.num_pairs, look.num_looked_at, look.is_all) == (35, 35, True)
    full = [pair for pair in pairs if all(pair)]
    assert look.sample == full and len(look.src_keys) == len(full)
    assert look.num_repeated == len(full) - len({*full})
    keys = [tuple(text_key(side, "near") for side in pair) for pair in full]
    counts = Counter(key for pair in {*keys} for key in {*pair})
    assert look.is_unique.tolist() == [
        pair not in keys[:i] and all(counts[key] == 1 for key in pair) for i, pair in enumerate(keys)
    ]
    assert look.is_unique[-2:].tolist() == [True, False]  # what stands there twice can be held out, once


def test_of_a_large_corpus_blocks_at_equal_distances_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CHUNK_PAIRS", 10)
    monkeypatch.setattr(looking, "_CHUNKS", 4)
    monkeypatch.setattr(looking, "_SAMPLE", 3)
    lines = [(f"a{'x' * i}", f"b{'y' * i}") for i in range(205)]
    look = seen(tmp_path, lines)
    # 21 chunks: of 16 to 31 every eighth, so the chunks 0, 8 and 16, with three pairs each.
    assert (look.num_pairs, look.num_looked_at, look.is_all) == (205, 30, True)
    places = [lines.index(tuple(pair)) for pair in look.sample]  # type: ignore[arg-type]
    assert len(places) == 9 and [place // 10 for place in places] == [0] * 3 + [8] * 3 + [16] * 3
    assert look.counted() == "205 pairs, of which 30 at equal distances were looked at"
    monkeypatch.setattr(looking, "MOST_PAIRS", 50)
    look = seen(tmp_path, lines)
    assert (look.num_pairs, look.num_looked_at, look.is_all) == (50, 30, False)
    assert look.counted().startswith("more than 50 pairs, read up to there, of which 30 ")


def test_a_corpus_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text: no pair with text on both sides"):
        seen(tmp_path, [("a", ""), ("", "b")])
    with pytest.raises(InputError, match=r"cannot be read"):
        look_at(SourceConfig(src="none.en", tgt="none.de"), ("en", "de"), "text")


# ---------------------------------------------------------------- cleaning and holding out


def test_rules_are_those_that_find_single_faults(tmp_path: Path) -> None:
    pairs = [(f"word number {i} <b>", f"слово номер {i} <b>") for i in range(500)]
    pairs += [("copy copy", "copy copy"), ("no \ufffd", "нет"), ("x" * 90, "да"), *pairs[:2]]
    told: list[str] = []
    look = seen(tmp_path, pairs)
    rules = rules_for(look, ("en", "ru"), told.append)
    found = {rule.key: rule.value for rule in rules}
    assert found == {
        "duplicates": "exact",
        "max_char_ratio": 3.0,
        "drop_identical": True,
        "drop_control_characters": True,
        "scripts": {"en": ["Latin"], "ru": ["Cyrillic"]},
        "min_script_share": 0.2,
    }
    assert [line for line in told if "HTML" in line and "left in" in line] == told and told
    kept = are_kept(look.sample, rules, ("en", "ru"))
    assert [pair for pair, is_kept in zip(look.sample, kept, strict=True) if not is_kept] == pairs[500:503]


def test_japanese_may_be_in_any_of_its_scripts(tmp_path: Path) -> None:
    pairs = [(f"这是第{i}本书", f"これは{i}番目の本です") for i in range(500)]
    pairs += [("经济产业省", "経済産業省"), ("咖啡", "コーヒー"), ("This is English", "これは英語です")]
    found = {rule.key: rule.value for rule in rules_for(seen(tmp_path, pairs), ("zh", "ja"), tell_nobody)}
    assert found["scripts"] == {"zh": ["Han"], "ja": ["Han", "Hiragana", "Katakana"]}


def test_clean_text_needs_no_rules(tmp_path: Path) -> None:
    pairs = [*{src: (src, tgt) for src, tgt in grammar.generate("train", 300)}.values()]
    assert rules_for(seen(tmp_path, pairs), ("en", "de"), tell_nobody) == []


def test_held_out_pairs_are_nowhere_else(tmp_path: Path) -> None:
    pairs = [*grammar.generate("train", 600), *grammar.generate("train", 600, seed=2)]
    look = seen(tmp_path, pairs)
    kept = [i % 3 > 0 for i in range(len(look.sample))]
    held_out = hold_out(look, kept, {}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)
    names = [tuple(path.name for path in both) for both in held_out.drawn]
    assert names == [("my.valid.en", "my.valid.de"), ("my.test.en", "my.test.de")]
    drawn = [pair for part in held_out.drawn.values() for pair in part]
    assert len(drawn) == held_out.num_drawn == 2 * 60 and len({*drawn}) == 120
    keys = {tuple(text_key(side, "near") for side in pair) for pair in pairs}
    sides = Counter(key for pair in keys for key in pair)
    assert all(sides[text_key(side, "near")] == 1 for pair in drawn for side in pair)
    allowed = {pair for pair, is_kept in zip(look.sample, kept, strict=True) if is_kept}
    assert {*drawn} <= allowed
    assert [(rule.key, rule.value) for rule in held_out.rules] == [("drop_held_out", True)]
    again = hold_out(look, kept, {}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)
    assert again.drawn == held_out.drawn


def test_given_text_is_looked_for_in_training(tmp_path: Path) -> None:
    pairs = [*grammar.generate("train", 2000)]
    look = seen(tmp_path, pairs)
    kept = [True] * len(look.sample)
    (tmp_path / "v").mkdir()
    valid = Files(
        files(tmp_path / "v", [(pairs[1200][0].upper(), "x"), ("other", "y")]).model_dump(exclude_unset=True), NO, ""
    )
    told: list[str] = []
    held_out = hold_out(look, kept, {"valid": valid, "test": valid}, ("en", "de"), tmp_path / "my.yaml", told.append)
    assert held_out.drawn == {} and [one.key for one in held_out.sources] == ["valid", "test"]
    assert [rule.key for rule in held_out.rules] == ["drop_held_out"]
    assert "1 (50.0 %) of the pairs of valid have a side in the training text" in told[0]
    # All of it is in the training text, and half of that would go.
    many = Files(files(tmp_path / "v", pairs[:1000]).model_dump(exclude_unset=True), NO, "")
    told.clear()
    held_out = hold_out(look, kept, {"valid": many, "test": many}, ("en", "de"), tmp_path / "my.yaml", told.append)
    assert held_out.rules == [] and told[0].startswith("warning: 1,000 (100.0 %)")


def test_test_text_that_is_in_training_leaves_no_text_to_draw_from(tmp_path: Path) -> None:
    pairs = [*{src: (src, tgt) for src, tgt in grammar.generate("train", 600)}.values()]
    look = seen(tmp_path, pairs)
    (tmp_path / "t").mkdir()
    test = Files(files(tmp_path / "t", pairs[:300]).model_dump(exclude_unset=True), NO, "")
    with pytest.raises(InputError, match=r"of the training pairs have a side of the test text.*name validation text"):
        hold_out(look, [True] * len(pairs), {"test": test}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)
    few = Files(files(tmp_path / "t", pairs[:3]).model_dump(exclude_unset=True), NO, "")
    held_out = hold_out(look, [True] * len(pairs), {"test": few}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)
    assert 3 / len(pairs) <= held_out.lost < 0.1 and held_out.num_drawn > 10


def test_text_about_markup_is_text(tmp_path: Path) -> None:
    for name in ("a.en", "a.de"):
        write(tmp_path / name, ["<html> is the first tag of a page.", *["A sentence."] * 9])
    assert files_of(str(tmp_path / "a.en"), str(tmp_path / "a.de"), NO, NO).codes == ("en", "de")


def test_of_text_that_stands_there_twice_some_is_held_out_once(tmp_path: Path) -> None:
    pairs = [*{src: (src, tgt) for src, tgt in grammar.generate("train", 400)}.values()]
    look = seen(tmp_path, [*pairs, *pairs])
    held_out = hold_out(look, [True] * len(look.sample), {}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)
    drawn = [pair for part in held_out.drawn.values() for pair in part]
    assert len(drawn) == len({*drawn}) > 20 and [rule.key for rule in held_out.rules] == ["drop_held_out"]


def test_text_that_repeats_cannot_be_held_out(tmp_path: Path) -> None:
    look = seen(tmp_path, [("a dog", "ein Hund"), ("a cat", "eine Katze")] * 100)
    with pytest.raises(
        InputError, match=r"can be held out: .* \(99.0 % of the pairs stand .*once more\); .*--valid-src"
    ):
        hold_out(look, [True] * 200, {}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)


def test_no_file_is_written_over(tmp_path: Path) -> None:
    pairs = [*{src: (src, tgt) for src, tgt in grammar.generate("train", 400)}.values()]
    look = seen(tmp_path, pairs)
    path = write(tmp_path / "my.test.de", ["mine"])
    with pytest.raises(InputError, match=r"my\.test\.de: is there already"):
        hold_out(look, [True] * len(look.sample), {}, ("en", "de"), tmp_path / "my.yaml", tell_nobody)
    assert path.read_text() == "mine\n"


def test_unique_sides_are_counted_over_both_sides() -> None:
    src, tgt = (np.array(keys, dtype=np.uint64) for keys in ([1, 2, 3, 9], [4, 5, 5, 1]))
    assert looking._are_unique(src, tgt).tolist() == [False, False, False, False]
    assert looking._are_unique(src[1:2], tgt[1:2]).tolist() == looking._are_unique(src[:1], src[:1]).tolist() == [True]
