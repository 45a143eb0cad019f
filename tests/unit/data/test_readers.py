"""Every kind of source gives the pairs that were put in, plain and compressed, or one line that says why not."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import polib
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from transformer_mt.config.data_sections import CleanConfig, DataConfig, SourceConfig
from transformer_mt.data.cleaning import clean
from transformer_mt.data.readers.languages import distance
from transformer_mt.data.readers.sources import check_sources, read_pairs, source_files
from transformer_mt.errors import InputError
from transformer_mt.system.lines import TOO_LONG, write_lines, write_texts
from transformer_mt.system.whole_files import replaced_file

Pairs = list[tuple[str, str]]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SUFFIXES = ["", ".gz", ".zst", ".xz"]
PAIRS = [("a dog", "ein Hund"), ("", "x"), (" \u2028 ", "ß\x85\0"), ("🙂 & <b>", '"한국어"')]
XML_PAIRS = [("a dog", "ein Hund"), ("", "x"), (" \u2028 ", "ß\x85"), ("🙂 & <b>", '"한국어"')]  # XML has no NUL


def write(path: Path, content: str | bytes) -> str:
    with replaced_file(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return str(path)


def one_line(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", " ")


def make_files(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    paths = {"src": str(directory / f"a{suffix}"), "tgt": str(directory / f"b{suffix}")}
    write_lines(paths["src"], [src for src, _ in pairs])
    write_lines(paths["tgt"], [tgt for _, tgt in pairs])
    return paths


def make_moses(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    write_lines(directory / f"corpus.en{suffix}", [src for src, _ in pairs])
    write_lines(directory / "corpus.de", [tgt for _, tgt in pairs])
    return {"moses": str(directory / "corpus")}


def make_tsv(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    path = directory / f"corpus.tsv{suffix}"
    write_lines(path, [f"{src}\t{tgt}" for src, tgt in pairs])
    return {"tsv": str(path)}


def make_csv(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    """As spreadsheets write it: CR and LF, quotes where a field needs them, a table of more columns than two."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([("id", "de", "en"), *((number, tgt, src) for number, (src, tgt) in enumerate(pairs))])
    path = directory / f"corpus.csv{suffix}"
    write_texts(path, [out.getvalue()])
    return {"csv": str(path)}


def make_headed_tsv(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    return make_tsv(directory, [("EN", " de"), *pairs], suffix)


def make_json_array(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    path = directory / f"corpus.json{suffix}"
    rows = [{"id": 7, "en": src, "de": tgt} for src, tgt in pairs]
    write_texts(path, [" \n", json.dumps(rows, ensure_ascii=len(pairs) > 2, indent=[None, 2][len(pairs) % 2])])
    return {"jsonl": str(path)}


def make_jsonl(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    path = directory / f"corpus.jsonl{suffix}"
    write_lines(path, [json.dumps({"id": 7, "en": src, "de": tgt}, ensure_ascii=len(src) > 5) for src, tgt in pairs])
    return {"jsonl": str(path)}


def make_nested_jsonl(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    path = directory / f"corpus.jsonl{suffix}"
    write_lines(path, [json.dumps({"translation": {"de": tgt, "en": src}}) for src, tgt in pairs])
    return {"jsonl": str(path)}


def tmx_of(pairs: Pairs) -> str:
    units = "".join(
        f'  <tu>\n    <tuv xml:lang="en"><seg>{escape(src)}</seg></tuv>\n'
        f'    <tuv xml:lang="de"><seg>{escape(tgt)}</seg></tuv>\n  </tu>\n'
        for src, tgt in pairs
    )
    return f'<tmx version="1.4">\n <header srclang="en"/>\n <body>\n{units} </body>\n</tmx>\n'


def make_tmx(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    return {"tmx": write(directory / f"corpus.tmx{suffix}", tmx_of(pairs))}


def make_xliff(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    units = "".join(
        f'<trans-unit id="{number}"><source>{escape(src)}</source><target>{escape(tgt)}</target></trans-unit>'
        for number, (src, tgt) in enumerate(pairs)
    )
    files = f'<file source-language="en" target-language="de"><body>{units}</body></file>'
    return {"xliff": write(directory / f"corpus.xlf{suffix}", f'<xliff version="1.2">{files}</xliff>')}


def make_po(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    catalogue = polib.POFile(wrapwidth=0)
    catalogue.metadata = {"Language": "de", "Content-Type": "text/plain; charset=UTF-8"}
    path = directory / f"corpus.po{suffix}"
    # A space in front: a message without text would be the header.
    entries = [str(polib.POEntry(msgid=f" {src}", msgstr=tgt)) for src, tgt in pairs]
    write_texts(path, [f"{catalogue}\n", *entries])
    return {"po": str(path)}


def make_parquet(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    table = pa.table({"en": [src for src, _ in pairs], "no": [1] * len(pairs), "de": [tgt for _, tgt in pairs]})
    parquet.write_table(table, directory / "corpus.parquet", row_group_size=3, compression=suffix[1:] or "none")
    return {"parquet": str(directory / "corpus.parquet")}


def make_nested_parquet(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    rows = [{"de": tgt, "fr": "non", "en": src} for src, tgt in pairs]
    parquet.write_table(pa.table({"translation": rows}), directory / "corpus.parquet")
    return {"parquet": str(directory / "corpus.parquet")}


def make_streamed_folder(directory: Path, pairs: Pairs, suffix: str) -> dict[str, Any]:
    (directory / "set").mkdir()
    write_lines(directory / "set" / "train.jsonl", [json.dumps({"en": src, "de": tgt}) for src, tgt in pairs])
    return {"hub": str(directory / "set"), "split": "train", "streaming": True}


Make = Callable[[Path, Pairs, str], dict[str, Any]]
TEXTS: list[Make] = [
    *(make_files, make_moses, make_tsv, make_headed_tsv, make_csv, make_jsonl, make_nested_jsonl, make_json_array),
]
OTHERS: list[Make] = [make_parquet, make_nested_parquet, make_streamed_folder]


def pairs_of(source: dict[str, Any], src_lang: str = "en", tgt_lang: str = "de") -> list[tuple[str, str]]:
    return list(read_pairs(SourceConfig(**source), src_lang, tgt_lang))


def refusal_of(source: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        pairs_of(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- all kinds


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", TEXTS)
def test_text_gives_its_pairs(make: Make, suffix: str, tmp_path: Path) -> None:
    source = make(tmp_path, PAIRS, suffix)
    assert pairs_of(source) == PAIRS
    files = source_files(SourceConfig(**source), "en", "de")
    assert sorted(files) == sorted(str(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [make_tmx, make_xliff])
def test_units_give_their_pairs(make: Make, suffix: str, tmp_path: Path) -> None:
    source = make(tmp_path, XML_PAIRS, suffix)
    assert pairs_of(source) == XML_PAIRS
    assert source_files(SourceConfig(**source), "en", "de") == [*source.values()]


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8), st.sampled_from(SUFFIXES))
@settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
def test_catalogue_gives_its_pairs(pairs: Pairs, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        found = pairs_of(make_po(Path(directory), pairs, suffix))
    assert found == [(one_line(f" {src}"), one_line(tgt)) for src, tgt in pairs]


@pytest.mark.parametrize("suffix", ["", ".gzip", ".zstd", ".snappy"])  # its own compression
def test_parquet_gives_its_pairs(suffix: str, tmp_path: Path) -> None:
    source = make_parquet(tmp_path, PAIRS, suffix)
    assert pairs_of(source) == PAIRS
    assert source_files(SourceConfig(**source), "en", "de") == [source["parquet"]]


@pytest.mark.parametrize("make", [make_nested_parquet, make_streamed_folder])
def test_other_forms_of_rows_give_their_pairs(make: Make, tmp_path: Path) -> None:
    assert pairs_of(make(tmp_path, PAIRS, "")) == PAIRS


@pytest.mark.parametrize("make", [make_moses, make_csv, make_headed_tsv, make_json_array, make_tmx, make_xliff])
def test_named_languages_serve_both_directions(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path, XML_PAIRS, "")
    assert pairs_of(source, "de", "en") == [(tgt, src) for src, tgt in XML_PAIRS]


# XML leaves out most control characters; of the rest, the parser makes a line end of a CR.
xml_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=20)


@pytest.mark.parametrize("make", [make_csv, make_json_array, make_nested_jsonl, make_nested_parquet])
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8))
@example([("a\nb", "a\r\nb"), ("\r", "\n\r"), ("\ufeff\x1a", "\x85\u2028\x0b\x0c\x1c")])
@settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
def test_line_ends_inside_a_text_are_spaces(make: Make, pairs: Pairs) -> None:
    with tempfile.TemporaryDirectory() as directory:
        found = pairs_of(make(Path(directory), pairs, ""))
    assert found == [(one_line(src), one_line(tgt)) for src, tgt in pairs]


@given(st.lists(st.tuples(xml_texts, xml_texts), max_size=8), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
@example([("a\nb", "\tc")], "utf-16")
def test_translation_memory_in_its_encodings(pairs: Pairs, encoding: str) -> None:
    declared = encoding.removesuffix("-sig")
    with tempfile.TemporaryDirectory() as directory:
        content = f'<?xml version="1.0" encoding="{declared}"?>\n{tmx_of(pairs)}'
        source = {"tmx": write(Path(directory) / "corpus.tmx", content.encode(encoding))}
        assert pairs_of(source) == [(one_line(src), one_line(tgt)) for src, tgt in pairs]


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("gb18030", "gb18030", "一只狗在跑🙂"),
        ("Shift_JIS", "shift_jis", "犬が走る。"),
        ("euc-kr", "euc-kr", "개가 달린다."),
        ("windows-1251", "cp1251", "Собака бежит."),
        ("utf-16", "utf-16", "犬"),
        ("utf-32", "utf-32", "犬"),
        ("utf-16", "utf-8", "犬"),  # as some programs declare what they write
        ("utf-8", "utf-16", "犬"),
        ("UTF-8", "utf-8-sig", "犬"),
    ],
)
def test_xml_in_other_encodings(declared: str, encoding: str, text: str, tmp_path: Path) -> None:
    content = f'<?xml version="1.0" encoding="{declared}"?>\n{tmx_of([("a", text)] * 3000)}'
    assert pairs_of({"tmx": write(tmp_path / "x.tmx", content.encode(encoding))}) == [("a", text)] * 3000


# Without zeros: some of them in a few controls, and nothing else, are what another encoding looks like.
plain_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r\t\ufeff"), max_size=20)


@pytest.mark.parametrize("make", [make_files, make_moses, make_tsv])
@given(st.lists(st.tuples(plain_texts, plain_texts), max_size=8), st.sampled_from(SUFFIXES))
@example([("", "\x0c")], "")
@example([("a zero \0 in a line of letters", "eine Null \0 in einer Zeile aus Buchstaben")], "")
@settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
def test_round_trip_of_lines(make: Make, pairs: Pairs, suffix: str) -> None:
    def without_white(pairs: Pairs) -> Pairs:  # a table's rows of nothing else, before its first, are empty
        return [pair if any(map(str.strip, pair)) else ("", "") for pair in pairs]

    with tempfile.TemporaryDirectory() as directory:
        assert without_white(pairs_of(make(Path(directory), pairs, suffix))) == without_white(pairs)


def test_cr_inside_a_line_is_a_space(tmp_path: Path) -> None:
    write(tmp_path / "a", b"a\rb\r\n")
    write(tmp_path / "b", b"c\r\r\n")
    assert pairs_of({"src": str(tmp_path / "a"), "tgt": str(tmp_path / "b")}) == [("a b", "c ")]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("make", [*TEXTS, make_tmx])
def test_cut_files_are_refused_by_name(make: Make, suffix: str, tmp_path: Path) -> None:
    source = make(tmp_path, XML_PAIRS * 1000, suffix)
    [path] = [file for file in tmp_path.iterdir() if file.suffix == suffix][:1]
    path.write_bytes(path.read_bytes()[:-3])
    assert refusal_of(source).startswith(f"{path}: damaged ")


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet", "tmx", "xliff", "po"])
def test_missing_files_and_directories_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"none.{kind}"
    message = f"{path}: cannot be read (No such file or directory); check the path"
    assert refusal_of({kind: str(path)}) == message
    assert refusal_of({kind: str(tmp_path)}) == f"{tmp_path}: cannot be read (Is a directory); check the path"


def test_sources_without_files_here_have_none() -> None:
    assert source_files(SourceConfig(hub="nobody/nothing", split="train"), "en", "de") == []
    assert source_files(SourceConfig(builtin="grammar", split="train", num_pairs=1), "en", "de") == []


# ---------------------------------------------------------------- several files


def test_several_files_stand_where_one_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: those of a list in its order, those of a pattern in the alphabet's."""
    for number, name in enumerate(["b", "a", "c[1]"]):
        for lang in ("en", "de"):
            write_lines(tmp_path / f"{name}.{lang}{'.gz' * (number % 2)}", [f"{name} {lang}"])
        write_lines(tmp_path / f"{name}.tsv", [f"{name} en\t{name} de"])
        write_lines(tmp_path / f"{name}.jsonl", [json.dumps({"en": f"{name} en", "de": f"{name} de"})])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    sources: list[tuple[dict[str, Any], str]] = [
        ({"tsv": ["b.tsv", "a.tsv"]}, "b a"),
        ({"tsv": "*.tsv"}, "a b c[1]"),
        ({"tsv": "~/[ab].tsv"}, "a b"),
        ({"jsonl": ["~/b.jsonl", "a*.jsonl"]}, "b a"),
        ({"jsonl": "c[1].jsonl"}, "c[1]"),  # its very name
        ({"src": ["b.en", "a.en.gz"], "tgt": ("b.de", "a.de.gz")}, "b a"),
        ({"src": "~/?.en*", "tgt": "?.de*"}, "a b"),
        ({"moses": ["b", "c[1]"]}, "b c[1]"),
        ({"moses": "~/*"}, "a b c[1]"),
    ]
    for source, expected in sources:
        assert pairs_of(source) == [(f"{name} en", f"{name} de") for name in expected.split()], source
        files = source_files(SourceConfig(**source), "en", "de")
        assert len(files) == len(expected.split()) * (1 if "tsv" in source or "jsonl" in source else 2)
        assert all(Path(file).exists() for file in files)
    assert str(SourceConfig(tsv=("a", "b", "c"))) == "a and 2 more"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"tsv": "d*.tsv"}, "d*.tsv: no file has such a name; check the path"),
        (
            {"tsv": ["a.tsv", "d.tsv"]},
            "d.tsv: cannot be read (No such file or directory); check the path, which begins in /",
        ),
        ({"moses": "d*"}, "moses d*: no file is named d*.en; check the prefix and the languages"),
        ({"moses": "*"}, "moses b: none of b.de, b.de.gz, b.de.zst, b.de.xz, b.de.bz2 is there"),
        (
            {"src": "*.en", "tgt": ["a.de"]},
            "src has 2 files (a.en, b.en), tgt 1 (a.de); file i of one side must",
        ),
        ({"src": "*.en", "tgt": "*.de"}, "*.en and *.de: b.en and c.de would belong together; let * stand for"),
    ],
    ids=range(6),
)
def test_files_that_do_not_fit_are_named(
    source: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.en", "a.de", "b.en", "c.de", "a.tsv"):
        write(tmp_path / name, "x\ty\n")
    if source.get("tgt") == ["a.de"]:
        (tmp_path / "c.de").unlink()
    assert refusal_of(source).startswith(reason)


# ---------------------------------------------------------------- each kind


def test_moses_names_what_it_looked_for(tmp_path: Path) -> None:
    make_moses(tmp_path, PAIRS, ".gz")
    prefix = str(tmp_path / "corpus")
    source = SourceConfig(moses=prefix)
    assert source_files(source, "de", "en") == [f"{prefix}.de", f"{prefix}.en.gz"]
    with pytest.raises(InputError) as caught:
        source_files(source, "en", "fr")
    assert str(caught.value) == (
        f"moses {prefix}: none of {prefix}.fr, {prefix}.fr.gz, {prefix}.fr.zst, {prefix}.fr.xz, "
        f"{prefix}.fr.bz2 is there; "
        "check the prefix and the languages"
    )
    write_lines(f"{prefix}.en.xz", ["another"])
    assert f"{prefix}.en.gz and {prefix}.en.xz are there; remove one" in refusal_of({"moses": prefix})


def test_tsv_has_numbered_columns_and_no_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", '1\t"a\tb"\tc\\t\n2\td\te\t\n')
    assert pairs_of({"tsv": path}) == [("1", '"a'), ("2", "d")]
    assert pairs_of({"tsv": path, "src_column": 4, "tgt_column": 2}) == [("c\\t", '"a'), ("", "d")]
    assert pairs_of({"tsv": path, "src_column": 2, "tgt_column": 1}) == [('"a', "1"), ("d", "2")]


def test_tsv_of_uneven_lines_is_refused(tmp_path: Path) -> None:
    """A tab inside of a text would make a translation of its second half."""
    path = write(tmp_path / "x.tsv", "\na\tb\n\nA dog said\tI go.\tc\n")
    pairs = read_pairs(SourceConfig(tsv=path), "en", "de")
    assert [next(pairs), next(pairs), next(pairs)] == [("", ""), ("a", "b"), ("", "")]
    with pytest.raises(InputError) as caught:
        next(pairs)
    assert str(caught.value) == (
        f"{path}, line 4: 3 columns where the first line has 2; mend the line, or read a table with quotes around its "
        "fields as csv with delimiter: tab"
    )
    path = write(tmp_path / "x.tsv", "a b\tc\na b c\n")
    assert refusal_of({"tsv": path}) == (
        f"{path}, line 2: 1 column where the first line has 2; mend the line, or, of a spreadsheet that left out empty "
        "cells at the ends of lines, delete the rows without a translation, or read a table with quotes around its "
        "fields as csv with delimiter: tab"
    )
    assert refusal_of({"tsv": path, "src_column": 3, "tgt_column": 1}) == (
        f"{path}, line 1: no column 3 (columns found, separated by tabs: 2); mend the line, or name the right ones "
        "with src_column and tgt_column"
    )


@pytest.mark.parametrize(
    ("keys", "pairs"),
    [
        ({}, [("a", "b")]),  # the codes are names, wherever they stand
        ({"src_column": "Note", "tgt_column": "DE"}, [("x", "b")]),
        ({"src_column": 1, "tgt_column": 3}, [("Note", "en"), ("x", "a")]),
        ({"src_column": 1, "tgt_column": 3, "header": True}, [("x", "a")]),
        ({"src_column": 3, "tgt_column": 2}, [("a", "b")]),
        ({"header": False}, [("Note", "de"), ("x", "b")]),
    ],
)
@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_columns_of_tables_have_names_or_numbers(kind: str, keys: dict[str, Any], pairs: Pairs, tmp_path: Path) -> None:
    delimiter = {"tsv": "\t", "csv": ";"}[kind]
    path = write(tmp_path / "x", "Note\tde\ten\r\nx\tb\ta\r\n".replace("\t", delimiter))
    assert pairs_of({kind: path, **keys} | ({"delimiter": ";"} if kind == "csv" else {})) == pairs


HEADERS = {
    "de-DE en_US": ("b", "a"),
    "GER Eng": ("b", "a"),
    "de-AT de en-GB": ("c", "b"),
    "fr-FR deu en": ("c", "b"),
    "German english": ("b", "a"),
    "Note ENGLISH Deutsch": ("b", "c"),
}


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_columns_are_known_by_the_languages_that_are_theirs(kind: str, tmp_path: Path) -> None:
    """In whatever order, by the nearest codes or by names; where two are as near, they have to be named."""
    path, delimiter = tmp_path / f"x.{kind}", {"tsv": "\t", "csv": ","}[kind]
    for header, pair in HEADERS.items():
        cells = header.split()
        write(path, f"{delimiter.join(cells)}\n{delimiter.join('abc'[: len(cells)])}\n")
        assert pairs_of({kind: str(path)}) == [pair]
    write(path, delimiter.join(["en-US", "de", "en-GB"]) + "\n")
    assert "no column 'en', but 2 of that language; it has en-US, de, en-GB" in refusal_of({kind: str(path)})
    write(path, f"{delimiter.join(['a', 'b', 'en', 'de'])}\n" * 2)
    assert "line 2: 'en' and 'de' once more: no names of columns" in refusal_of({kind: str(path)})
    write(path, f"en-suite room{delimiter}de-facto Norm\n")  # text
    assert pairs_of({kind: str(path), "src_column": 1, "tgt_column": 2}) == [("en-suite room", "de-facto Norm")]


@pytest.mark.parametrize("header", HEADERS)
def test_columns_with_names_are_known_by_their_languages_too(header: str, tmp_path: Path) -> None:
    row = dict(zip(header.split(), "abc", strict=False))
    lines = write(tmp_path / "x.jsonl", f"{json.dumps(row)}\n{json.dumps({'translation': row})}\n")
    for name, rows in (("flat", [row]), ("nested", [{"translation": row}])):
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        assert pairs_of({"parquet": str(tmp_path / f"{name}.parquet")}) == [HEADERS[header]]
    assert pairs_of({"jsonl": lines}) == 2 * [HEADERS[header]]
    given = {"src_column": "en", "tgt_column": header.split()[0]}
    if "en" not in row:  # what somebody names is what it is called
        assert "no column 'en'; it has " in refusal_of({"jsonl": lines, **given})


def test_of_columns_as_near_none_is_taken(tmp_path: Path) -> None:
    lines = write(tmp_path / "x.jsonl", json.dumps({"en-US": "a", "en-GB": "b", "de": "c"}) + "\n")
    assert "no column 'en', but 2 of that language; it has en-US, en-GB, de; name the right ones" in refusal_of(
        {"jsonl": lines}
    )
    assert pairs_of({"jsonl": lines}, "en-GB") == [("b", "c")]


@pytest.mark.parametrize(
    ("content", "keys", "reason"),
    [
        (
            "en;de\na;b\n",
            {},
            "1: no column 'en'; it has en;de (columns found, separated by ',', see delimiter: 1);",
        ),
        (
            "A dog.,Ein\n",
            {},
            "1: no column 'en'; it has A dog., Ein (columns found, separated by ',': 2);",
        ),
        (
            "en,de,EN\na,b,c\n",
            {"src_column": "en", "tgt_column": "de"},
            "1: 2 columns are called 'en'; it has en, de",
        ),
        ("en,de\na,b\n\nb,c,d\n", {}, "4: 3 columns where the first line has 2; mend the line"),
        (
            "id,en,de\n1,a\n",
            {},
            "2: 2 columns where the first line has 3; mend the line, or, of a spreadsheet that left out empty cells at "
            "the ends of lines, delete the rows without a translation",
        ),
        (
            "de,en,note\na,b\n",
            {},
            "2: 2 columns where the first line has 3; mend the line, or, of a spreadsheet that left out empty cells at "
            "the ends of lines, delete the columns behind the text",
        ),
        (
            "en,de\n1,a,b\n",
            {},
            "2: 3 columns where the first line has 2; mend the line, or, where all lines below the first have one "
            "more, name that column as well",
        ),
        (
            "en,de\na\\\nb,c\n",
            {},
            "2: 1 column where the first line has 2; mend the line, or, of a database that wrote \\ before line ends",
        ),
        ('en,de\n"a\nb",c\n"d\n,e\nf,g\n', {}, "4: quotes that are not as CSV has them (unexpected end of data); mend"),
        ('en,de\n"a" b,c\n', {}, "2: quotes that are not as CSV has them (',' expected after '\"'); mend the line"),
        (
            "en,de\na,b\n",
            {"delimiter": "tab"},
            "1: no column 'en'; it has en,de (columns found, separated by tabs:",
        ),
    ],
    ids=range(11),
)
def test_unusable_csv_is_refused_with_its_line(content: str, keys: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", content)
    assert refusal_of({"csv": path, **keys}).startswith(f"{path}, line {reason}")


def test_csv_as_programs_write_it(tmp_path: Path) -> None:
    """A semicolon where the comma is a decimal one; tabs; line ends of old Macs; words that are values elsewhere."""
    rows = 'en{0}de\r\n"He said ""go""{0}"{0}null\r\n\r\nNA{0}"zwei\r\nZeilen"\r\n'
    pairs = [('He said "go"{0}', "null"), ("NA", "zwei Zeilen")]
    for name, delimiter in {";": ";", "tab": "\t", "\\t": "\t", ",": ",", "|": "|"}.items():
        content = "\ufeff" + rows.format(delimiter)
        source = {"csv": write(tmp_path / "x.csv", content), "delimiter": name}
        assert pairs_of(source) == [(src.format(delimiter), tgt) for src, tgt in pairs]
        write(tmp_path / "x.csv", f"\ufeffsep={delimiter}\r\n{rows.format(delimiter)}")  # a hint for spreadsheets
        assert pairs_of(source) == [(src.format(delimiter), tgt) for src, tgt in pairs]
        write(tmp_path / "x.csv", content.replace("\r\n", "\r"))
        assert pairs_of(source) == [(src.format(delimiter), tgt) for src, tgt in pairs]


def test_fuzzy_rows_of_weblate_are_not_translated(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", '"source","target","fuzzy"\n"a","b","True"\n"c","d",""\n"e","f","False"\n')
    columns = {"src_column": "source", "tgt_column": "target"}
    assert pairs_of({"csv": path, **columns}) == [("a", ""), ("c", "d"), ("e", "f")]
    assert pairs_of({"csv": path, "src_column": 1, "tgt_column": 2, "header": False})[1] == ("a", "b")


def test_spaces_between_the_fields_of_a_csv(tmp_path: Path) -> None:
    """As people write them, whatever the first line has; a quote inside of a field is doubled."""
    for header in ("en,de", '"en", "de"', "en, de"):
        path = write(tmp_path / "x.csv", f'{header}\nGo.,Los.\n"Hi, you", "Hallo, du"\n')
        assert pairs_of({"csv": path}) == [("Go.", "Los."), ("Hi, you", "Hallo, du")]
    path = write(tmp_path / "x.csv", 'en,de\n a,"x, ""y"", "\n')
    assert pairs_of({"csv": path}) == [(" a", 'x, "y", ')]


@pytest.mark.parametrize(("kind", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_tables_of_old_macs(kind: str, delimiter: str, tmp_path: Path) -> None:
    """With CR at the ends, a TSV's first two lines were glued and the rest was lost; a large CSV was one long line."""
    pairs = [("a dog " * 100, "ein Hund"), ("b", "")] * 8000  # more than a line may have
    content = "".join(f"{src}{delimiter}{tgt}\r" for src, tgt in [("en", "de"), *pairs])
    for written in (content.encode(), content.removesuffix("\r").encode(), content.encode("utf-16")):
        assert pairs_of({kind: write(tmp_path / "x", written)}) == pairs
    path = write(tmp_path / "x", content + "x" * 5_000_000)
    assert refusal_of({kind: path}) == f"{path}: a line of more than 4 MiB; break it into lines"


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_hub_folders_of_tables_are_refused(suffix: str, tmp_path: Path) -> None:
    """The library reads null as no value, and lines between two quotes in a TSV as one."""
    path = tmp_path / f"train.{suffix}"
    path.write_text("en,de\nnull,NA\n".replace(",", {"csv": ",", "tsv": "\t"}[suffix]))
    message = refusal_of({"hub": str(tmp_path), "split": "train"})
    assert message.startswith(f"data set {tmp_path}: its files are tables of text")
    assert message.endswith(f"name the files with csv or tsv, as in {{{suffix}: {path}}}")
    assert pairs_of({suffix: str(path)}) == [("null", "NA")]


@pytest.mark.parametrize("indent", [None, 1])
def test_json_array_larger_than_what_is_read_at_once(indent: int | None, tmp_path: Path) -> None:
    pairs = [(f'{number} "[{{', "é" * (number % 700)) for number in range(1000)] + [("a" * 200_000, "b")]
    rows = [{"en": src, "de": tgt} for src, tgt in pairs]
    content = json.dumps(rows, indent=indent)
    path = write(tmp_path / "x.json", content)
    assert pairs_of({"jsonl": path}) == pairs
    line = 1 if indent is None else 4 * 501 - 1
    broken = content.replace('"500 ', "500 ")
    assert refusal_of({"jsonl": write(tmp_path / "x.json", broken)}).startswith(
        f"{path}, line {line - 1 if indent else 1} (row 501 of its array): not JSON ("
    )
    for damaged in (content[:-1], content[:-30], content + "]", content[:-1] + ",]"):
        assert ": not JSON (" in refusal_of({"jsonl": write(tmp_path / "x.json", damaged)})
    assert pairs_of({"jsonl": write(tmp_path / "x.json", " [ ]\n")}) == []


@pytest.mark.parametrize("indent", [None, 1])
def test_json_array_in_an_object(indent: int | None, tmp_path: Path) -> None:
    """{"data": [{…}, …]}, as AI Hub's corpora are, also where its one line has more than a line may."""
    pairs = [(f'{number} "[{{', "é" * (5 * number)) for number in range(1000)]
    rows = [{"en": src, "de": tgt} for src, tgt in pairs]
    for around in (
        {"data": rows},
        {'a "b': "c, [{", "n": -1.5e3, "is": None, "data": rows, "more": {"x": [{"y": 1}]}},
        {
            "schema": {"fields": [{"name": "en"}]},
            "tags": ["x", [1]],
            "none": [],
            "data": rows,
        },  # pandas: orient="table"
    ):
        path = write(tmp_path / "x.json", json.dumps(around, indent=indent, ensure_ascii=False))
        assert pairs_of({"jsonl": path}) == pairs
        cut = json.dumps({"data": rows}, indent=indent)[:-20]
        assert "(row 1,000 of its array): not JSON (" in refusal_of({"jsonl": write(tmp_path / "x.json", cut)})
    for content, reason in (
        ('{"data": [{"en": "a", "de": "b"}]} {"data": []}', "there is more behind"),
        ('{"data": [{"en": "a", "de": "b"}] and', "'}' expected behind it"),
        ('{"data": [{"en": "a", "de": "b"}], "more": [{"en": "c", "de": "d"}]}', "has another array of rows, 'more'"),
        ('{"a": [{"b": ' + "[" * 100_000 + "]" * 100_000 + "}]}\n{}", "unusable JSON (maximum recursion depth"),
    ):
        assert reason in refusal_of({"jsonl": write(tmp_path / "x.json", content)})
    keys = {f"key {i}": i for i in range(30)}
    assert (
        pairs_of({"jsonl": write(tmp_path / "x.json", json.dumps({**keys, "data": rows[:9]}, indent=1))}) == pairs[:9]
    )
    row = {"turns": [{"x": 1}], "en": "a", "de": "b"}  # one object a line
    assert pairs_of({"jsonl": write(tmp_path / "x.jsonl", f"{json.dumps(row)}\n" * 2)}) == [("a", "b")] * 2


def test_jsonl_nulls_and_blank_lines_are_empty_sides(tmp_path: Path) -> None:
    rows = ['{"en": null, "de": "a"}', "", '{"translation": null}', '{"translation": {"en": "b", "de": null}}', " "]
    path = write(tmp_path / "x.jsonl", "\n".join(rows))
    assert pairs_of({"jsonl": path}) == [("", "a"), ("", ""), ("", ""), ("b", ""), ("", "")]


def test_values_that_programs_leave_out_are_empty_sides(tmp_path: Path) -> None:
    first = '{"id": 1, "en": "a", "de": "b"}'
    rows = ['{"id": 2, "en": "c"}', '{"en": 5, "de": NaN}', '{"de": "d"}']
    path = write(tmp_path / "x.jsonl", "\n".join([first, *rows]))
    assert pairs_of({"jsonl": path}) == [("a", "b"), ("c", ""), ("5", ""), ("", "d")]
    for line, reason in (
        ('{"id": 1}', "no column 'en'"),
        ('{"en": "a", "fr": "b"}', "no column 'de'"),
        ('{"en": true, "de": "b"}', "column 'en' should be text, found bool (True)"),
    ):
        assert f"x.jsonl, line 2: {reason}" in refusal_of({"jsonl": write(tmp_path / "x.jsonl", f"{first}\n{line}")})
    for line in ('{"en": "a"}', '{"en": "a", "de": 1}'):  # a column that is missing, or has numbers, from the start
        assert "x.jsonl, line 1: " in refusal_of({"jsonl": write(tmp_path / "x.jsonl", f"{line}\n{first}")})
    nested = ['{"translation": {"en": "a", "de": "b"}}', '{"translation": {"en": "c"}}']
    assert pairs_of({"jsonl": write(tmp_path / "x.jsonl", "\n".join(nested))}) == [("a", "b"), ("c", "")]


def test_jsonl_columns_may_have_other_names_and_languages_other_columns_beside_them(tmp_path: Path) -> None:
    row = {
        "source": "a",
        "target": "b",
        "en": 1,
        "translation": {"en": "c", "de": "d", "source": "e"},
        "x": float("nan"),
    }
    path = write(tmp_path / "x.jsonl", json.dumps(row) + "\n")
    assert pairs_of({"jsonl": path, "src_column": "source", "tgt_column": "target"}) == [("a", "b")]
    assert pairs_of({"jsonl": path}, "de", "en") == [("d", "c")]
    path = write(tmp_path / "y.jsonl", '{"en": "first", "en": "last", "de": "x"}')  # as every JSON parser has it
    assert pairs_of({"jsonl": path}) == [("last", "x")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("en\tde", "not JSON (Expecting value at character 1); mend the line (one object a line, or all in one array)"),
        ('\ufeff{"en": "a", "de": "b"}', "begins with a byte order mark, as where files were joined; remove it"),
        ('{"en": "a" "de"}', "not JSON (Expecting ',' delimiter at character 12); mend the line"),
        ('{"en": "a", "de": "b"} {}', "not JSON (Extra data at character 24); mend the line"),
        ('["a", "b"]', "columns with names are needed, found list"),
        ("null", "columns with names are needed, found NoneType"),
        ('{"translation": "a"}', "columns with names are needed, found str"),
        (
            '{"en": "a", "fr\\n": 1}',
            "no column 'de'; it has en, fr; name the right ones with src_column and tgt_column",
        ),
        ('{"en": "a", "de": 5.5}', "column 'de' should be text, found float (5.5)"),
        ('{"en": ["a"], "de": "b"}', "column 'en' should be text, found list"),
        ('{"en": "a", "de": "\\udc00 b"}', "half a character ('\\udc00', a lone surrogate); mend the line"),
        ('{"en": ' + "[" * 100_000 + "]" * 100_000 + "}", "unusable JSON (maximum recursion depth exceeded"),
        ('{"en": ' + "1" * 5000 + "}", "unusable JSON (Exceeds the limit (4300 digits) for integer string conversion"),
    ],
    ids=range(13),
)
def test_unusable_json_is_refused_with_its_line(line: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", f'{{"en": "a", "de": "\\ud83d\\ude42"}}\n{line}\n')
    assert refusal_of({"jsonl": path}).startswith(f"{path}, line 2: {reason}")


def test_parquet_nulls_are_empty_sides(tmp_path: Path) -> None:
    for number, columns in enumerate(
        [
            {"en": ["a", None], "de": [None, "b"]},
            {"en": pa.array(["a", None]).dictionary_encode(), "de": pa.array([None, "b"], pa.large_string())},
        ]
    ):
        parquet.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
        assert pairs_of({"parquet": str(tmp_path / f"{number}.parquet")}) == [("a", ""), ("", "b")]
    parquet.write_table(pa.table({"translation": [{"en": "a", "de": "b"}, None]}), tmp_path / "nested.parquet")
    assert pairs_of({"parquet": str(tmp_path / "nested.parquet")}) == [("a", "b"), ("", "")]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"en": ["a"], "fr": ["b"]}, ": no column 'de'; it has en, fr; name the right ones"),
        ({"id": [], "fr": []}, ": no column 'en'; it has id, fr; name the right ones"),
        ({"translation": [{"en": "a", "fr": "b"}]}, ": no column 'de'; it has en, fr; name the right ones"),
        ({"translation": ["a"]}, ": columns with names are needed, found str"),
        ({"en": ["a"], "de": [{"x": "b"}]}, ": column 'de' should be text, found dict"),
        ({"en": ["a", "b"], "de": [None, 5]}, ", line 2: column 'de' should be text, found int (5)"),
        ({"en": ["a"], "de": [b"b"]}, ", line 1: column 'de' should be text, found bytes"),
        (
            {"en": ["a"], "de": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())},
            ": damaged Parquet file after line 0, or none at all ('utf-8' codec can't decode byte 0xff in position 0",
        ),
    ],
    ids=range(8),
)
def test_unusable_parquet_is_refused(columns: dict[str, Any], reason: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert refusal_of({"parquet": str(tmp_path / "x.parquet")}).startswith(f"{tmp_path}/x.parquet{reason}")


def test_two_columns_of_parquet_with_one_name_are_refused(tmp_path: Path) -> None:
    for names, reason in (
        (["en", "de", "de"], "2 columns are called 'de'; "),
        (["en", "note", "note"], "no column 'de'"),
    ):
        parquet.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=names), tmp_path / "x.parquet")
        assert refusal_of({"parquet": str(tmp_path / "x.parquet")}).startswith(f"{tmp_path}/x.parquet: {reason}")
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"])] * 4, names=["en", "note", "note", "de"]), tmp_path / "x")
    assert pairs_of({"parquet": str(tmp_path / "x")}) == [("a", "a")]


def test_parquet_cut_anywhere_is_refused(tmp_path: Path) -> None:
    source = make_parquet(tmp_path, PAIRS, "")
    path = Path(source["parquet"])
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert refusal_of(source).startswith(f"{path}: damaged Parquet file after line 0, or none at all (")


def test_parquet_damaged_anywhere_is_no_traceback(tmp_path: Path) -> None:
    source = make_parquet(tmp_path, PAIRS, ".zstd")
    path = Path(source["parquet"])
    whole, num_refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            pairs_of(source)
        except InputError as error:
            num_refused += 1
            assert str(path) in str(error)
    assert num_refused > len(whole) / 3 / 5


def test_streamed_data_set_that_is_damaged_is_refused_with_its_row(tmp_path: Path) -> None:
    source = make_streamed_folder(tmp_path, PAIRS, "")
    assert pairs_of({**source, "src_column": "de"}) == [(tgt, tgt) for _, tgt in PAIRS]
    assert refusal_of({**source, "split": "none"}).startswith(
        f"data set {source['hub']}, split none: cannot be loaded ("
    )
    assert "row 0: no column 'french'" in refusal_of({**source, "tgt_column": "french"})
    rows = '{"en": "a", "de": null}\n' * 3
    write(tmp_path / "set" / "train.jsonl", rows)
    assert pairs_of(source) == [("a", "")] * 3
    write(tmp_path / "set" / "train.jsonl", rows + "{\n")
    assert refusal_of(source).startswith(f"data set {source['hub']}, split train: cannot be")


# ---------------------------------------------------------------- translation memories


def tmx(tmp_path: Path, units: str, before: str = "") -> dict[str, Any]:
    return {"tmx": write(tmp_path / "x.tmx", f"{before}<tmx><header/><body>{units}</body></tmx>")}


def unit(*variants: tuple[str, str]) -> str:
    return "<tu>" + "".join(f'<tuv xml:lang="{lang}"><seg>{text}</seg></tuv>' for lang, text in variants) + "</tu>"


@pytest.mark.parametrize(
    ("variants", "pairs"),
    [
        ([("EN-us", "a"), ("de_AT", "b")], [("a", "b")]),
        ([("de", "b"), ("fr", "c"), ("En", "a")], [("a", "b")]),
        # All variants, without those of other varieties where the very one is there; equal ones once.
        ([("en-GB", "a"), ("en", "c"), ("de-AT", "b"), ("de-CH", "d")], [("c", "b"), ("c", "d")]),
        ([("en", "a"), ("en", "c"), ("de", "b"), ("en", "a")], [("a", "b"), ("c", "b")]),
        ([("en-US", ""), ("en-GB", "a"), ("de", "b")], [("a", "b")]),
        ([("en", " "), ("en-GB", "a"), ("de", "b")], [("a", "b")]),
        ([("en", "a"), ("de", " ")], [("a", " ")]),
        ([("en", "a")], [("a", "")]),
        ([("eng", "a"), ("ger", "b"), ("deu-AT", "c")], [("a", "b")]),
        ([("enm", "a"), ("ENG_us", "c"), ("deu", "b"), ("ger", "d")], [("c", "b"), ("c", "d")]),
        ([], [("", "")]),
    ],
)
def test_languages_of_a_unit(variants: Pairs, pairs: Pairs, tmp_path: Path) -> None:
    source = tmx(tmp_path, unit(("en", "x"), ("de", "y")) + unit(*variants) + unit(("en", "x"), ("de", "y")))
    assert pairs_of(source) == [("x", "y"), *pairs, ("x", "y")]


def test_a_unit_that_is_several_is_refused(tmp_path: Path) -> None:
    """A memory without ends of units made as many pairs as both sides have texts, multiplied."""
    many = unit(*((lang, f"{lang} {i}") for i in range(101) for lang in ("en", "de")))
    source = tmx(tmp_path, unit(("en", "x"), ("de", "y")) + many)
    assert refusal_of(source) == (
        f"{source['tmx']}: the unit behind 1 pairs has 101 texts in 'en' and 101 in 'de', as if it were several, and "
        "each would be paired with each; cut it"
    )


def test_languages_may_be_varieties_and_old_attributes(tmp_path: Path) -> None:
    source = tmx(tmp_path, '<tu><tuv lang="pt-BR"><seg>a</seg></tuv><tuv lang="PT"><seg>b</seg></tuv></tu>')
    assert pairs_of(source, "pt", "pt_br") == [("b", "a")]
    assert pairs_of(source, "pt-PT", "pt-BR") == [("b", "a")]


@pytest.mark.parametrize(
    ("wanted", "found", "far"),
    [
        *(("en", "eng", 0), ("en", "en_US", 1), ("en-US", "en", 1), ("en-US", "en-GB", 2), ("en", "de", None)),
        *(("zh-Hans", "zh-CN", 1), ("zh-Hans", "zho_Hans", 0), ("zh-Hans", "zh-Hans-CN", 1), ("zh-CN", "zh-TW", 3)),
        *(("zh-Hans", "zh-Hant-TW", 3), ("zh", "zh-TW", 1), ("sr-Latn", "sr-Cyrl-RS", 3), ("sr-Latn", "sr-Latn-RS", 1)),
        *(
            ("sr", "sr-Latn", 1),
            ("en", "English (US)", 0),
            ("zh-TW", "Chinese (Simplified)", 3),
            ("mi", "Ma\u0304ori", 0),
        ),
    ],
)
def test_how_far_languages_are(wanted: str, found: str, far: int | None) -> None:
    assert distance(wanted, found) == far


def test_nearest_languages_are_read(tmp_path: Path) -> None:
    source = tmx(tmp_path, unit(("en", "a"), ("en-GB", "b"), ("de", "c")) + unit(("en-GB", "b"), ("de-AT", "d")))
    assert pairs_of(source, "en-US", "de-DE") == [("a", "c"), ("b", "d")]
    assert pairs_of(source, "en-GB", "de") == [("b", "c"), ("b", "d")]


def test_languages_by_three_letters(tmp_path: Path) -> None:
    source = tmx(tmp_path, unit(("zho", "a"), ("fas", "b")))
    for src, tgt in [("zh", "fa"), ("zh-CN", "fa"), ("chi", "per"), ("cmn_Hans", "pes"), ("ZHO", "fas")]:
        assert pairs_of(source, src, tgt) == [("a", "b")]
    assert pairs_of(tmx(tmp_path, unit(("iw", "a"), ("yue", "b"))), "he", "yue") == [("a", "b")]
    with pytest.raises(InputError, match="no text in 'zh': its languages are yue, he"):
        pairs_of(tmx(tmp_path, unit(("yue", "a"), ("he", "b"))), "zh", "heb")


def test_what_languages_a_memory_has_is_told(tmp_path: Path) -> None:
    """Not "empty, loosen data.clean"."""
    source = tmx(tmp_path, unit(("en", "a"), ("de-AT", "b")) * 2)
    pairs = read_pairs(SourceConfig(**source), "fr", "de")
    with pytest.raises(InputError) as caught:
        list(pairs)
    assert str(caught.value) == (
        f"{source['tmx']}: no text in 'fr': its languages are en, de-AT; set src_lang and tgt_lang to two of them"
    )
    silent = tmx(tmp_path, unit(("", "a"), ("", "b")))
    assert "no text in 'en' or 'de': it does not tell the languages of its texts; put" in refusal_of(silent)
    assert "no text in 'en': its languages are de; set" in refusal_of(tmx(tmp_path, unit(("", "a"), ("de", "b"))))
    assert pairs_of(tmx(tmp_path, "")) == []
    path = write(tmp_path / "x.tmx", "<srcset><seg id='1'>a</seg></srcset>")  # of a test set, without languages
    assert "no TMX file (its first element is 'srcset'); check what" in refusal_of({"tmx": path})
    path = write(tmp_path / "x.tmx", "<xliff version='1.2'/>")
    assert refusal_of({"tmx": path}) == f"{path}: no TMX file (its first element is 'xliff'); read it as xliff"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('<bpt i="1">&lt;b></bpt>bold<ept i="1">&lt;/b></ept> and <ph>{0}</ph>!', "bold and {0}!"),
        ('see <hi type="x">this <hi>very</hi></hi> one<it pos="begin">[</it><ut>{\\b}</ut>', "see this very one"),
        ("word<ph>^f<sub>a footnote <hi>here</hi></sub></ph>s<sub>too</sub>", "word s"),
        ("a &amp; b &#x1F642; <![CDATA[<c> & d]]><!-- no --><?no no?>", "a & b 🙂 <c> & d"),
        ("\n   two\r\n lines&#13;", "    two  lines "),
        ("<x/>a<g>b</g>", "ab"),  # of other formats
        # A code between two words leaves a space, where there is none; a word may go on behind formatting.
        ('First line<ph x="1">&lt;br/></ph>Second line<ph/>.', "First line Second line."),
        ("End.<ph>\\n</ph>Next <ph>&lt;br></ph>(<ph>&lt;img/></ph>one)<ph>&lt;br></ph>", "End. Next (one)"),
        (
            "un<bpt i='1'>&lt;b></bpt>believ<ept i='1'>&lt;/b></ept>able H<ph>&lt;sub></ph>2<ph>&lt;/sub></ph>O",
            "unbelievable H2O",
        ),
        ("Title<ept i='1'>&lt;/p></ept><bpt i='2'>&lt;p></bpt>Text<hi type='br'>x</hi>", "Title Text x"),
        ("un<ut>{\\b </ut>believ<ut>}</ut>able<ut>\\tab </ut>b", "unbelievable b"),
        # What Trados's memories have in groups of this style are codes.
        ("<ut>{\\cs6\\f1 </ut>&lt;b><ut>}</ut>a<ut>{\\cs6 </ut>&lt;/b><ut>}</ut>b<ut>{\\cs6 </ut>%s<ut>}</ut>", "ab%s"),
        # Such a group may be whole, or end where the next code begins; of another style, or without an end, it is text.
        ("<ut>{\\cs6\\f1 &lt;b>}</ut>a<ut>{\\cs6 </ut>&lt;/b><ut>}{\\b </ut>b<ut>}</ut> c", "ab c"),
        ("<ut>{\\cs61 </ut>a<ut>}</ut> b<ut>{\\cs6 </ut> c<ut>\\tab </ut> d", "a b c d"),
        # Placeholders stay, as programs write them.
        ("<ph>%s</ph> <ph>%1$s</ph> <ph>%(n)d</ph> <ph>{{ name }}</ph> <ph>${x}</ph>", "%s %1$s %(n)d {{ name }} ${x}"),
        (
            "<ph>{n, plural, one {# file} other {# files}}</ph><ph>@user</ph>",
            "{n, plural, one {# file} other {# files}}@user",
        ),
        ('<ph>%s</ph><bpt i="1">{}</bpt>x<ept i="1">{}</ept><ph type="fmt">{}</ph>y', "%sxy"),  # memoQ's formatting
        ('<bpt i="1">{0}</bpt>here<ept i="1">{1}</ept>', "{0}here{1}"),
        ("<ph x='1'>{0}</ph> and <ph x='1'/><bpt i='2' x='2'>{2}</bpt>x<ept i='2' x='2'/>", "{0} and {0}{2}x"),
        # memoQ has the original as an attribute, OmegaT numbers its tags.
        (
            'a<ph>&lt;mq:rxt displaytext="n" val="{n}" /></ph>b<ph>&lt;mq:rxt displaytext="" val="&lt;br/>" /></ph>c',
            "a{n}b c",
        ),
        (
            'a<ph>&lt;mq:ch val="&#10;" /></ph>b<ph>&lt;mq:ch val="&amp;#9;" /></ph>c<ph>&lt;mq:ch val="→" /></ph>d',
            "a b c→d",
        ),
        ('<bpt i="0" x="0">&lt;f0></bpt>a<ept i="0">&lt;/f0></ept>b<ph x="1">&lt;br1/></ph>c', "ab c"),
        # In time that grows with their length.
        pytest.param(f"<ph>{{{'a' * 1_000_000}</ph>b", "b", id="long brace"),
        pytest.param(f"<ph>&lt;mq:{'a-' * 500_000}</ph>b", "b", id="long name"),
    ],
)
def test_text_of_a_segment(content: str, text: str, tmp_path: Path) -> None:
    noise = '<note>no <seg-x>no</seg-x></note><prop type="p">no</prop>'
    units = f'<tu>{noise}<tuv xml:lang="en">{noise}<seg>{content}</seg>{noise}</tuv>no{unit(("de", "b"))[4:]}'
    assert pairs_of(tmx(tmp_path, units)) == [(text, "b")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Click &lt;f0&gt;here&lt;/f0&gt; now.&lt;br1/&gt;Next", "Click here now. Next"),
        ("un&lt;b12>believ&lt;/b12>able &lt; 5 &lt;b> 4&gt;", "unbelievable < 5 <b> 4>"),
        ("a<hi>&lt;f0></hi>b<ph>&lt;br1/&gt;</ph>c &lt;f", "ab c <f"),
        ("&lt;f" + "1" * 500 + ">", "<f" + "1" * 500 + ">"),  # none
    ],
    ids=range(4),
)
def test_tags_in_the_text_of_omegat(content: str, text: str, tmp_path: Path) -> None:
    """Its own memories (project_save.tmx) have them so; other programs' text is text."""
    units = unit(("en", content), ("de", "b"))
    written = (
        tmx_of([])
        .replace("<header", '<header creationtool="OmegaT" o-tmf="OmegaT TMX"')
        .replace("<body>", f"<body>{units}")
    )
    assert pairs_of({"tmx": write(tmp_path / "x.tmx", written)}) == [(text, "b")]
    assert "<" in pairs_of({"tmx": write(tmp_path / "x.tmx", written.replace("OmegaT TMX", "TMX"))})[0][0]


def test_names_may_have_a_namespace_and_a_document_type(tmp_path: Path) -> None:
    content = tmx_of(PAIRS[:2]).replace("<tmx", '<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx xmlns="urn:x"')
    assert pairs_of({"tmx": write(tmp_path / "x.tmx", content)}) == PAIRS[:2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no element found: line 1, column 0"),
        (b"a\tb\n", "syntax error: line 1, column 0"),
        (b"<tmx>\n<tu>\n</tmx>", "mismatched tag: line 3, column 2"),
        (b"<tmx>\n<tu>\n", "no element found: line 3, column 0"),
        (b"<tmx>\n<seg>a & b</seg></tmx>", "not well-formed (invalid token): line 2, column 8"),
        (b'<!DOCTYPE tmx [<!ENTITY x SYSTEM "x.txt">]>\n<tmx>&x;</tmx>', "undefined entity &x;: line 2, column 5"),
        (b'<?xml version="1.0" encoding="klingon"?><tmx/>', "unknown encoding: klingon"),
        (
            b'<?xml version="1.0" encoding="hex"?><tmx/>',
            "'hex' is not a text encoding; use codecs.decode() to handle arbitrary codecs",
        ),
        (
            b'<?xml version="1.0" encoding="euc-kr"?>\n<tmx>\xff',
            "'euc_kr' codec can't decode byte 0xff in position 0: incomplete multibyte sequence",
        ),
    ],
    ids=range(9),
)
def test_damaged_xml_is_refused_with_its_line(
    content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.txt", "a secret")
    path = write(tmp_path / "x.tmx", content)
    refusal = refusal_of({"tmx": path})
    assert refusal.startswith(f"{path}: damaged XML ({reason}); ") and "secret" not in refusal


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"<tmx>\n\x1f</tmx>", "XML has no control characters, as U+001F here; remove them"),
        ("<tmx>\n\x0b</tmx>".encode("utf-16"), "XML has no control characters, as U+000B here; remove them"),
        (b"<tmx>\n\xfcber</tmx>", 'it is not UTF-8; name its encoding in the first line: <?xml version="1.0" '),
        (
            b"<tmx>\n<seg>" + "é".encode() * 65536 + b"</seg>&</tmx>",
            "an & that begins no reference is written &amp; in",
        ),
        (b"<tmx>\nA & B</tmx>", "an & that begins no reference is written &amp; in XML"),
        (b"<tmx>\nA < B</tmx>", "mend the file, or download it again"),
        (b"<tmx>\n&nbsp;</tmx>", "XML knows &amp; &lt; &gt; &quot; and &apos; alone; write the character itself"),
        (b"<tmx>\n&#x1F;</tmx>", "a reference stands for a control character, which XML has not; remove it"),
        (b'\n<?xml version="1.0"?><tmx/>', "remove what stands before <?xml, blank lines too"),
    ],
    ids=["control", "control in UTF-16", "Latin-1", "two blocks", "&", "<", "entity", "reference", "blank line"],
)
def test_what_xml_does_not_take_is_named(content: bytes, remedy: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tmx", content)
    refusal = refusal_of({"tmx": path})
    assert refusal.startswith(f"{path}: damaged XML (") and ": line 2, column " in refusal
    assert f"); {remedy}" in refusal


@pytest.mark.parametrize("kind", ["tmx", "xliff"])
def test_archives_are_no_damaged_xml(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", b"PK\x03\x04\x14\0\0\0")
    assert refusal_of({kind: path}).startswith(f"{path}: it is a ZIP archive (or a document of an office program):")


def test_pairs_before_the_damage_come_first(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tmx", tmx_of([("a", "b")] * 2000).removesuffix("</tmx>\n"))
    pairs = read_pairs(SourceConfig(tmx=path), "en", "de")
    found: Pairs = []
    with pytest.raises(InputError, match="no element found"):
        found.extend(pairs)  # keeps what came before
    assert len(found) == 2000


def test_entity_bomb_is_refused(tmp_path: Path) -> None:
    """Ten of ten of ten … would be three gigabytes."""
    entities = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 10))
    bomb = f'<!DOCTYPE tmx [<!ENTITY l0 "lol">{entities}]>\n'
    assert "amplification" in refusal_of(tmx(tmp_path, unit(("en", "&l9;")), bomb))
    assert pairs_of(tmx(tmp_path, unit(("en", "&l2;"), ("de", "b")), bomb)) == [("lol" * 100, "b")]


# ---------------------------------------------------------------- memory

LARGE: dict[str, Callable[[Path, int], None]] = {
    "tsv": lambda path, count: write_lines(path, [f"{'x' * 500}\t{'x' * 500}"] * count),
    "csv": lambda path, count: write_lines(path, ["en,de", *[f'"{"x" * 500}","{"x" * 500}"'] * count]),
    # One line, as an array: lines are as in a TSV.
    "jsonl": lambda path, count: write_texts(
        path, ["[", *[json.dumps({"en": "x" * 500, "de": "x" * 500}) + ", "] * (count - 1), '{"en": "", "de": ""}]']
    ),
    "tmx": lambda path, count: write_lines(
        path, ["<tmx><body>", *[unit(("en", "x" * 500), ("de", "x" * 500))] * count, "</body></tmx>"]
    ),
    # One group of rows, as some programs make of any file.
    "parquet": lambda path, count: parquet.write_table(
        pa.table({lang: ["x" * 500] * count for lang in ("en", "de")}), path, use_dictionary=False, compression="none"
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", LARGE)
def test_peak_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    """50,000 pairs of 1,000 characters are 50 megabytes of text."""
    suffix = "" if kind == "parquet" else ".zst"
    small, large = tmp_path / f"small.{kind}{suffix}", tmp_path / f"large.{kind}{suffix}"
    LARGE[kind](small, 3000)
    LARGE[kind](large, 50_000)
    program = (
        "import re, sys; from pathlib import Path\n"
        "from transformer_mt.config.data_sections import SourceConfig\n"
        "from transformer_mt.data.readers.sources import read_pairs\n"
        "for path in sys.argv[2:]:\n"
        "    num_pairs = sum(1 for _ in read_pairs(SourceConfig(**{sys.argv[1]: path}), 'en', 'de'))\n"
        "    print(num_pairs, re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", program, kind, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    num_small, before, num_large, after = map(int, done.stdout.split())
    assert (num_small, num_large) == (3000, 50_000)
    assert after - before < 25_000


def test_a_segment_that_is_too_long_is_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("inline_codes", "sources"):
        monkeypatch.setattr(f"transformer_mt.data.readers.{module}.LONGEST_LINE", 1000)
    path = tmp_path / "a.tmx"
    path.write_text(
        f'<tmx><tu><tuv xml:lang="en"><seg>{"x" * 3_000_000}</seg></tuv><tuv xml:lang="de"><seg/></tuv></tu></tmx>'
    )
    tracemalloc.start()
    try:
        [pair] = read_pairs(SourceConfig(tmx=str(path)), "en", "de")
        assert pair == (TOO_LONG, "")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_line_that_is_too_long_is_a_pair_that_cleaning_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformer_mt.system.lines.LONGEST_LINE", 100)
    monkeypatch.setattr("transformer_mt.data.readers.sources.LONGEST_LINE", 100)
    long = "x" * 101
    (tmp_path / "a.en").write_text(f"a\n{long}\nb\n")
    (tmp_path / "a.de").write_text("a\nb\nc\n")
    (tmp_path / "a.tsv").write_text(f"a\ta\n{long}\tb\nb\tc\n")
    (tmp_path / "a.csv").write_text(f"en,de\na,a\n{long},b\nb,c\n")
    (tmp_path / "a.jsonl").write_text(
        f'{{"en": "a", "de": "a"}}\n{{"en": "{long}", "de": "b"}}\n{{"en": "b", "de": "c"}}'
    )
    tmx = "".join(
        f'<tu><tuv xml:lang="en"><seg>{src}</seg></tuv><tuv xml:lang="de"><seg>{tgt}</seg></tuv></tu>'
        for src, tgt in [("a", "a"), (long, "b"), ("b", "c")]
    )
    (tmp_path / "a.tmx").write_text(f"<tmx><body>{tmx}</body></tmx>")
    sources: tuple[dict[str, Any], ...] = (
        {"src": f"{tmp_path}/a.en", "tgt": f"{tmp_path}/a.de"},
        {"moses": f"{tmp_path}/a"},
        {"tsv": f"{tmp_path}/a.tsv"},
        {"csv": f"{tmp_path}/a.csv"},
        {"jsonl": f"{tmp_path}/a.jsonl"},
        {"tmx": f"{tmp_path}/a.tmx"},
    )
    for source in sources:
        pairs = list(read_pairs(SourceConfig(**source), "en", "de"))
        reasons = [clean(pair, CleanConfig()).reason for pair in pairs]
        assert reasons == [None, "too_long_line", None], source


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", r"none: cannot be read \(No such file or directory\); check the path"),
        ("empty", r"empty \+ .*empty: empty, no sentence pairs; check data\.PART"),
        ("pipe", r"pipe \(a pipe or a device\): training reads its text more than once; write it to a file"),
        ("/dev/stdin", r"/dev/stdin \(a pipe or a device\): training reads"),
        ("/dev/fd/63", r"/dev/fd/63 \(a pipe or a device\): training reads"),
        ("/dev/null", r"/dev/null \(a pipe or a device\): training reads"),
        ("-", r"^stdin: training reads its text more than once; write it to a file and name that$"),
        ("folder", r"folder: cannot be read \(Is a directory\); check the path"),
        ("latin", r"latin, line 1: not UTF-8"),
    ],
)
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_sources_are_looked_at_before_anything_is_made(part: str, kind: str, words: str, tmp_path: Path) -> None:
    good = dict.fromkeys(("src", "tgt"), write(tmp_path / "good", "ein Hund\n"))
    write(tmp_path / "empty", "")
    write(tmp_path / "latin", b"\xe9t\xe9\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    path = kind if kind.startswith(("/", "-")) else str(tmp_path / kind)
    parts: dict[str, Any] = {"train": [good], "valid": [good], "test": [good]}
    parts[part] = [good, {"src": path, "tgt": path if kind == "empty" else good["tgt"]}]
    with pytest.raises(InputError, match=words.replace("PART", part)):
        check_sources(DataConfig(src_lang="en", tgt_lang="de", **parts))


def test_test_text_is_read_to_its_end(tmp_path: Path) -> None:
    good, longer = write(tmp_path / "good", "ein Hund\n"), write(tmp_path / "longer", "ein Hund\n\n")
    parts: dict[str, Any] = {"train": [{"src": good, "tgt": longer}], "test": [{"src": good, "tgt": longer}]}
    with pytest.raises(InputError, match=r"good has 1 lines?, .*longer 2"):
        check_sources(DataConfig(src_lang="en", tgt_lang="de", **parts))
    check_sources(DataConfig(src_lang="en", tgt_lang="de", train=parts["train"]))  # which is read next


def test_later_files_and_text_for_a_model_are_looked_at_too(tmp_path: Path) -> None:
    good = write(tmp_path / "good", "ein Hund\n")
    empty, none = write(tmp_path / "empty", ""), str(tmp_path / "none")

    def check(source: dict[str, Any]) -> None:
        check_sources(DataConfig(src_lang="en", tgt_lang="de", train=(SourceConfig(**source),)))

    check({"src": [empty, good], "tgt": [empty, good]})
    check({"hub": "nobody/asks-the-hub", "split": "train"})
    check({"back_translate": [empty, good], "model": "runs/x"})
    for source in ({"tsv": [good, none]}, {"distill": [good, none], "model": "runs/x"}):
        with pytest.raises(InputError, match="none: cannot be read"):
            check(source)
    with pytest.raises(InputError, match=r"empty, no sentence pairs; check data\.train"):
        check({"back_translate": empty, "model": "runs/x"})
