"""The line contract, for every command that reads lines: line i of the output belongs to line i of the input.

Lines are any Unicode, files of them have every form that the contract knows: compressed or not, with a byte order mark,
with CR LF, without the last line end. Each command is compared with a slow twin that gets the lines themselves, one by
one. Most commands run within this process; where streams are pipes or closed, the program runs by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sacrebleu
import sentencepiece as spm
import torch
from harness import CLI, Done, Trained, environment, piped, symbol_lines, text, tmt, tmt_here, write, write_config
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.decoding import translator as translator_module
from transformer_mt.decoding.translator import Translator
from transformer_mt.system.compression import open_binary
from transformer_mt.system.whole_files import replaced_file
from transformer_mt.text.tokenizer_training import train_tokenizer

SUFFIXES = ["", ".gz", ".zst", ".xz"]
BOM = b"\xef\xbb\xbf"
SCORE_ERROR = 1e-4  # design, section 2: what scores of the same text may differ by in float32

SPACES = "\t\x0b\x0c\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
WORDS = (
    "a b c|d e|t s|x|Straße|한국어|\u1112\u1161\u11ab|שלום|\u202eمرحبا\u202c|😀|"
    "👩\u200d👩\u200d👧|🇰🇷|e\u0301\u0323|ᚠᛇ|\U000e0001\uffff"
)
ODD = [
    "\0",
    "\r",
    "\x01\x1b",
    "\x7f",
    "\ufeff",
    "\u200b",
    "\u2060",
    "\ufffd",
    *["▁", "<s>", "</s>", "<unk>", "<0x0A>", "\\n", "|||", '"', ",", "."],
]
PARTS = [*SPACES, *WORDS.split("|"), *ODD]


def _one_line(line: str) -> str:
    """A CR at the end is no part of a line."""
    return line.rstrip("\r")


any_line = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=6).map("".join),
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=8),
    st.text(SPACES, max_size=3),
).map(_one_line)
line_lists = st.lists(any_line, max_size=12)
pair_lists = st.lists(st.tuples(any_line, any_line), min_size=1, max_size=12)

# What each list of examples begins with: every separator inside a line, blank lines of all kinds, single characters.
SEPARATED = [f"a b{space}c d" for space in f"{SPACES}\r\0"]
BLANK = ["", SPACES, *SPACES]
TYPICAL = [*SEPARATED, *BLANK, *map(_one_line, ODD), "e\u0301", "\ufeffa b", "a\r\rb", "x" * 30]


class Form(NamedTuple):
    """How lines become a file."""

    suffix: str = ""
    has_bom: bool = False
    has_crlf: bool = False
    has_last_end: bool = True

    def encode(self, lines: Sequence[str]) -> bytes:
        """The content, before it is compressed. A line that starts with a byte order mark needs another before it."""
        end = "\r\n" if self.has_crlf else "\n"
        whole = "".join(f"{line}{end}" for line in lines).encode()
        if lines and (self.has_bom or lines[0].startswith("\ufeff")):
            whole = BOM + whole
        return whole if self.has_last_end or not lines or not lines[-1] else whole[: -len(end)]

    def write(self, stem: Path, lines: Sequence[str]) -> Path:
        path = Path(f"{stem}{self.suffix}")
        with replaced_file(path) as file:
            file.write(self.encode(lines))
        return path


forms = st.builds(Form, st.sampled_from(SUFFIXES), st.booleans(), st.booleans(), st.booleans())
PLAIN, WINDOWS = Form(), Form(has_bom=True, has_crlf=True, has_last_end=False)


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


def read(path: Path) -> bytes:
    with open_binary(path) as file:
        return file.read()


def ended(lines: Sequence[str]) -> bytes:
    return text(lines).encode()


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """One for each example."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As programs that tests start have it: faster for so small a model where tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(trained: Trained) -> Path:
    return trained.run / "tokenizer.model"


@pytest.fixture(scope="module")
def translator(trained: Trained) -> Translator:
    return Translator.load(trained.run, ["search.beam_size=2", "search.n_best=2", *(f"search.{one}" for one in SEARCH)])


SEARCH = ("max_source_tokens=60", "max_extra_tokens=5")
OPTIONS = ("--beam-size", 2, *itertools.chain.from_iterable(("--set", f"search.{one}") for one in SEARCH))


# ---------------------------------------------------------------- the tokenizer


@pytest.fixture(scope="module")
def verbatim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without bytes and normalization: pieces are what stands in the text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    changes = ("--set", "tokenizer.byte_fallback=false", "--set", "tokenizer.normalization=identity")
    source, output = write(folder / "text", symbol_lines(50, seed=1)), folder / "tok.model"
    tmt_here("tokenizer", "train", "--input", source, "--output", output, "--type", "unigram", *changes).ok()
    return output


@pytest.fixture(scope="module", params=["bytes", "verbatim"])
def processor(request: pytest.FixtureRequest, model: Path, verbatim: Path) -> Path:
    return model if request.param == "bytes" else verbatim


@examples(15)
@given(line_lists, forms)
@example(TYPICAL, PLAIN)
@example(TYPICAL, WINDOWS)
@example([], PLAIN)
def test_pieces_are_those_of_each_line(processor: Path, lines: list[str], form: Form) -> None:
    one_by_one = spm.SentencePieceProcessor(model_file=str(processor))
    encoded = tmt_here("tokenizer", "encode", "--model", processor, stdin=form.encode(lines)).ok()
    assert encoded.stderr == ""
    assert encoded.lines == [" ".join(one_by_one.encode(line, out_type=str)) for line in lines]
    # Anything can be given as pieces.
    for pieces in (encoded.lines, lines):
        expected = [one_by_one.decode(_one_line(line).split(" ")) if line else "" for line in pieces]
        decoded = tmt_here("tokenizer", "decode", "--model", processor, stdin=form.encode([*map(_one_line, pieces)]))
        assert decoded.ok().lines == [line.replace("\r", " ").replace("\n", " ") for line in expected]


@examples(3)
@given(line_lists, forms, forms)
@example(TYPICAL, PLAIN, WINDOWS)
def test_tokenizer_is_trained_on_lines(lines: list[str], form: Form, other: Form) -> None:
    first, second = [*TYPICAL, *symbol_lines(20, seed=1)], lines
    expected, report = train_tokenizer([*first, *second], TokenizerConfig(vocab_size=500))
    # NUL is a space to it, since SentencePiece ends a line there.
    assert f"from {sum(line.strip(chr(0) + SPACES) != '' for line in first + second)} lines" in report
    with directory() as folder:
        inputs = ("--input", form.write(folder / "first", first), "--input", other.write(folder / "second", second))
        done = tmt_here("tokenizer", "train", *inputs, "--output", folder / "tok.model", "--vocab-size", 500).ok()
        assert done.stderr == f"{report}\n"
        assert (folder / "tok.model").read_bytes() == expected.model


# ---------------------------------------------------------------- translations and their scores


@examples(2)
@given(pair_lists, forms, forms)
@example([*zip(TYPICAL, reversed(TYPICAL), strict=True)], WINDOWS, Form(".gz"))
def test_each_line_is_translated_by_itself(
    trained: Trained, translator: Translator, pairs: list[tuple[str, str]], form: Form, of_prefix: Form
) -> None:
    """Also with what it shall start with, and in every form of output."""
    found = [translator.translate([line], [prefix])[0] for line, prefix in pairs]
    assert all(one.text == "" for one in found if not one.source.strip())
    with directory() as folder:
        source = form.write(folder / "source", [line for line, _ in pairs])
        prefixes = of_prefix.write(folder / "prefixes", [prefix for _, prefix in pairs])
        output = folder / f"out{of_prefix.suffix}"
        arguments = ("translate", trained.run, *OPTIONS, "--input", source)
        plain = tmt_here(*arguments, "--prefix", prefixes, "--output", output).ok()
        assert (plain.stdout, plain.stderr) == (b"", "")
        assert read(output) == ended([one.text for one in found])
        rows = [
            json.loads(line)
            for line in tmt_here(*arguments, "--prefix", prefixes, "--json", "--n-best", 2)
            .ok()
            .stdout.split(b"\n")[:-1]
        ]
        assert [row["text"] for row in rows] == [one.text for one in found]
        for row, one in zip(rows, found, strict=True):
            assert [a["text"] for a in row["alternatives"]] == [a.text for a in one.alternatives]
            scores = [a.score for a in one.alternatives]
            assert [a["score"] for a in row["alternatives"]] == pytest.approx(scores, rel=0, abs=SCORE_ERROR)
        numbered = tmt_here(*arguments, "--prefix", prefixes, "--n-best", 2).ok().lines
        expected = [f"{i} ||| {a.text} " for i, one in enumerate(found) for a in one.alternatives]
        assert [line.rpartition("||| ")[0] for line in numbered] == expected


def test_translations_without_a_prefix(trained: Trained, translator: Translator) -> None:
    """What is blank to the tokenizer is blank as well; the model tells apart what it can."""
    lines = [*TYPICAL, "\u200b", "\u200b \u3000", "a b c", "d e f g"]
    expected = [translator.translate([line])[0].text for line in lines]
    assert len(set(expected)) > 10
    done = tmt_here("translate", trained.run, *OPTIONS, "--input", "-", "--output", "-", stdin=WINDOWS.encode(lines))
    assert done.ok().lines == expected
    assert {found for line, found in zip(lines, expected, strict=True) if not line.strip(f"{SPACES}\u200b")} == {""}


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", b""), (b"\n", b"\n"), (b"\r\n\n", b"\n\n"), (b" ", b"\n"), (BOM, b""), (BOM + b"\n", b"\n")],
)
@pytest.mark.parametrize("command", ["translate", "score", "encode", "decode"])
def test_nothing_but_line_ends(
    trained: Trained, model: Path, tmp_path: Path, command: str, content: bytes, expected: bytes
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    arguments = {
        "translate": ("translate", trained.run),
        "score": ("score", trained.run, "--src", "-", "--tgt", source),
        "encode": ("tokenizer", "encode", "--model", model),
        "decode": ("tokenizer", "decode", "--model", model),
    }
    done = tmt_here(*arguments[command], stdin=content).ok()
    assert done.stderr == ""
    # To a decoder, spaces are text.
    assert (done.stdout.replace(b" ", b"") if command == "decode" else done.stdout) == expected


@examples(3)
@given(pair_lists, forms, forms)
@example([*zip(TYPICAL, reversed(TYPICAL), strict=True)], WINDOWS, PLAIN)
def test_each_pair_is_scored_by_itself(
    trained: Trained, translator: Translator, pairs: list[tuple[str, str]], form: Form, of_target: Form
) -> None:
    expected = [translator.score([src], [tgt])[0] for src, tgt in pairs]
    with directory() as folder:
        src = form.write(folder / "src", [src for src, _ in pairs])
        tgt = of_target.write(folder / "tgt", [tgt for _, tgt in pairs])
        long = "--set", "search.max_source_tokens=1000"  # else it says which lines translate would split
        done = tmt_here("score", trained.run, "--src", src, "--tgt", tgt, *long).ok()
    assert done.stderr == ""
    assert [line == "" for line in done.lines] == [score is None for score in expected]
    found, known = [float(line) for line in done.lines if line], [score for score in expected if score is not None]
    assert found == pytest.approx(known, rel=0, abs=SCORE_ERROR)


@examples(6)
@given(pair_lists, forms, forms)
@example([*zip(TYPICAL, reversed(TYPICAL), strict=True)], WINDOWS, PLAIN)
def test_lines_are_what_sacrebleu_scores(pairs: list[tuple[str, str]], form: Form, of_ref: Form) -> None:
    hypotheses, references = [hyp for hyp, _ in pairs], [ref for _, ref in pairs]
    with directory() as folder:
        files = ("--hyp", "-", "--ref", of_ref.write(folder / "ref", references))
        whole = json.loads(tmt_here("eval", *files, "--json", stdin=form.encode(hypotheses)).ok().stdout)
        hyp = form.write(folder / "hyp", hypotheses)
        rows = [json.loads(row) for row in tmt_here("eval", "--sentence", "--hyp", hyp, *files[2:]).ok().lines]
    metrics = {"bleu": sacrebleu.BLEU(force=True), "chrf": sacrebleu.CHRF(), "ter": sacrebleu.TER()}
    scores = {name: metric.corpus_score(hypotheses, [references]).score for name, metric in metrics.items()}
    assert whole["num_sentences"] == len(pairs)
    assert {name: one["score"] for name, one in whole["metrics"].items()} == scores
    metrics["bleu"] = sacrebleu.BLEU(effective_order=True)
    assert rows == [
        {name: metric.sentence_score(hyp, [ref]).score for name, metric in metrics.items()} for hyp, ref in pairs
    ]


# ---------------------------------------------------------------- corpora


def corpus_config(folder: Path, trained: Trained, **data: Any) -> Path:
    """The configuration of the trained model with another section ``data``, and all that it writes in one folder."""
    config = json.loads(trained.config.read_text())
    del config["data"]["valid"]
    config["data"] |= {"cache_dir": str(folder / "cache"), **data}
    return write_config(folder / "config.yaml", config)


def read_pairs(folder: Path, stem: str, suffix: str) -> list[tuple[str, str]]:
    sides = [read(folder / f"{stem}.{lang}{suffix}").decode().split("\n")[:-1] for lang in ("src", "tgt")]
    return list(zip(*sides, strict=True))


@examples(2)
@given(pair_lists, forms, forms, st.sampled_from(["", ".gz"]))
@example([*zip(TYPICAL, reversed(TYPICAL), strict=True)], WINDOWS, Form(".zst"), "")
@example([*zip(TYPICAL, TYPICAL, strict=True)], Form(".xz"), WINDOWS, ".gz")
def test_pairs_of_a_corpus(
    trained: Trained, pairs: list[tuple[str, str]], form: Form, of_target: Form, suffix: str
) -> None:
    """Statistics count them, cleaning and splitting write them. A CR inside of a line has become a space."""
    pairs = [*pairs, ("only here", "nur hier"), ("and here", "und hier"), ("not held out", "nicht dabei")]
    expected = [(src.replace("\r", " "), tgt.replace("\r", " ")) for src, tgt in pairs]
    with directory() as folder:
        files = {
            "src": str(form.write(folder / "in.src", [src for src, _ in pairs])),
            "tgt": str(of_target.write(folder / "in.tgt", [tgt for _, tgt in pairs])),
        }
        config = corpus_config(folder, trained, train=[{**files, "name": "all"}])
        options = ["--gz"] if suffix else []

        found = json.loads(tmt_here("data", "stats", config, "--json").ok().stdout)["train"]["total"]
        assert found["pairs"] == len(expected)
        stripped = [(src.strip(), tgt.strip()) for src, tgt in expected]
        for side, lines in zip(("source", "target"), zip(*stripped, strict=True), strict=True):
            assert found[side]["characters"]["total"] == sum(map(len, lines))
            assert found[side]["words"]["total"] == sum(len(line.split()) for line in lines)

        tmt_here("data", "clean", config, "--output", folder / "clean", *options).ok()
        assert read_pairs(folder / "clean", "all", suffix) == [(src, tgt) for src, tgt in stripped if src and tgt]

        sizes = ("--valid", 1, "--test", 1)
        tmt_here("data", "split", config, "--output", folder / "split", *sizes, *options).ok()
        train, [valid], [test] = (read_pairs(folder / "split", part, suffix) for part in ("train", "valid", "test"))
        assert train == [pair for pair in expected if pair not in (valid, test)]
        assert len(train) + 2 == len(expected)


def test_findings_name_lines(trained: Trained, tmp_path: Path) -> None:
    """Separators inside of lines do not shift the numbers, whatever the form of the file."""
    lines = ["a\u2028b", "", "c\u2029d", " \u3000", "e f", "g\0h", "i"]
    for form in (PLAIN, *(Form(suffix, has_bom=True, has_crlf=True) for suffix in SUFFIXES)):
        files = {side: str(form.write(tmp_path / side, lines)) for side in ("src", "tgt")}
        config = corpus_config(tmp_path, trained, train=[files])
        done = tmt_here("data", "check", config)
        found = {line.partition(";")[0] for line in done.lines}
        for side in ("source", "target"):
            assert f"ruins: train.0: 1 (14.3 %) of 7 {side} sides hold a NUL character: pair 6" in found
        assert done.status == 1


def test_corpus_of_a_training(trained: Trained, tmp_path: Path) -> None:
    lines = [*TYPICAL, *symbol_lines(20, seed=1)]
    files = {"src": str(WINDOWS.write(tmp_path / "src", lines)), "tgt": str(Form(".xz").write(tmp_path / "tgt", lines))}
    config = corpus_config(tmp_path, trained, train=[files])
    done = tmt_here("train", config, "--output", tmp_path / "run", "--dry-run").ok()
    assert f"corpus: {len(lines)} pairs: " in done.stderr
    assert done.stdout == b""


def test_text_that_a_model_completes(trained: Trained, translator: Translator, tmp_path: Path) -> None:
    lines, form = [*TYPICAL[::2], "a b c"], Form(".zst", has_bom=True, has_crlf=True)
    search = {"beam_size": 2, "max_source_tokens": 60, "max_extra_tokens": 5}
    source = {"distill": str(form.write(tmp_path / "text", lines)), "model": str(trained.run), "search": search}
    done = tmt_here("data", "synthesize", corpus_config(tmp_path, trained, train=[source])).ok()
    src, tgt = done.lines[0].split("\t")
    assert Path(src).read_bytes() == ended(lines)
    assert Path(tgt).read_bytes() == ended([translator.translate([line])[0].text for line in lines])


# ---------------------------------------------------------------- very long lines, and text that is not UTF-8


def test_line_of_a_million_characters(trained: Trained, model: Path, tmp_path: Path) -> None:
    """Its neighbours get what they get without it. (Its translation is tested with the memory that it takes.)"""
    long = "a b\u2028c é " * 120_000 + "😀"
    for command, first, last in (("encode", "▁a ▁b", "▁c"), ("decode", "ab", "c")):
        found = tmt_here("tokenizer", command, "--model", model, stdin=text(["a b", long, "c"])).ok().lines
        assert [found[0], *found[2:]] == [first, last]
        assert len(found[1]) > 500_000
    source = write(tmp_path / "source", ["a b", long, "c"])
    score = tmt_here("eval", "--metrics", "chrf", "--json", "--hyp", source, "--ref", source).ok()
    assert json.loads(score.stdout)["metrics"]["chrf"]["score"] == pytest.approx(100)
    config = corpus_config(
        tmp_path, trained, train=[{"src": str(source), "tgt": str(source)}], clean={"max_chars": None}
    )
    stats = json.loads(tmt_here("data", "stats", config, "--json").ok().stdout)["train"]["total"]
    assert stats["source"]["characters"] | {"longest": len(long)} == stats["source"]["characters"]
    tmt_here("data", "clean", config, "--output", tmp_path / "clean").ok()
    assert read_pairs(tmp_path / "clean", "train.0", "") == [("a b", "a b"), (long, long), ("c", "c")]


def readers(trained: Trained, model: Path, folder: Path, bad: Path) -> dict[str, tuple[object, ...]]:
    """A call for each place where lines are read, with a file that has three."""
    good = write(folder / "good", ["a", "b", "c"])
    out, text_of_model = folder / "out", {"distill": str(bad), "model": str(trained.run)}
    pairs = corpus_config(folder, trained, train=[{"src": str(good), "tgt": str(bad)}])
    (folder / "model").mkdir()
    made = corpus_config(folder / "model", trained, train=[text_of_model])
    return {
        "tokenizer train": ("tokenizer", "train", "--input", bad, "--output", out),
        "translate": ("translate", trained.run, "--input", bad, "--output", out),
        "translate --prefix": ("translate", trained.run, "--input", good, "--prefix", bad, "--output", out),
        "score --src": ("score", trained.run, "--src", bad, "--tgt", good),
        "score --tgt": ("score", trained.run, "--src", good, "--tgt", bad),
        "eval --hyp": ("eval", "--hyp", bad, "--ref", good),
        "eval --ref": ("eval", "--hyp", good, "--ref", bad),
        "eval --src": ("eval", trained.run, "--src", bad, "--ref", good),
        "compare": ("compare", good, bad, "--ref", good),
        "compare --train": ("compare", good, good, "--ref", good, "--train", bad),
        "data stats": ("data", "stats", pairs),
        "data clean": ("data", "clean", pairs, "--output", out),
        "data split": ("data", "split", pairs, "--output", out, "--valid", 1, "--test", 0),
        "data synthesize": ("data", "synthesize", made),
        "train --dry-run": ("train", pairs, "--output", out, "--dry-run"),
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_that_is_not_utf8_is_refused_with_its_line(
    trained: Trained, model: Path, tmp_path: Path, suffix: str
) -> None:
    bad = tmp_path / f"bad{suffix}"
    with replaced_file(bad) as file:
        file.write("a\r\nä\u2028".encode() + b"b\xff\r\nc\n")
    for name, arguments in readers(trained, model, tmp_path, bad).items():
        refused = tmt_here(*arguments)
        assert (refused.status, len(refused.lines)) == (2, name.startswith("score")), name  # the line before it
        assert f"{bad}, line 2: not UTF-8 (byte 0xff at offset 6 of the line)" in refused.refusal, name
        assert len(refused.stderr.splitlines()) == 1, name
        assert not (tmp_path / "out").exists(), name


def test_lines_before_those_that_are_not_utf8(
    trained: Trained, translator: Translator, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered, all of them, also those of a chunk that is not full."""
    lines = ["a b", "c\u2028d", "", "e", "f g"]
    content = ended(lines) + b"h \xe2\x82\ni\n"
    monkeypatch.setattr(translator_module, "CHUNK_LINES", 2)
    expected = {
        "encode": tmt_here("tokenizer", "encode", "--model", model, stdin=text(lines)).ok().lines,
        "translate": [translator.translate([line])[0].text for line in lines],
    }
    for command, arguments in (
        ("encode", ("tokenizer", "encode", "--model", model)),
        ("translate", ("translate", trained.run, *OPTIONS)),
    ):
        refused = tmt_here(*arguments, stdin=content)
        assert (refused.status, refused.lines) == (2, expected[command])
        assert "stdin, line 6: not UTF-8" in refused.refusal


# ---------------------------------------------------------------- devices and pipes


@contextlib.contextmanager
def aside(function: Callable[[], None]) -> Iterator[None]:
    """Runs a function at the same time as the block, which ends after it."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield
    thread.join(timeout=20)
    assert not thread.is_alive()


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_devices(trained: Trained, model: Path, tmp_path: Path) -> None:
    null = tmp_path / "null"  # a link: what replaced the device would replace this, not the system's
    null.symlink_to("/dev/null")
    source = write(tmp_path / "source", ["a b c"])
    assert tmt_here("translate", trained.run, "--input", source, "--output", null).ok().stdout == b""
    tmt_here("tokenizer", "train", "--input", source, "--output", null).ok()
    assert null.is_char_device()
    for arguments in (
        ("translate", trained.run, "--input", null),
        ("translate", trained.run, "--input", null, "--prefix", null, "--json"),
        ("score", trained.run, "--src", null, "--tgt", null),
    ):
        assert tmt_here(*arguments).ok().stdout == b""
    for refused_arguments in (
        ("tokenizer", "train", "--input", null, "--output", tmp_path / "tok.model"),
        ("eval", "--hyp", null, "--ref", null),
    ):
        refused = tmt_here(*refused_arguments)
        assert refused.status == 2
        assert refused.refusal == refused.stderr.rstrip("\n")
    assert not (tmp_path / "tok.model").exists()


def test_file_behind_a_link_is_written(trained: Trained, tmp_path: Path) -> None:
    """/dev/stdout is such a link where stdout is a file: it has to stay one."""
    (tmp_path / "there").mkdir()
    for target in (tmp_path / "there" / "file", tmp_path / "there" / "new"):
        link = tmp_path / f"link to {target.name}"
        link.symlink_to(target)
        if target.name == "file":
            target.write_text("old")
        tmt_here("translate", trained.run, "--output", link, stdin="a b c\n").ok()
        assert link.is_symlink()
        assert target.read_bytes() == tmt_here("translate", trained.run, stdin="a b c\n").ok().stdout
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["file", "new"]
    (tmp_path / "nowhere").symlink_to(tmp_path / "none" / "file")
    refused = tmt_here("translate", trained.run, "--output", tmp_path / "nowhere", stdin="a\n")
    assert refused.status == 2
    assert f"no directory {tmp_path / 'none'}" in refused.refusal


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_named_pipes(trained: Trained, translator: Translator, tmp_path: Path, suffix: str) -> None:
    """From a program that writes a byte now and then, to one that reads a byte now and then."""
    lines = ["a b c", "é\u2028한", "", "d e", "f"]
    source, output = pipe(tmp_path / f"in{suffix}"), pipe(tmp_path / f"out{suffix}")
    content = Form(suffix, has_bom=True, has_crlf=True).write(tmp_path / "content", lines).read_bytes()
    found = tmp_path / f"found{suffix}"

    def feed() -> None:
        with open(source, "wb", buffering=0) as file:
            for byte in content:
                file.write(bytes([byte]))
                time.sleep(0.001)

    def collect() -> None:
        with open(output, "rb", buffering=0) as file, open(found, "wb") as copy:
            while byte := file.read(1):
                copy.write(byte)
                time.sleep(0.001)

    with aside(feed), aside(collect):
        tmt_here("translate", trained.run, *OPTIONS, "--input", source, "--output", output).ok()
    assert output.is_fifo()
    assert read(found) == ended([translator.translate([line])[0].text for line in lines])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_named_pipe_whose_reader_leaves(trained: Trained, tmp_path: Path, suffix: str) -> None:
    source, output = pipe(tmp_path / "in"), pipe(tmp_path / f"out{suffix}")

    def leave_before_anything_comes() -> None:
        open(output, "rb").close()
        source.write_bytes(b"a b c\n")

    with aside(leave_before_anything_comes):
        failed = tmt_here("translate", trained.run, "--input", source, "--output", output)
    assert failed.status == 1
    assert failed.refusal == f"tmt: {output}: cannot be written (Broken pipe); check the program that reads from there"
    assert output.is_fifo()


def words(command: str, trained: Trained) -> list[str]:
    """{run}, {tok} and {src}, with many lines, stand for files."""
    names = {"run": trained.run, "tok": trained.run / "tokenizer.model", "src": trained.train_src}
    return [word.format(**names) for word in command.split()]


@pytest.mark.parametrize(
    "command",
    [
        "translate {run} --beam-size 1",
        "score {run} --src {src} --tgt {src}",
        "tokenizer encode --model {tok}",
        "tokenizer decode --model {tok}",
        "eval --sentence --metrics chrf --hyp {src} --ref {src}",
    ],
)
def test_reader_that_leaves_early_causes_no_traceback(trained: Trained, command: str) -> None:
    with piped(*words(command, trained)) as (running, stdin, stdout):
        stdin.write(b"a b c\n" * 9000)  # no more than a pipe holds
        stdin.close()
        assert stdout.readline().endswith(b"\n")
        stdout.close()
        assert running.end().stderr == ""


@pytest.mark.parametrize(
    "command",
    ["translate {run}", "tokenizer encode --model {tok}", "eval --metrics chrf --hyp {src} --ref {src}"],
)
def test_full_stdout_is_one_line(trained: Trained, command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = tmt(*words(command, trained), stdin="a b c\n", stdout=full)
    assert done.status == 1
    assert "stdout" in done.refusal
    assert "No space left" in done.refusal


def test_closed_streams(trained: Trained) -> None:
    """As some services start programs. What is for stderr is lost, and is not put among the results."""

    def shell(command: str, stdin: str, streams: str) -> Done:
        line = f"{shlex.join([*CLI, *words(command, trained)])} {streams}"
        found = subprocess.run(["bash", "-c", line], input=stdin.encode(), capture_output=True, env=environment())
        return Done(found.returncode, found.stdout, found.stderr.decode())

    long = " ".join("abcdefghijklmnopqrst")
    done = shell("translate {run} --beam-size 1", f"{long}\n", "2>&-").ok()
    assert len(done.lines) == 1
    no_input = shell("tokenizer encode --model {tok}", "", "<&-")
    assert (no_input.status, no_input.stdout) == (2, b"")
    assert no_input.refusal == "tmt: stdin: cannot be read (Bad file descriptor); check the path"
    no_output = shell("tokenizer encode --model {tok}", "a b c\n", ">&-")
    assert no_output.status == 2
    assert no_output.refusal == "tmt: stdout: is closed; send it to a file, or to /dev/null"


def test_stdin_is_one_file_only(trained: Trained) -> None:
    for arguments in (
        ("eval", "--hyp", "-", "--ref", "-"),
        ("eval", trained.run, "--src", "-", "--ref", "-"),
        ("score", trained.run, "--src", "-", "--tgt", "-"),
        ("translate", trained.run, "--prefix", "-"),
    ):
        refused = tmt_here(*arguments, stdin="a\nb\n")
        assert (refused.status, refused.stdout) == (2, b"")
        assert refused.refusal.startswith("tmt: stdin: cannot be ")


def test_stdin_in_small_pieces_and_stdout_that_is_read_slowly(verbatim: Path) -> None:
    """Pieces that end amid a character, and between CR and LF; more output than a pipe holds."""
    lines = ["a", "é한😀", "", "a\u2028b", "\ufeffc", *symbol_lines(9000, seed=3)]
    start, _, rest_of_input = WINDOWS.encode(lines).partition(b"\n")
    with piped("tokenizer", "encode", "--model", verbatim) as (running, stdin, stdout):
        stdin.write(start + b"\n")
        stdin.flush()
        first = stdout.readline()  # from here on it reads whatever comes

        def feed() -> None:
            for piece in (*(rest_of_input[i : i + 1] for i in range(60)), rest_of_input[60:]):
                stdin.write(piece)
                stdin.flush()
                time.sleep(0.002)
            stdin.close()

        with aside(feed):
            time.sleep(0.3)  # it waits meanwhile
            rest = stdout.read()
        running.end().ok()
    assert rest.endswith(b"\n") and len(rest) > 1 << 16
    expected = tmt_here("tokenizer", "encode", "--model", verbatim, stdin=text(lines)).ok().stdout
    assert first + rest == expected
