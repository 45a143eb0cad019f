"""XLIFF and PO as programs write them: the rules of Okapi, memoQ, Trados, Angular, Weblate and gettext."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.readers.sources import read_pairs, source_files
from transformer_mt.errors import InputError

Pairs = list[tuple[str, str]]


def pairs_of(kind: str, path: Path, content: str | bytes, src_lang: str = "en", tgt_lang: str = "de") -> Pairs:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    keys: dict[str, Any] = {kind: str(path)}
    source = SourceConfig(**keys)
    assert source_files(source, src_lang, tgt_lang) == [str(path)]
    return [(src, tgt) for src, tgt in read_pairs(source, src_lang, tgt_lang)]


def refusal_of(*given: Any) -> str:
    with pytest.raises(InputError) as caught:
        pairs_of(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- XLIFF


def xliff(units: str, languages: str = 'source-language="en-US" target-language="de"') -> str:
    body = f'<file original="a" {languages}><header><note>no</note></header><body>{units}</body></file>'
    return f'<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2" xmlns:mq="MQXliff">{body}</xliff>'


def xliff2(content: str) -> str:
    return (
        '<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en" trgLang="de">'
        f'<file id="f"><notes><note>no</note></notes><group id="g"><unit id="u">{content}</unit></group></file></xliff>'
    )


@pytest.mark.parametrize(
    ("unit", "pairs"),
    [
        ("<source>A dog</source><target>Ein Hund</target>", [("A dog", "Ein Hund")]),
        ("<source>A dog</source>", [("A dog", "")]),
        # Angular: what a code stands for, in the source only; a paired element for formatting.
        (
            '<source>Hi <x id="INTERPOLATION" equiv-text="{{ name }}"/>,<x id="LINE_BREAK" ctype="lb"/>un'
            '<x id="START_BOLD_TEXT" ctype="x-b" equiv-text="&lt;b>"/>seen</source>'
            '<target>Hallo <x id="INTERPOLATION"/>,<x id="LINE_BREAK"/>du</target>',
            [("Hi {{ name }}, unseen", "Hallo {{ name }}, du")],
        ),
        # memoQ: the original as an attribute inside of the code's text.
        (
            '<source xml:space="preserve"><bpt id="1" ctype="bold">{}</bpt>Now<ept id="1">{}</ept> '
            '<ph id="2">&lt;mq:rxt displaytext="n" val="{n}" /></ph>a<ph id="3">&lt;mq:ch val="&#10;" /></ph>b</source>'
            '<target xml:space="preserve"><ph id="2">&lt;mq:rxt displaytext="n" val="{n}" /></ph> jetzt</target>',
            [("Now {n}a b", "{n} jetzt")],
        ),
        # Trados and Okapi: segments, each a pair; as a whole where one side has others.
        (
            '<source>One. Two.</source><seg-source><mrk mtype="seg" mid="0">One.</mrk> <g id="9">'
            '<mrk mtype="seg" mid="1"><g id="5">Tw</g>o.</mrk></g></seg-source>'
            '<target><mrk mtype="seg" mid="0">Eins.</mrk> <g id="9"><mrk mtype="seg" mid="1">Zwei.</mrk></g></target>',
            [("One.", "Eins."), ("Two.", "Zwei.")],
        ),
        (
            '<source>One. Two.</source><seg-source><mrk mtype="seg" mid="0">One.</mrk> '
            '<mrk mtype="seg" mid="1">Two.</mrk></seg-source><target>Eins und '
            '<mrk mtype="seg" mid="7">zwei</mrk>.</target>',
            [("One. Two.", "Eins und zwei.")],
        ),
        # A segment in parts, and segments without names.
        (
            '<source>One. Two.</source><seg-source><mrk mtype="seg" mid="0">On</mrk><g id="9"><mrk mtype="seg" mid="0">'
            'e.</mrk></g> <mrk mtype="seg" mid="1">Two.</mrk></seg-source><target><mrk mtype="seg" mid="0">Eins.</mrk>'
            '<mrk mtype="seg" mid="1">Zwei.</mrk></target>',
            [("One.", "Eins."), ("Two.", "Zwei.")],
        ),
        (
            '<source>One. Two.</source><seg-source><mrk mtype="seg">One.</mrk> <mrk mtype="seg">Two.</mrk></seg-source>'
            '<target><g id="1"><mrk mtype="seg">Eins.</mrk></g> <mrk mtype="seg">Zwei.</mrk></target>',
            [("One. Two.", "Eins. Zwei.")],
        ),
        # Trados: changes that nobody has accepted yet.
        (
            '<source>A dog.</source><target>Ein <mrk mtype="x-sdl-deleted">Hut</mrk>'
            '<mrk mtype="x-sdl-added">Hund</mrk>.</target>',
            [("A dog.", "Ein Hund.")],
        ),
        # Weblate: states that need an edit; suggestions; escaped markup is text.
        ('<source>New</source><target state="needs-translation">New</target>', [("New", "")]),
        ('<source>Old &lt;b></source><target state="needs-review-translation">Alt</target>', [("Old <b>", "Alt")]),
        (
            "<source>a</source><target>b</target><alt-trans><source>no</source><target>nein</target></alt-trans>",
            [("a", "b")],
        ),
    ],
    ids=range(12),
)
def test_units_of_xliff_1(unit: str, pairs: Pairs, tmp_path: Path) -> None:
    content = xliff(f'<group><trans-unit id="1">{unit}<note>no</note></trans-unit></group>' * 2)
    assert pairs_of("xliff", tmp_path / "a.xlf", content) == pairs * 2
    turned = [(tgt, src) for src, tgt in pairs * 2]
    assert pairs_of("xliff", tmp_path / "a.xlf", content, "de-AT", "en") == turned


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        # Okapi keeps the original of codes apart; a unit may have suggestions and what lies between segments.
        (
            '<m:matches xmlns:m="urn:oasis:names:tc:xliff:matches:2.0"><m:match><source>no</source><target>nein'
            '</target></m:match></m:matches><originalData><data id="d1">%s</data>'
            '<data id="d2">&lt;br/></data></originalData>'
            '<segment><source>Hello <ph id="1" dataRef="d1"/>!<ph id="2" dataRef="d2"/>Bye</source>'
            '<target><ph id="1" dataRef="d1"/>, hallo!<ph id="2" dataRef="d2"/>Tschüss</target></segment>'
            "<ignorable><source> no </source></ignorable><segment><source>Two</source></segment>",
            [("Hello %s! Bye", "%s, hallo! Tschüss"), ("Two", "")],
        ),
        # Angular
        (
            '<segment><source>Hi <ph id="0" equiv="INTERPOLATION" disp="{{ name }}"/><pc id="1">!'
            '</pc></source><target>Hallo <ph id="0" equiv="INTERPOLATION"/><pc id="1">!</pc></target></segment>',
            [("Hi {{ name }}!", "Hallo {{ name }}!")],
        ),
        # A state is the segment's.
        (
            '<segment state="initial"><source>Save</source><target>Save</target></segment>'
            '<segment state="translated"><source>a</source><target>b</target></segment>'
            "<segment><source>c</source><target>d</target></segment>",
            [("Save", ""), ("a", "b"), ("c", "d")],
        ),
        # What a unit says of itself goes before what its group says.
        (
            '<segment><source translate="no">a</source><target>b</target></segment></unit>'
            '<group translate="no"><unit><segment><source>tmt</source><target>tmt</target></segment></unit>'
            '<unit translate="yes"><segment><source>c</source><target>d</target></segment></unit></group>'
            '<unit translate="no"><segment><source>key</source></segment></unit>'
            '<unit><segment><source>e <mrk translate="no">f</mrk></source><target>g f</target></segment>',
            [("a", "b"), ("c", "d"), ("e f", "g f")],
        ),
    ],
    ids=["okapi", "angular", "states", "not to be translated"],
)
def test_units_of_xliff_2(content: str, pairs: Pairs, tmp_path: Path) -> None:
    assert pairs_of("xliff", tmp_path / "a.xlf", xliff2(content)) == pairs


def test_xliff_of_other_languages_names_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.xlf"
    unit = "<trans-unit id='1'><source>a</source><target>b</target></trans-unit>"
    assert refusal_of("xliff", path, xliff(unit), "en", "fr") == (
        f"{path}: no text in 'fr': its languages are en-US, de; set src_lang and tgt_lang to two of them"
    )
    assert pairs_of("xliff", path, xliff(unit, 'source-language="en"'), "en", "fr") == [("a", "b")]  # it does not tell
    two = xliff(unit).replace("</xliff>", xliff(unit, 'source-language="en" target-language="fr"').partition(">")[2])
    assert pairs_of("xliff", path, two, "en", "fr") == [("a", "b")]  # of both files, the one that is wanted
    assert refusal_of("xliff", path, "<tmx/>") == (
        f"{path}: no XLIFF file (its first element is 'tmx'); read it as tmx"
    )


def test_codes_that_trados_explains_in_the_header(tmp_path: Path) -> None:
    tags = (
        '<tag id="3"><bpt>&lt;b></bpt><ept>&lt;/b></ept></tag><tag id="5"><ph name="n">{0}</ph></tag>'
        '<tag id="6"><ph>&lt;br/></ph></tag><tag id="7"><ph equiv-text="amp">&amp;amp;</ph></tag>'
    )
    text = '<x id="5"/> <g id="3">X</g>.<x id="6"/>Y <x id="7"/> Z'
    unit = f"<trans-unit id='1'><source>{text}</source><target>{text}!</target></trans-unit>" * 2
    header = f'<header><tag-defs xmlns="http://sdl.com/FileTypes/SdlXliff/1.0">{tags}</tag-defs>'
    content = xliff(unit).replace("<header>", header)
    assert pairs_of("xliff", tmp_path / "a.sdlxliff", content) == [("{0} X. Y & Z", "{0} X. Y & Z!")] * 2


def test_what_trados_and_memoq_have_rejected_is_not_translated(tmp_path: Path) -> None:
    source, target = (
        "".join(f'<mrk mtype="seg" mid="{i}">{text}</mrk>' for i, text in enumerate(texts)) for texts in ("ab", "xy")
    )
    unit = f"<trans-unit id='1'><source>ab</source><seg-source>{source}</seg-source><target>{target}</target>"
    states = '<seg id="0" conf="RejectedTranslation"/><seg id="1" conf="Translated"/>'
    unit += f'<seg-defs xmlns="http://sdl.com/FileTypes/SdlXliff/1.0">{states}</seg-defs></trans-unit>'
    assert pairs_of("xliff", tmp_path / "a.sdlxliff", xliff(unit * 2)) == [("a", ""), ("b", "y")] * 2
    units = "".join(
        f'<trans-unit xmlns:mq="MQXliff" mq:status="{state}"><source>a</source><target>b</target></trans-unit>'
        for state in ("Rejected", "ManuallyConfirmed")
    )
    assert pairs_of("xliff", tmp_path / "a.mqxliff", xliff(units)) == [("a", ""), ("a", "b")]


def test_codes_that_phrase_writes_as_text(tmp_path: Path) -> None:
    """{b>bold<b} and {1>any<1} are formatting, {2} a placeholder; elsewhere they are text."""
    unit = "<trans-unit><source>Click {1&gt;here&lt;1} {2}.</source><target>{b&gt;Hier&lt;b} {2}.</target></trans-unit>"
    content = xliff(unit)
    assert pairs_of("xliff", tmp_path / "a.xlf", content) == [("Click {1>here<1} {2}.", "{b>Hier<b} {2}.")]
    phrase = content.replace("<xliff ", '<xliff xmlns:m="http://www.memsource.com/mxlf/2.0" m:version="2.4" ', 1)
    assert pairs_of("xliff", tmp_path / "a.mxliff", phrase) == [("Click here {2}.", "Hier {2}.")]


def test_header_of_a_catalogue_is_no_unit(tmp_path: Path) -> None:
    """As po2xliff writes it; plural forms are units of their own there."""
    header = '<trans-unit id="1" restype="x-gettext-domain-header"><source>a: b</source></trans-unit>'
    forms = "".join(
        f'<trans-unit id="2[{form}]"><source>{src}</source><target state="translated">{tgt}</target></trans-unit>'
        for form, (src, tgt) in enumerate(PAIRS[3:])
    )
    content = xliff(f'{header}<group restype="x-gettext-plurals">{forms}</group>')
    assert pairs_of("xliff", tmp_path / "a.xlf", content) == PAIRS[3:]


def test_xliff_that_tells_no_languages(tmp_path: Path) -> None:
    """It has to, and some programs do not; nothing of such a file was read, without a word."""
    unit = "<trans-unit id='1'><source>a</source><target>b</target></trans-unit>"
    for languages in ("", 'target-language="de"', 'source-language="en"'):
        assert pairs_of("xliff", tmp_path / "a.xliff", xliff(unit, languages)) == [("a", "b")]


def test_xliff_between_varieties_of_a_language(tmp_path: Path) -> None:
    unit = "<trans-unit id='1'><source>a</source><target>b</target></trans-unit>"
    content = xliff(unit, 'source-language="pt-PT" target-language="pt-BR"')
    assert pairs_of("xliff", tmp_path / "a.xlf", content, "pt-PT", "pt-BR") == [("a", "b")]
    assert pairs_of("xliff", tmp_path / "a.xlf", content, "pt-BR", "pt-PT") == [("b", "a")]
    assert pairs_of("xliff", tmp_path / "a.xlf", content, "pt-BR", "pt") == [("b", "a")]


# ---------------------------------------------------------------- PO

HEADER = r"""# Translators, 2026
msgid ""
msgstr ""
"Project-Id-Version: app 1.0\n"
"Language: de\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"

"""
ENTRIES = r"""#. a comment
#: src/a.c:17
#, c-format
msgid ""
"Open \"%s\"\n"
"now"
msgstr "\"%s\" öffnen"

#, fuzzy, c-format
#| msgid "Old"
msgid "Close"
msgstr "Auf"

msgctxt "menu"
msgid "Quit"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

#~ msgid "gone"
#~ msgstr "weg"
"""
PAIRS = [
    ('Open "%s" now', '"%s" öffnen'),
    ("Close", ""),
    ("Quit", ""),
    ("%d file", "%d Datei"),
    ("%d files", "%d Dateien"),
]


def test_messages_of_a_catalogue(tmp_path: Path) -> None:
    """Fuzzy ones count as not translated, obsolete ones are left out, each plural form is a pair."""
    path = tmp_path / "a.po"
    assert pairs_of("po", path, HEADER + ENTRIES) == PAIRS
    assert pairs_of("po", path, HEADER + ENTRIES, "fr", "de_AT") == PAIRS  # what language messages are in is not told
    assert pairs_of("po", path, HEADER + ENTRIES, "de", "en") == [(tgt, src) for src, tgt in PAIRS]
    assert pairs_of("po", path, ENTRIES) == PAIRS  # without a header
    assert pairs_of("po", path, (HEADER + ENTRIES).replace("\n", "\r\n")) == PAIRS
    old = (HEADER + ENTRIES).replace("UTF-8", "iso-8859-1").encode("latin-1")
    assert pairs_of("po", path, old) == PAIRS
    assert pairs_of("po", path, "# once charset=iso-8859-1\n" + HEADER + ENTRIES) == PAIRS
    assert pairs_of("po", path, "\n" * 65_000 + HEADER + ENTRIES) == PAIRS
    assert pairs_of("po", path, HEADER + 'msgid "a\u2028\x85b"\nmsgstr "c"\n') == [("a\u2028\x85b", "c")]


def test_a_catalogue_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.readers.po._LINES_AT_ONCE", 100)
    path = tmp_path / "a.po"
    path.write_text(HEADER + f'msgid "{"x" * 500}"\nmsgstr "{"y" * 500}"\n\n' * 3000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_pairs(SourceConfig(po=str(path)), "en", "de")) == 3000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # of a file of 3 MB, of which polib makes more
    finally:
        tracemalloc.stop()


def test_plural_forms_are_those_of_the_language(tmp_path: Path) -> None:
    message = 'msgid "one file"\nmsgid_plural "%d files"\n'
    rule = "nplurals=2; plural=(n != 1);"
    path = tmp_path / "a.po"
    japanese = HEADER.replace("Language: de", "Language: ja").replace(rule, "nplurals=1; plural=0;")
    # The only form is for any number, and so the translation of the plural.
    assert pairs_of("po", path, japanese + message + 'msgstr[0] "%d個"\n', "en", "ja") == [("%d files", "%d個")]
    slovenian = HEADER.replace(rule, "nplurals=4; plural=(n%100==1 ? 1 : n%100==2 ? 2 : n%100==3 || n%100==4 ? 3 : 0);")
    forms = "".join(f'msgstr[{index}] "{text}"\n' for index, text in enumerate(["%d datotek", "ena", "%d dva", ""]))
    pairs = [("%d files", "%d datotek"), ("one file", "ena"), ("%d files", "%d dva")]
    assert pairs_of("po", path, slovenian + message + forms) == pairs
    assert pairs_of("po", path, HEADER.replace(rule, "nplurals=2; plural=((") + message + forms)[0] == (
        "one file",
        "%d datotek",
    )


def test_catalogues_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.readers.po._LINES_AT_ONCE", 5)
    entries = ENTRIES.replace("\n\n", "\n") * 3  # blank lines between entries are custom, not a rule
    for indent in ("", "  "):
        content = "".join(indent + line for line in (HEADER + entries).splitlines(keepends=True))
        assert pairs_of("po", tmp_path / "a.po", content) == PAIRS * 3
    path = tmp_path / "a.po"
    damaged = HEADER + ENTRIES + 'msgid "a"\nmsgstr "b\nmsgid "c"\n'
    line = damaged.count("\n") - 1
    assert refusal_of("po", path, damaged) == (f"{path}, line {line}: not as in a PO file (no text in quotes); mend it")
    damaged = HEADER + ENTRIES + 'msgid "a"\nmsgid "b"\nmsgstr "c"\n'
    assert refusal_of("po", path, damaged) == f"{path}, line {line}: not as in a PO file; mend it"
    damaged = HEADER + ENTRIES + 'msgid "a"\nmsgstr "b"c"\n'
    message = f"{path}, line {line}: not as in a PO file (unescaped double quote found); mend it"
    assert refusal_of("po", path, damaged) == message


def test_a_flag_stays_with_its_message_where_parts_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of several lines stands between the two; a part ended behind it, and what was fuzzy was trained on."""
    monkeypatch.setattr("transformer_mt.data.readers.po._LINES_AT_ONCE", 4)
    message = '#, fuzzy\nmsgctxt ""\n"a "\n"menu"\nmsgid "Quit"\nmsgstr "Los"\n'
    for between in ("", "\n"):
        assert pairs_of("po", tmp_path / "a.po", HEADER + (message + between) * 9) == [("Quit", "")] * 9


def test_comments_of_a_catalogue_may_begin_with_anything(tmp_path: Path) -> None:
    """gettext takes "#" and whatever follows for a comment; polib knows some, and refused a file with another."""
    comments = "#no space\n#= no-wrap\n#@ old\n#|msgid\n"
    assert pairs_of("po", tmp_path / "a.po", comments + HEADER + comments + ENTRIES) == PAIRS


def test_catalogue_of_another_language_names_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.po"
    assert refusal_of("po", path, HEADER + ENTRIES, "en", "fr") == (
        f"{path}: no text in 'en' or 'fr': its languages are de; set src_lang and tgt_lang to two of them"
    )
    british = HEADER.replace("Language: de", "Language: en_GB") + ENTRIES
    assert "its languages are en_GB" in refusal_of("po", path, british, "en", "de")  # English messages, in English
    told = HEADER.replace('"Language', '"X-Source-Language: fr\\n"\n"Language') + ENTRIES
    assert pairs_of("po", path, told, "de", "fr") == [(tgt, src) for src, tgt in PAIRS]
    assert "its languages are fr, de" in refusal_of("po", path, told, "en", "de")
    assert "not in the encoding that its header names" in refusal_of("po", path, HEADER.replace("UTF-8", "klingon"))
