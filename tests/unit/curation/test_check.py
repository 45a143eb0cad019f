"""Findings: none about good text, and each kind of damage is found where it is."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from harness import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transformer_mt.config.data_sections import CleanConfig, DataConfig, SourceConfig
from transformer_mt.curation.check import check
from transformer_mt.curation.common import Finding
from transformer_mt.curation.repeated_texts import fillers_of
from transformer_mt.curation.shifted_lines import Sides, find_shifts
from transformer_mt.curation.text_faults import FAULTS, TIMES, faults_of, no_text
from transformer_mt.data.pairs import Chunk, NamedSource
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.toy_corpus import grammar

Pairs = Sequence[tuple[str, str]]
LETTERS = "abcdefghijklmnop"


@pytest.fixture(autouse=True)
def _one_process() -> object:
    with patch("transformer_mt.system.processes.num_cores", return_value=1):
        yield


def source(directory: Path, name: str, pairs: Pairs) -> SourceConfig:
    src = write(directory / f"{name}.en", [src for src, _ in pairs])
    tgt = write(directory / f"{name}.de", [tgt for _, tgt in pairs])
    return SourceConfig(src=str(src), tgt=str(tgt))


def data_of(directory: Path, train: Pairs, valid: Pairs = (), test: Pairs = ()) -> DataConfig:
    return DataConfig(
        src_lang="en",
        tgt_lang="de",
        train=(source(directory, "train", train),),
        valid=(source(directory, "valid", valid),) if valid else (),
        test=(source(directory, "test", test),) if test else (),
    )


def findings(data: DataConfig) -> list[str]:
    return [finding.text for finding in check(data)]


def good_pairs(count: int, split: str = "train") -> list[tuple[str, str]]:
    return list(grammar.generate(split, count))  # type: ignore[arg-type]


def test_good_text_has_no_findings(tmp_path: Path) -> None:
    assert findings(data_of(tmp_path, good_pairs(2500), good_pairs(50, "valid"), good_pairs(50, "test"))) == []


def test_sources_without_text_are_findings(tmp_path: Path) -> None:
    """Training refuses the first, and has nothing to score in the others."""
    good = good_pairs(30)
    one_sided = [("", "x"), (" ", "y"), ("z", "\u3000")]
    data = data_of(tmp_path, good, [("", ""), (" ", "")], one_sided)
    found = findings(data.model_copy(update={"train": (source(tmp_path, "none", []), *data.train)}))
    assert [finding.partition(" (")[0] for finding in found] == [
        "valid.0: none of its 2 pairs has text on both sides",
        "test.0: none of its 3 pairs has text on both sides",
        "train.0: empty, no sentence pairs",
    ]


def test_looking_at_text_does_not_load_torch(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "data: {src_lang: en, tgt_lang: de, train: [{builtin: grammar, split: train, num_pairs: 20}]}\n"
    )
    program = (
        "import sys; from transformer_mt.cli.data import check, stats; from pathlib import Path; "
        "check(Path('c.yaml')); stats(Path('c.yaml'), Path('p.html')); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert (done.stdout.splitlines()[0], done.stderr) == ("nothing found", "wrote p.html\n")


@pytest.mark.parametrize("pairs", [[("A dog.", "Ein Hund.")], [("", ""), ("A dog.", "Ein Hund.")]])
def test_tiny_corpora_have_none(tmp_path: Path, pairs: Pairs) -> None:
    """A blank line of both sides is no leak, and none of the training text's business."""
    assert findings(data_of(tmp_path, pairs, [("One.", "Eins.")])) == []
    [finding] = findings(data_of(tmp_path, pairs, [("", ""), ("One.", "Eins.")]))
    assert finding.startswith("valid.0: 1 (50.0 %) of 2 pairs are blank on both sides: pair 1 (")


texts = st.lists(st.sampled_from(["a", "A", "b", "가", ".", " "]), max_size=3).map("".join)
pair_lists = st.lists(st.tuples(texts, texts), max_size=12)


def near(text: str) -> str:
    return "".join(character.lower() for character in text if character.isalpha()) or text.strip()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pair_lists, pair_lists)
def test_leaks_are_those_of_sets(tmp_path: Path, train: Pairs, valid: Pairs) -> None:
    expected = []
    told: set[int] = set()  # lines that leak as whole pairs
    for unit, sides in (("pairs", (0, 1)), ("source sides", (0,)), ("target sides", (1,))):

        def key(pair: tuple[str, str], is_near: bool, sides: tuple[int, ...] = sides) -> tuple[str, ...]:
            return tuple(near(pair[side]) if is_near else pair[side].strip() for side in sides)

        exact, close = (
            [
                line
                for line, pair in enumerate(valid, 1)
                if line not in told
                and any(key(pair, is_near))
                and key(pair, is_near) in {key(other, is_near) for other in train}
            ]
            for is_near in (False, True)
        )
        told |= {*close} if unit == "pairs" else set()
        if close:
            expected.append((unit, len(exact), len(close), close[0]))
    found = [one for one in findings(data_of(tmp_path, train, valid)) if "in the training text" in one]
    found.sort(
        key=lambda one: ["pairs", "source sides", "target sides"].index(
            one.split(" of ")[1].split(" ", 1)[1].split(" are")[0]
        )
    )
    assert len(found) == len(expected)
    for line, (unit, exact_count, near_count, first) in zip(found, expected, strict=True):
        assert line.startswith(f"valid.0: {near_count} (")
        assert (
            f" of {len(valid)} {unit} are in the training text, {exact_count} of them exactly: line {first} = " in line
        )


def test_leaks_have_examples_of_both_places(tmp_path: Path) -> None:
    train = [("One.", "Eins."), ("A cat.", "Eine Katze."), ("A dog.", "Ein Hund."), ("a DOG", "Hunde")]
    test = [("New.", "Neu."), *[("A dog!", "Ein Tier.")] * 7]
    with patch("transformer_mt.data.pairs.CHUNK_PAIRS", 2):
        assert findings(data_of(tmp_path, train, test=test)) == [
            "test.0: 7 (87.5 %) of 8 source sides are in the training text, 0 of them exactly: "
            + "; ".join(f"line {line} = train.0, line 3 (A dog!)" for line in range(2, 7))
            + "; data.clean.drop_held_out: true leaves them out of training"
        ]


def test_text_that_two_held_out_parts_share_is_told(tmp_path: Path) -> None:
    valid, test = good_pairs(20, "valid"), good_pairs(30, "test")
    assert findings(data_of(tmp_path, good_pairs(50), valid, [*test, *valid[:2]])) == [
        "test.0: 2 (6.2 %) of 32 pairs are in valid.0 as well, by which the best checkpoint is chosen: its scores will "
        "be too good; take other pairs"
    ]


def test_what_held_out_text_costs_is_told_where_it_is_much(tmp_path: Path) -> None:
    pairs = [*{pair[0]: pair for pair in good_pairs(60)}.values()][:40]

    def told(valid: Pairs) -> list[Finding]:
        data = data_of(tmp_path, pairs, valid)
        return check(data.model_copy(update={"clean": CleanConfig(drop_held_out=True)}))

    assert told(pairs[:4]) == []
    text = "train: {} of 40 pairs have a side of the validation or test text: drop_held_out leaves them out of training"
    assert told(pairs[:10]) == [Finding(text.format("10 (25.0 %)"), ruins=False)]
    assert told(pairs) == [Finding(text.format("40 (100.0 %)"), ruins=True)]


def test_one_text_that_fills_a_corpus_is_found(tmp_path: Path) -> None:
    pairs = good_pairs(900)
    unknown = [(src, tgt if i % 5 else "N/A") for i, (src, tgt) in enumerate(pairs)]
    [finding] = check(data_of(tmp_path, unknown))
    assert finding.ruins and finding.text.startswith(
        "train.0: 'N/A' stands beside 180 different texts, in 20.0 % of the target"
    )
    named = NamedSource("warning", SourceConfig(tsv="a.tsv"), ("en", "de"))
    [warning] = fillers_of([SentencePair(*pair) for pair in unknown], named)
    assert warning.startswith(
        "warning: 'N/A' stands beside 180 different texts, in 20.0 % of the target sides at least"
    )
    assert warning.endswith("; if it does not say the same, write nothing in its place (a.tsv)")
    several = [
        (src, ("N/A", "#N/A", "TODO", "-")[i // 4 % 4] if i % 4 == 0 else tgt) for i, (src, tgt) in enumerate(pairs)
    ]
    [finding] = check(data_of(tmp_path, several))
    assert finding.ruins and finding.text.startswith("train.0: 'N/A', '#N/A', 'TODO', '-' stand beside 225 different")
    [finding] = check(data_of(tmp_path, [(src, "\\N" if i < 6 else tgt) for i, (src, tgt) in enumerate(pairs[:90])]))
    assert not finding.ruins and finding.text.startswith(r"train.0: '\\N' stands beside 6 different texts, in 6.7 % of")
    assert (
        findings(data_of(tmp_path, [(src, "Ja." if i < 6 else tgt) for i, (src, tgt) in enumerate(pairs[:90])])) == []
    )
    [finding] = check(data_of(tmp_path, [*pairs, *[("A dog", "Ein Hund")] * 50]))
    assert not finding.ruins
    assert finding.text.startswith("train.0: 50 (5.3 %) of 950 pairs are all the same, 'A dog' = 'Ein Hund'; data.")


@pytest.mark.parametrize(
    ("damage", "rule", "told"),
    [
        (("A copy of me ", "A copy of me"), "drop_identical", "are the same on both sides"),
        (("A bell", "Glo\x7fcke"), "drop_control_characters", "hold control characters"),
        (("x" * 3001, "y"), "max_chars", "are longer than 3,000 characters"),
    ],
)
def test_what_cleaning_leaves_out_ruins_nothing(damage: tuple[str, str], rule: str, told: str, tmp_path: Path) -> None:
    data = data_of(tmp_path, [*good_pairs(50), *[(src + " ", tgt) for src, tgt in [damage] * 8]])
    for value, ruins in (
        (3000 if rule == "max_chars" else True, False),
        (None if rule == "max_chars" else False, True),
    ):
        found = check(data.model_copy(update={"clean": CleanConfig.model_validate({rule: value})}))
        [finding] = [one for one in found if told in one.text]
        assert finding.ruins == ruins
        assert (f"data.clean.{rule} leaves them out" in finding.text) == ruins
        assert ("; cleaning leaves them out" in finding.text) != ruins


def test_rules_that_leave_no_text_ruin_a_corpus(tmp_path: Path) -> None:
    src, tgt = ("\u2028".join(side) for side in zip(*good_pairs(200), strict=True))
    data = data_of(tmp_path, [(src, tgt)])
    found = [one for one in check(data) if "longer than" in one.text]
    assert all(one.ruins and "look at the file's line ends (U+2028 is none)" in one.text for one in found) and found


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (('"No, go."', "„Nein, geh“."), None),
        (('"No, go."', "— Nein, geh."), None),
        (("copy", "Copy"), None),
        ((" copy", "copy "), "copy"),
    ],
)
def test_what_stands_on_both_sides_in_each_sides_manner(pair: tuple[str, str], expected: str | None) -> None:
    found = faults_of(Chunk(0, 0, [pair[0]], [pair[1]]), ("en", "de"), longest=100)
    assert [fault for unit, fault in found if unit == "pairs"] == ([expected] if expected else [])
    found = faults_of(Chunk(0, 0, [pair[0]], [pair[1]]), ("en", "en"), longest=100)  # from one variety into another
    assert "copy" not in [fault for _, fault in found]


def faults(text: str, other: str = "x") -> list[str]:
    return [fault for _, fault in faults_of(Chunk(0, 0, [text], [other]), ("en", "de"), longest=100)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", []),
        ("Käse – “ok” … ½ 10 €", []),
        ("« L’été\u00a0» à l’« ÉCOLE\u00a0»\u00a0: É\u00a0! CAFÉ» É»", []),
        ("MANHÃ, NÃO, SÃO; Å, Ø, ÄÖÜ, Ÿ, ð, þ", []),
        ("안녕하세요 Привет 你好 नमस्ते", []),
        ("tab\tinside", ["tabs"]),
        ("00:01:02,500 --> 00:01:04,000", ["times"]),
        ("0:00:01.000,0:00:02.900", ["times"]),
        ("[00:12.00]Good day", ["times"]),
        ("Wa@@ ter", ["pieces"]),
        ("▁Wa ter", ["pieces"]),
        ("@@ -1,3 +1,3 @@, a ▁ and me@@home", []),
        ("menu.file.open", ["keys"]),
        ("12,345.67", ["numbers"]),
        ("# 7: 10/12", ["numbers"]),
        ("No. 7", []),
        ("- ...", []),
        ("Error 3: see example.org/help.", []),
        (f"a{'_' * 90} b", []),  # in no time
        ("E.g.", []),
        ("a\0b", ["NUL"]),
        ("a\x07b", ["control"]),
        ("a\u0085b", ["control"]),
        ("a\ufffdb", ["lost"]),
        ("\ufeffa", ["bom"]),
        ("Ka\u0308se", ["nfc"]),
        ("KÃ¤se", ["mojibake"]),
        ("itâ€™s", ["mojibake"]),
        ("10Â\u00a0km", ["mojibake"]),
        ("a\0\ufffd", ["NUL", "lost"]),
        ("a" * 101, ["long"]),
        ("\u3000", ["half"]),
        ('"He said ""go"" and left."', ["quoted", "doubled", "one_quoted"]),
        ('"Go!"', ["quoted"]),
        ('"No, go!"', ["quoted", "one_quoted"]),
        ("K√§se", ["mojibake"]),
        ("weiЯ, Mдnner", ["misread"]),
        ("wei▀e M\u03a3nner, B\u207fsche", ["misread"]),
        ("M‰nner, l'ÈtÈ dernier", ["misread"]),
        ("Ïðèâåò, Ìàðèÿ", ["misread"]),
        ("Wi-Fi-сеть, 5 kΩ, Σ, naïve, créée, Müßig, SMSка, oïðe", []),
        (r"M\xe4nner", ["escape"]),
        (r"M\303\244nner", ["escape"]),
        ("M=C3=A4nner", ["escape"]),
        ("M+AOQ-nner", ["escape"]),
        (r"M\"anner, \'{e}", ["escape"]),
        ("Two%20young%2C%20men", ["escape"]),
        ("http://a.b/Two%20young%2C%20men", []),
        ("1+A and x=20 with 5%20 off", []),
        ("b'Zwei M'", ["literal"]),
        ("['Zwei', 'junge']", ["literal"]),
        ('{"id": 0, "text": "A dog"}', ["literal"]),
        ("[Applause] {name}: [1]", []),
        (r"A dog.\nA cat.\n", ["line_end"]),
        (r"C:\new\text, \\n", []),
        ("Ge\u00adbäude", ["invisible"]),
        ("young\u200b men", ["invisible"]),
        ("\u0e01\u200b\u0e02 \u05d0\u200e", []),
        ("K├ñse", ["mojibake"]),
        ("√2 and √(x), ¬p, √π, √∞", []),
        ("M\uf0fcnner", ["control"]),
        ("M?nner", ["letter"]),
        ("Who? I? see, at example.org/p.php?id=3 and a.b?c", []),
        ("什么?你说什么?", []),
        ("he said “Tsch?ss”", ["letter"]),
        (r"M\u00e4nner in C:\users", ["escape"]),
        ("M&auml;nner", ["html"]),
        ("<p>Rain</p>", ["html"]),
        ("R&D < 3", []),
        ('"Go!" he said. "Now!"', []),
        ('He said ""go"".', []),
    ],
)
def test_faults_of_a_side(text: str, expected: list[str]) -> None:
    assert faults(text) == expected
    assert faults("good", text) == expected


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("", ""), ["blank"]),
        (("Undo", "Undo"), ["copy"]),
        (("12", "12"), ["numbers", "numbers"]),
        (("en", "de"), ["header"]),
        (("EN ", "DE"), ["header"]),
        (("Source text", "translation"), ["header"]),
        (("source", "Quelle"), []),
        (("de", "en"), []),
    ],
)
def test_faults_of_a_pair(pair: tuple[str, str], expected: list[str]) -> None:
    assert faults(*pair) == expected


@pytest.mark.parametrize("text", ["Größe", "‘so’ – “yes” €", "안녕하세요", "Привет", "日本語", "😀", "é", "naïve"])
def test_utf8_read_as_windows_1252_is_found(text: str) -> None:
    # As browsers do it: the five bytes that Windows-1252 lacks become control characters.
    damaged = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode())
    assert "mojibake" in faults(damaged)
    assert "mojibake" not in faults(text)


def test_references_are_told_with_what_makes_text_of_them(tmp_path: Path) -> None:
    [finding] = check(data_of(tmp_path, [(f"{src} It &apos;s .", tgt) for src, tgt in good_pairs(20)]))
    assert "references as &apos; (which Moses' deescape-special-chars.perl makes text)" in finding.text


def test_damage_is_told_by_file_and_line(tmp_path: Path) -> None:
    data = data_of(tmp_path, good_pairs(20))
    path = tmp_path / "train.de"
    lines = path.read_bytes().split(b"\n")
    lines[0] = b"\xef\xbb\xbf" + lines[0]  # at the start of a file it is none
    for number in range(3, 10):
        lines[number] += "\ufffd".encode()
    path.write_bytes(b"\n".join(lines))
    assert findings(data) == [
        "train.0: 7 (35.0 %) of 20 target sides hold U+FFFD, which stands for a character that was lost: "
        f"pairs 4, 5, 6, 7, 8, …; data.clean.drop_control_characters leaves them out ({tmp_path / 'train.en'} + {path})"
    ]


def test_what_cannot_be_read_is_a_finding_and_the_rest_is_checked(tmp_path: Path) -> None:
    pairs = good_pairs(30)
    data = data_of(tmp_path, pairs, valid=pairs[5:6])
    damaged = tmp_path / "cut.en.gz"
    damaged.write_bytes(gzip.compress(b"line\n" * 9999)[:-20])
    broken = SourceConfig(src=str(damaged), tgt=str(damaged))
    missing = SourceConfig(moses=str(tmp_path / "nothing"))
    (tmp_path / "train.en").open("a").write("one more\n")
    found = findings(data.model_copy(update={"train": (missing, *data.train, broken), "test": (missing,)}))
    assert len(found) == 6  # what is not there is named in two parts, and told once
    for part in (
        "are the same on both sides",
        "are all the same",
        "nothing",
        f"{tmp_path / 'train.de'} has 30 lines",
        "damaged gzip file",
    ):
        assert any(part in finding for finding in found), part
    assert any(
        "of 1 pairs are in the training text, 1 of them exactly: line 1 = train.1, line 6 " in one for one in found
    )


def test_bytes_that_are_not_utf8_are_told_once(tmp_path: Path) -> None:
    data = data_of(tmp_path, good_pairs(10))
    path = tmp_path / "train.en"
    path.write_bytes(path.read_bytes() + b"\xe9t\xe9\n" * 2)
    (tmp_path / "train.de").open("a").write("x\n" * 2)
    [finding] = check(data)
    assert finding.text.startswith(f"{path}, line 11: not UTF-8") and finding.ruins


DAMAGED = [("It's 3.", "KÃ¤se"), ("a lost one", "verlo\ufffdren"), ("A bell", "Glo\x7fcke"), ("Cheese", "Ka\u0308se")]


def test_findings_do_not_depend_on_the_format(tmp_path: Path) -> None:
    """Escaped or not, in rows or in elements: it is text that is judged."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    rows = [{"en": src, "de": tgt} for src, tgt in DAMAGED]
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>{src}</seg></tuv><tuv xml:lang="de"><seg>{tgt}</seg></tuv></tu>'
        for src, tgt in DAMAGED
    )
    write(tmp_path / "escaped.jsonl", [json.dumps(row) for row in rows])
    write(tmp_path / "plain.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
    (tmp_path / "array.json").write_text(json.dumps(rows))
    (tmp_path / "m.tmx").write_text(f'<tmx version="1.4"><header/><body>{units}</body></tmx>')
    write(tmp_path / "t.tsv", ["\t".join(pair) for pair in DAMAGED])
    write(tmp_path / "t.csv", ["en,de", *(",".join(pair) for pair in DAMAGED)])
    write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    kinds = {
        "jsonl": ("escaped.jsonl", "plain.jsonl", "array.json"),
        "tmx": ("m.tmx",),
        "tsv": ("t.tsv",),
        "csv": ("t.csv",),
        "parquet": ("rows.parquet",),
    }
    left_out = "; data.clean.drop_control_characters leaves them out"
    expected = [
        (FAULTS[fault].words, f"{number}{left_out if fault in ('control', 'lost') else ''}", fault != "nfc")
        for fault, number in (("control", 3), ("lost", 2), ("mojibake", 1), ("nfc", 4))
    ]
    for kind, names in kinds.items():
        for name in names:
            one = SourceConfig.model_validate({kind: str(tmp_path / name)})
            assert check(DataConfig(src_lang="en", tgt_lang="de", train=(one,))) == [
                Finding(
                    f"train.0: 1 (25.0 %) of 4 target sides {words}: pair {number} ({tmp_path / name})", ruins=ruins
                )
                for words, number, ruins in expected
            ]


def test_one_in_a_hundred_ruins_and_less_is_worth_a_look(tmp_path: Path) -> None:
    for count, ruins in ((100, True), (101, False)):
        pairs = good_pairs(count)
        pairs[7] = ("A bell.", "Glo\ufffdcke.")
        assert [finding.ruins for finding in check(data_of(tmp_path, pairs))] == [ruins]
        assert [finding.ruins for finding in check(data_of(tmp_path, pairs[:7], good_pairs(count, "valid")))] == []


def test_one_long_validation_line_is_told(tmp_path: Path) -> None:
    long = "x y " * 20000
    [finding] = findings(data_of(tmp_path, good_pairs(20), [*good_pairs(3, "valid"), (f"A {long}", "kurz")]))
    assert "valid.0: 1 (25.0 %) of 4 source sides are longer than 3,000 characters" in finding
    assert ": pair 4 (" in finding


def test_tables_that_spreadsheets_wrote(tmp_path: Path) -> None:
    rows = ["English\tGerman", '"He said ""go""."\t"Er sagte ""geh""."', "A dog.\tEin Hund.", "A cat.\tEine Katze."]
    write(tmp_path / "t.tsv", ["source\ttarget", *rows[1:], "a\tb\tc"])
    found = findings(DataConfig(src_lang="en", tgt_lang="de", train=(SourceConfig(tsv=str(tmp_path / "t.tsv")),)))
    parts = (
        "line 5: 3 columns",
        "of 4 source sides (and 1 target sides) stand in quotes with doubled",
        "names of columns",
    )
    assert len(found) == len(parts)
    for part, finding in zip(parts, found, strict=True):
        assert part in finding


def test_lines_that_are_no_sentences_ruin_a_text(tmp_path: Path) -> None:
    """Times of subtitles, tables in the place of sides, keys of programs; some of such lines are worth nothing."""
    pairs = good_pairs(20)
    damages: list[tuple[Callable[[int, str], str], str]] = [
        (lambda i, side: f"00:0{i % 9}:01,000 --> 00:09:00,000" if i % 3 == 0 else side, "are the times of subtitles"),
        (lambda i, side: f"{i}\t{side}", "hold tabs, as tables have"),
        (lambda i, side: f"menu.item_{i}", "are keys"),
        (lambda i, side: f"{i + 1}", "are numbers, as tables have them beside their text"),
    ]
    for damage, words in damages:
        train = [(damage(i, src), tgt) for i, (src, tgt) in enumerate(pairs)]
        [finding] = check(data_of(tmp_path, train))
        assert words in finding.text and finding.ruins
        if "tabs" not in words and "times" not in words:
            [(reason, is_certain)] = no_text([SentencePair(*pair) for pair in train], ("en", "de"))
            assert is_certain
            assert reason.startswith(f"100.0 % of the source sides {words}") and reason.endswith(
                ("'menu.item_0'", "'1'")
            )
    [finding] = check(data_of(tmp_path, [(src, f"GEN 1:{i}") for i, (src, _) in enumerate(pairs)]))
    assert "are keys, as menu.file.open, which programs find texts by, or numbers of verses" in finding.text
    assert findings(data_of(tmp_path, [("menu.open_file", "Öffnen"), *pairs])) == []


def test_empty_lines_are_searched_for_times_once() -> None:
    assert TIMES.search("\n" * 1_000_000) is None  # in time that grows with their number


def test_numbers_and_keys_before_the_text_are_told(tmp_path: Path) -> None:
    pairs = good_pairs(20)
    verses = (
        "1|{0}|",
        "GEN 1:{0} ",
        "1 Mose 1,{0} ",
        "Song of Songs 1:{0} ",
        "Gen. 1:{0} ",
        "[1.{0}] ",
        "(1:{0})",
        "\\v {0} ",
    )
    for prefix in ("{0}. ", "{0}001001 ", "menu.item_{0}=", "{{{0}}}{{{0}5}}", *verses):
        train = [(prefix.format(i + 1) + src, tgt) for i, (src, tgt) in enumerate(pairs)]
        [finding] = check(data_of(tmp_path, train))
        assert "20 (100.0 %) of 20 source sides begin with a number or a key" in finding.text and not finding.ruins
    mixed = [(f"{i} {src}" if i % 2 else src, tgt) for i, (src, tgt) in enumerate(pairs)]
    assert findings(data_of(tmp_path, mixed)) == []


@pytest.mark.parametrize(
    "line",
    [
        '  menuItem{0}: "{1}",',
        "login_title_{0}={1}",
        "menu.k{0}={1}",
        'EDIT_{0}="{1}"',
        'IDS_{0} "{1}"',
        '<!ENTITY k{0} "{1}">',
        '    "k{0}": "{1}",',
        "k{0} = {1}",
        "'k{0}' => '{1}',",
    ],
)
def test_files_of_programs_ruin_a_text(line: str, tmp_path: Path) -> None:
    pairs = [(line.format(i, src), line.format(i, tgt)) for i, (src, tgt) in enumerate(good_pairs(200))]
    [finding] = [one for one in check(data_of(tmp_path, pairs)) if "begin with" in one.text]
    assert "200 (100.0 %) of 200 pairs begin with the same key on both sides" in finding.text and finding.ruins
    [(reason, is_certain)] = no_text([SentencePair(*pair) for pair in pairs], ("en", "de"))
    assert is_certain
    assert reason.startswith("100.0 % of the pairs begin with the same key on both sides")


@pytest.mark.parametrize("line", ["JOHN: {1}", "l'{1}", "Word{0}, {1}", "{1}: {0}", "{0}: {1}"])
def test_what_both_sides_begin_with_may_be_text(line: str, tmp_path: Path) -> None:
    pairs = [(line.format(i, src), line.format(i, tgt)) for i, (src, tgt) in enumerate(good_pairs(200))]
    assert [one for one in findings(data_of(tmp_path, pairs)) if "same key" in one] == []


@pytest.mark.parametrize("start", [">>de<< ", "translate English to German: ", "EN: ", "++ "])
def test_what_all_lines_begin_with_is_told(start: str, tmp_path: Path) -> None:
    pairs = [(start + src, tgt) for src, tgt in good_pairs(100)]
    [finding] = check(data_of(tmp_path, pairs))
    assert not finding.ruins and finding.text.startswith(
        "train.0: 100 (100.0 %) of 100 source sides begin with the same"
    )
    [(words, is_certain)] = no_text([SentencePair(*pair) for pair in pairs], ("en", "de"))
    assert not is_certain and "begin with the same word" in words and start.strip() in words
    assert findings(data_of(tmp_path, [*pairs[:80], *good_pairs(20)])) == []


@pytest.mark.parametrize("written", [str.encode, str.split, lambda text: {"id": 1, "text": text}])
def test_what_programs_write_around_text_ruins_it(written: Callable[[str], object], tmp_path: Path) -> None:
    pairs = [(src, repr(written(tgt))) for src, tgt in good_pairs(50)]
    found = [one for one in check(data_of(tmp_path, pairs)) if "target sides are written as in a program" in one.text]
    assert len(found) == 1 and found[0].ruins and '({"key": …}); write out the text' in found[0].text
    assert any(is_certain for _, is_certain in no_text([SentencePair(*pair) for pair in pairs], ("en", "de")))


@pytest.mark.parametrize("before", ['{},"', "{};", "{}:"])
def test_numbers_of_tables_in_two_files_are_told(before: str, tmp_path: Path) -> None:
    pairs = [(before.format(i) + src, before.format(i) + tgt) for i, (src, tgt) in enumerate(good_pairs(100))]
    found = findings(data_of(tmp_path, pairs))
    assert any("source sides begin with a number or a key" in finding for finding in found), found


def test_what_talks_are_about_is_told(tmp_path: Path) -> None:
    about = [(f"<url>http://x.org/{side}</url>", f"<talkid>{side}</talkid>") for side in ("en", "de")]
    pairs = [*zip(*about, strict=True), *good_pairs(50)]
    [finding, _] = check(data_of(tmp_path, pairs))
    [(reason, _), _] = no_text([SentencePair(*pair) for pair in pairs], ("en", "de"))
    assert reason.startswith("3.8 % of the source sides are what IWSLT's files say of their talks")
    assert "2 (3.8 %) of 52 source sides are what IWSLT's files say of their talks" in finding.text and finding.ruins


def test_the_same_source_twice_is_told(tmp_path: Path) -> None:
    one = source(tmp_path, "train", good_pairs(20))
    data = data_of(tmp_path, good_pairs(20)).model_copy(update={"train": (one, one.model_copy(update={"weight": 2.0}))})
    [finding] = check(data)
    assert finding.text.startswith("train.1: is train.0 once more; remove one of them") and not finding.ruins


def test_names_of_any_bytes_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "cl\udcff"
    folder.mkdir()
    assert findings(data_of(folder, good_pairs(20))) == []


def turned(pairs: Pairs) -> Pairs:
    return [(tgt, src) for src, tgt in pairs]


def test_sides_the_wrong_way_round_are_found_by_their_letters(tmp_path: Path) -> None:
    """In the smaller source, in whichever part; where languages are exchanged with the sides, nothing is wrong."""
    train, valid = good_pairs(400), good_pairs(100, "valid")
    [finding] = check(data_of(tmp_path, train, turned(valid)))
    assert finding.text.startswith("valid.0: its two sides look the wrong way round") and finding.ruins
    [finding] = check(data_of(tmp_path, turned(good_pairs(80)), good_pairs(99, "valid")))
    assert finding.text.startswith("train.0: its two sides look the wrong way round")
    data = data_of(tmp_path, train, turned(valid))
    named = data.valid[0].model_copy(update={"src_lang": "de", "tgt_lang": "en"})
    assert findings(data.model_copy(update={"valid": (named,)})) == []


def test_languages_that_are_exchanged_for_all_sources_are_told_once(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    [finding] = check(data_of(tmp_path, turned(good_pairs(80)), turned(good_pairs(40, "valid"))))
    assert "the two sides of all sources look the wrong way round" in finding.text and finding.ruins
    assert finding.text.startswith("valid.0, train.0: ")
    [finding] = check(data_of(tmp_path, turned(good_pairs(80)), good_pairs(40, "valid")))
    assert finding.text.startswith("train.0: its two sides look the wrong way round")


@pytest.mark.parametrize("num_turned", [30, 60, 90])
def test_rows_of_both_directions_in_one_source(num_turned: int, tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    train = good_pairs(120)
    mixed = [*turned(train[:num_turned]), *train[num_turned:]]
    [finding] = check(data_of(tmp_path, mixed, good_pairs(40, "valid")))
    assert finding.text.startswith("train.0: rows of both directions look mixed in it") and finding.ruins


def test_a_side_in_the_other_language_is_found(tmp_path: Path) -> None:
    valid = [(src, src + " too") for src, _ in good_pairs(100, "valid")]
    [finding] = findings(data_of(tmp_path, good_pairs(400), valid))
    assert finding.startswith("valid.0: its target side looks as if it were in the other language")


def test_another_language_is_found_where_the_extra_is(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    french = "La commission examine la demande dans les meilleurs délais et communique sa décision"
    german = "Die Kommission prüft den Antrag unverzüglich und teilt ihre Entscheidung mit"
    english = "The commission examines the request without delay and communicates its decision"
    pairs = [(f"{'Yes: ' * (i % 3)}{english} no. {i}.", f"{french if i % 2 else german} Nr. {i}.") for i in range(40)]
    [finding] = check(data_of(tmp_path, pairs))
    assert finding.text.startswith(
        "train.0: 50.0 % of 40 passages of its target side that were looked at are not in de, but look like fr"
    )
    assert finding.ruins


def test_a_language_in_its_second_script_ruins_nothing(tmp_path: Path) -> None:
    """Central Kurdish is taken for Southern Kurdish, the language of Arabic letters that the identifier knows."""
    pytest.importorskip("py3langid")
    kurdish = "من لە کوردستان دەژیم و کتێبەکە دەخوێنمەوە، ئەمڕۆ باران دەبارێت"
    pairs = [
        (f"{'In' * (i % 2)}I live in Kurdistan and read the book, number {i}.", f"{'ئە' * (i % 2)}{kurdish} {i}.")
        for i in range(40)
    ]
    for code, ruins in (("ku", False), ("tr", True)):
        [finding] = check(data_of(tmp_path, pairs).model_copy(update={"tgt_lang": code}))
        assert finding.ruins == ruins
        assert ("look like sdh; the identifier does not know ku in Arabic letters" in finding.text) != ruins


@pytest.mark.parametrize("shift", [1, -1, 2, -3])
@pytest.mark.parametrize("kind", ["lengths", "words"])
def test_a_shift_is_found_by_lengths_or_by_words_alone(shift: int, kind: str) -> None:
    draw = random.Random(1)
    if kind == "lengths":
        lengths = [draw.randint(5, 80) for _ in range(300)]
        src, tgt = ["a" * length for length in lengths], ["b" * (length + draw.randint(-2, 2)) for length in lengths]
    else:
        numbers = [draw.randint(10**5, 10**6 - 1) for _ in range(300)]
        src, tgt = [f"number {number}" for number in numbers], [f"{number} Nummer" for number in numbers]
    assert find_shifts(Sides(src, tgt)) == []
    # The source lost lines at its start: its line i is the partner of a later target.
    found = find_shifts(Sides(src[shift:], tgt[:-shift]) if shift > 0 else Sides(src[:shift], tgt[-shift:]))
    assert [(part, one.lines) for part, one in found] == [(range(300 - abs(shift)), shift)]
    # In the last hundred lines only, where the target has lost some.
    tgt = [*tgt[:200], *tgt[200 + abs(shift) :]]
    *_, (part, one) = find_shifts(Sides(src[: len(tgt)], tgt))
    assert one.lines == -abs(shift) and part.start >= 148 and part.stop == len(tgt)


def test_lengths_that_words_contradict_accuse_nobody() -> None:
    """Lengths alone speak for a shift, and louder than the numbers of some lines against it, which are sure as well."""
    draw = random.Random(1)
    lengths = [draw.randint(5, 80) for _ in range(301)]
    numbers = [f"{draw.randint(10**5, 10**6 - 1)} " if i % 4 == 0 else "" for i in range(300)]
    src = ["a" * length for length in lengths[1:]]
    tgt = ["b" * length for length in lengths[:-1]]
    assert find_shifts(Sides(src, tgt))
    src, tgt = ([number + line for number, line in zip(numbers, side, strict=True)] for side in (src, tgt))
    assert find_shifts(Sides(src, tgt)) == []


@given(st.integers(0, 10**9), st.integers(0, 300))
def test_unrelated_lines_are_not_accused(seed: int, count: int) -> None:
    draw = random.Random(seed)
    src, tgt = (["".join(draw.choices("ab 1", k=draw.randint(0, 30))) for _ in range(count)] for _ in range(2))
    assert find_shifts(Sides(src, tgt)) == []


@given(st.lists(st.sampled_from(["", "1", "22", "a b", "long line of text"]), max_size=37))
def test_few_lines_are_not_accused(lines: list[str]) -> None:
    assert find_shifts(Sides(lines[1:], lines[:-1])) == []


def test_lines_that_do_not_belong_together_are_found(tmp_path: Path) -> None:
    src, tgt = (list(side) for side in zip(*good_pairs(3000), strict=True))
    assert findings(data_of(tmp_path, list(zip(src, tgt, strict=True)))) == []
    half = tgt[:1500]
    random.Random(1).shuffle(half)
    [finding] = findings(data_of(tmp_path, list(zip(src, [*half, *tgt[1500:]], strict=True))))
    assert finding.startswith("train.0: 1,000 of 3,000 lines, between line 1 and line 1,000, do not belong together")
    [finding] = findings(data_of(tmp_path, list(zip(src, half[:301], strict=False))))
    assert finding.startswith("train.0: 301 of 301 lines, between line 1 and line 301, do not belong together")
    assert findings(data_of(tmp_path, list(zip(src, tgt[:301], strict=False)))) == []


def test_blank_lines_are_not_accused(tmp_path: Path) -> None:
    draw = random.Random(1)
    blank = [tuple("<range>" if draw.random() < 0.03 else "" for _ in range(2)) for _ in range(1000)]
    found = findings(data_of(tmp_path, [*good_pairs(1000), *((src, tgt) for src, tgt in blank)]))
    assert [one for one in found if "belong together" in one] == []


def test_sorted_text_is_not_accused(tmp_path: Path) -> None:
    """Where all lines are of a length, and no words are common, nothing can tell."""
    pairs = sorted({(src, tgt.translate(str.maketrans(LETTERS, LETTERS[::-1]))) for src, tgt in good_pairs(3000)})
    found = findings(data_of(tmp_path, sorted(pairs, key=lambda pair: len(pair[0]))))
    assert [finding for finding in found if "belong together" in finding or "agree better" in finding] == []


def test_numbers_and_placeholders_are_in_no_language(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    pairs = [
        (
            f"{{count_{i}}} {i * 7919} %d",
            f"{'Jeder' if i % 2 else 'Der'} Satz mit der Nummer {i} steht hier, und er endet nie",
        )
        for i in range(90)
    ]
    assert findings(data_of(tmp_path, pairs)) == []


def test_a_lost_line_is_found_with_its_side_and_place(tmp_path: Path) -> None:
    pairs = good_pairs(4000)
    src, tgt = [src for src, _ in pairs], [tgt for _, tgt in pairs]
    for side, lines in (("source", src), ("target", tgt)):
        damaged = [*lines[:1500], *lines[1501:], "the end"]
        pairs = list(zip(damaged, tgt, strict=True)) if side == "source" else list(zip(src, damaged, strict=True))
        [finding] = findings(data_of(tmp_path, pairs))
        direction = "later" if side == "source" else "earlier"
        assert finding.startswith(
            "train.0: about 2,500 of 4,000 lines, between line 1,501 and line 4,000, agree better"
        )
        assert f"targets are read 1 line {direction} " in finding
        assert finding.endswith(f"that the {side} lacks")


def test_lines_that_are_too_long_are_told_and_are_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand for themselves: two of them need not be the same."""
    monkeypatch.setattr("transformer_mt.data.readers.sources.LONGEST_LINE", 200)
    train, valid = [*good_pairs(9), ("x" * 201, "y")], [("x" * 200, "x"), ("z" * 350, "z"), ("a", "b")]
    found = findings(data_of(tmp_path, train, valid))
    assert [one.partition(";")[0] for one in found] == [
        "valid.0: 1 (33.3 %) of 3 source sides are longer than 4 MiB",
        "train.0: 1 (10.0 %) of 10 source sides are longer than 4 MiB",
    ]
