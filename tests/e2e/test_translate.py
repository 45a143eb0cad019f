"""What `tmt translate`, `tmt eval` and `tmt tokenizer` promise for any text, with a model trained in seconds.

The model knows little: these tests compare its translations with each other, not with references.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Trained, n_best, symbol_lines, text, tmt_here, translated, write
from sacrebleu.dataset import DATASETS

from transformer_mt.decoding.translator import Translator


def test_line_longer_than_anything_trained_on_is_translated_with_a_warning(trained: Trained) -> None:
    long = " ".join(random.Random(1).choices("abcdefgh", k=2000))
    done = tmt_here("translate", trained.run, "--beam-size", 1, stdin=text(["a b c", long])).ok()
    assert done.lines[0] == translated(trained, ["a b c"], "--beam-size", 1)[0]
    assert len(done.lines) == 2
    assert done.lines[1] != ""
    warnings = done.stderr.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: line 2: ")
    tokens = (
        tmt_here("tokenizer", "encode", "--model", trained.run / "tokenizer.model", stdin=text([long]))
        .ok()
        .lines[0]
        .split(" ")
    )
    assert f"{len(tokens) + 1} source tokens" in warnings[0]


# Translations depend on their own line only.


def test_batch_size_and_order_change_nothing(trained: Trained, sources: list[str]) -> None:
    options = ("--beam-size", 3, "--n-best", 3)
    expected = n_best(tmt_here("translate", trained.run, *options, stdin=text(sources)))
    assert len({found for _, found, _ in expected}) > len(sources), "too few different translations to see anything"
    order = random.Random(1).sample(range(len(sources)), len(sources))

    def assert_equal(found: list[tuple[int, str, float]], expected: list[tuple[int, str, float]]) -> None:
        assert [(number, line) for number, line, _ in found] == [(number, line) for number, line, _ in expected]
        for (_, _, score), (_, _, other) in zip(found, expected, strict=True):
            assert math.isclose(score, other, abs_tol=1e-4 + 1e-9)

    for batch_tokens in (1, 64, 8192):
        setting = ("--set", f"search.batch_tokens={batch_tokens}")
        assert_equal(n_best(tmt_here("translate", trained.run, *options, *setting, stdin=text(sources))), expected)
    shuffled = n_best(tmt_here("translate", trained.run, *options, stdin=text([sources[i] for i in order])))
    assert_equal(sorted(((order[n], line, score) for n, line, score in shuffled), key=lambda f: f[0]), expected)


def test_n_best_is_numbered_sorted_and_headed_by_the_translation(trained: Trained, sources: list[str]) -> None:
    lines = [*sources[:5], "", *sources[5:8]]
    found = n_best(tmt_here("translate", trained.run, "--beam-size", 4, "--n-best", 4, stdin=text(lines)))
    best = translated(trained, lines, "--beam-size", 4)
    assert [number for number, _, _ in found] == sorted(number for number, _, _ in found)
    for number, line in enumerate(lines):
        mine = [(words, score) for n, words, score in found if n == number]
        assert len(mine) == (4 if line else 1)
        assert mine[0][0] == best[number]
        scores = [score for _, score in mine]
        assert scores == sorted(scores, reverse=True)
        assert len(set(mine)) == len(mine)


def test_beam_of_one_is_greedy(trained: Trained, sources: list[str]) -> None:
    """Sampling from the one most probable id is greedy search, found by the other code path's random draws."""
    greedy = translated(trained, sources, "--beam-size", 1)
    top_1 = translated(trained, sources, "--set", "search.sampling=true", "--set", "search.top_k=1")
    assert greedy == top_1
    assert greedy == translated(trained, sources, "--beam-size", 1, "--length-penalty", 2.0), (
        "one hypothesis, any penalty"
    )
    assert greedy != translated(trained, sources, "--beam-size", 4), "a beam that finds nothing else shows nothing"


def test_sampling_repeats_with_its_seed_only(trained: Trained, sources: list[str]) -> None:
    def sample(seed: int, *options: object) -> list[str]:
        return translated(trained, sources, "--set", "search.sampling=true", "--set", f"search.seed={seed}", *options)

    first = sample(1)
    assert first == sample(1)
    assert first == sample(1, "--set", "search.batch_tokens=1")
    assert first != sample(2)


def test_length_penalty_is_used(trained: Trained, sources: list[str]) -> None:
    def words(alpha: float) -> int:
        return sum(len(line.split()) for line in translated(trained, sources, "--length-penalty", alpha))

    assert words(-2.0) < words(3.0)


# Scores.


def test_eval_of_a_model_is_translate_and_eval(trained: Trained, sources: list[str], tmp_path: Path) -> None:
    src, hyp = write(tmp_path / "src", sources), tmp_path / "hyp"
    ref = write(tmp_path / "ref", [line.upper() for line in sources[:3]] + sources[3:])
    at_once = tmt_here("eval", trained.run, "--src", src, "--ref", ref).ok()
    tmt_here("translate", trained.run, "--input", src, "--output", hyp).ok()
    in_two = tmt_here("eval", "--hyp", hyp, "--ref", ref).ok()
    assert at_once.stdout == in_two.stdout
    assert [line.partition("|")[0] for line in at_once.lines] == ["BLEU", "chrF2", "TER"]
    assert all("version:" in line for line in at_once.lines), "no number without its signature"
    # The search options reach it.
    beam_1 = tmt_here("eval", trained.run, "--src", src, "--ref", ref, "--set", "search.beam_size=1").ok()
    assert beam_1.stdout != at_once.stdout


def test_eval_of_a_published_set(
    trained: Trained, sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = write(tmp_path / "multi30k_2016.en-de.src", sources)
    ref = write(tmp_path / "multi30k_2016.en-de.ref", [line.upper() for line in sources[:3]] + sources[3:])
    monkeypatch.setattr(DATASETS["multi30k/2016"], "_outdir", str(tmp_path))
    by_name = tmt_here("eval", trained.run, "--test-set", "multi30k/2016", "--langs", "en-de").ok()
    by_files = tmt_here("eval", trained.run, "--src", src, "--ref", ref).ok()
    assert f"{trained.run} was trained from src into tgt" in by_name.stderr
    assert by_name.stdout.replace(b"|test:multi30k/2016|lang:en-de", b"") == by_files.stdout != by_name.stdout


def test_eval_formats(tmp_path: Path) -> None:
    """Scores that are known without computing: a copy is perfect, and one of two references suffices."""
    lines = ["the cat sat on the mat today", "a dog ran over the green hill", "we had nothing to say to them"]
    hyp = write(tmp_path / "hyp", lines)
    worse = write(tmp_path / "worse", [*lines[:2], "something else stands here in its place"])
    other = write(tmp_path / "other", ["no word of this is in there", "nor here", lines[2]])

    def report(*options: object) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(tmt_here("eval", "--json", *options).ok().stdout)
        return loaded

    perfect = report("--hyp", hyp, "--ref", hyp)
    assert perfect["num_sentences"] == 3
    assert [round(perfect["metrics"][name]["score"], 6) for name in ("bleu", "chrf", "ter")] == [100, 100, 0]
    assert "nrefs:1" in perfect["metrics"]["bleu"]["signature"]
    assert report("--hyp", hyp, "--ref", worse)["metrics"]["bleu"]["score"] < 90
    both = report("--hyp", hyp, "--ref", worse, "--ref", other)["metrics"]
    assert round(both["bleu"]["score"], 6) == 100
    assert "nrefs:2" in both["bleu"]["signature"]

    intervals = report("--hyp", hyp, "--ref", worse, "--confidence", "--metrics", "chrf")["metrics"]
    assert list(intervals) == ["chrf"]
    assert intervals["chrf"]["interval"]["half_width"] > 0

    rows = [json.loads(line) for line in tmt_here("eval", "--hyp", hyp, "--ref", worse, "--sentence").ok().lines]
    assert [round(row["bleu"]) for row in rows[:2]] == [100, 100]
    assert rows[2]["bleu"] < 20
    assert tmt_here("eval", "--hyp", "-", "--ref", hyp, stdin=hyp.read_bytes()).ok().lines[0].startswith("BLEU|")


# The tokenizer alone.


def test_tokenizer_round_trip(tmp_path: Path) -> None:
    model, packed = tmp_path / "tok.model", tmp_path / "text.gz"
    words = ["Hallo", "Welt", "schöne", "Straße", "grün", "Häuser", "über", "Bäume"]
    draw = random.Random(1)
    lines = [" ".join(draw.choices(words, k=6)) for _ in range(200)]
    packed.write_bytes(gzip.compress(text(lines[:100]).encode()))
    second = write(tmp_path / "text", lines[100:])
    trained = tmt_here(
        "tokenizer", "train", "--input", packed, "--input", second, "--output", model, "--vocab-size", 310
    )
    assert trained.ok().stdout == b""
    assert "from 200 lines" in trained.stderr
    asked = [*lines[:5], "", "Ein Wort, das es nicht gab: 한국 😀"]
    pieces = tmt_here("tokenizer", "encode", "--model", model, stdin=text(asked)).ok().lines
    assert len(pieces) == len(asked)
    assert pieces != asked
    assert pieces[5] == ""
    assert tmt_here("tokenizer", "decode", "--model", model, stdin=text(pieces)).ok().lines == asked


def test_tokenizer_type_and_size_are_used(tmp_path: Path) -> None:
    """A vocabulary that the text does not support is lowered and reported."""
    source = write(tmp_path / "text", symbol_lines(50, seed=1))
    for kind in ("bpe", "unigram"):
        model = tmp_path / f"{kind}.model"
        done = tmt_here(
            "tokenizer", "train", "--input", source, "--output", model, "--type", kind, "--vocab-size", 9000
        ).ok()
        assert f"tokenizer: {kind}" in done.stderr
        assert "lowered from vocab_size 9,000" in done.stderr
    assert (tmp_path / "bpe.model").read_bytes() != (tmp_path / "unigram.model").read_bytes()


# What else the command line says.


def test_dry_run_prints_the_plan_and_writes_no_run(trained: Trained, tmp_path: Path) -> None:
    done = tmt_here("train", trained.config, "--output", tmp_path / "dry", "--dry-run").ok()
    assert done.stdout == b""
    assert "updates an epoch" in done.stderr
    assert "peak memory" in done.stderr
    assert not (tmp_path / "dry").exists()


def test_help_and_version() -> None:
    commands = {"tokenizer", "train", "translate", "eval", "average"}
    found = tmt_here("--help").ok()
    assert all(f" {command} " in found.stdout.decode() for command in commands)
    assert found.stderr == ""
    assert tmt_here("--version").ok().stdout.decode().startswith("transformer_mt ")
    for command in commands:
        assert f" {command} " in tmt_here(command, "--help").ok().stdout.decode()


# Line by line.


def test_each_line_is_answered_before_the_next_is_read(trained: Trained) -> None:
    events: list[str] = []

    def lines() -> Iterator[str]:
        for line in ("a b c", "", "b c d"):
            events.append("read")
            yield line

    with contextlib.closing(Translator.load(trained.run)) as translator:
        for _ in translator.stream(lines(), chunk_lines=1):
            events.append("answered")
    assert events == ["read", "answered"] * 3


def test_line_buffered_changes_no_translation_and_needs_stdout(trained: Trained, tmp_path: Path) -> None:
    typed = text(["a b c", "", "b c d"])
    expected = tmt_here("translate", trained.run, stdin=typed).ok()
    assert tmt_here("translate", trained.run, "--line-buffered", stdin=typed).ok().lines == expected.lines
    done = tmt_here("translate", trained.run, "--line-buffered", "--output", tmp_path / "out")
    assert done.status == 2 and "--line-buffered" in done.refusal


def test_a_terminal_is_told_how_to_end(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("harness.io.TextIOWrapper", Terminal)
    done = tmt_here("translate", trained.run, stdin="a b c\n").ok()
    assert len(done.lines) == 1 and "Ctrl-D" in done.stderr.splitlines()[0]


def test_files_that_are_more_than_lines_are_warned_of(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.csv", "en,de\n"), ("b.csv.gz", "en,de\n"), ("mac", "a\rb\r"), ("plain.txt", "a\r\nb\n")):
        (gzip.open if name.endswith("gz") else open)(name, "wb").write(content.encode())
        done = tmt_here("translate", trained.run, "--beam-size", 1, "--input", name).ok()
        told = {"mac": "warning: the lines of mac end as on old Macs", "plain.txt": ""}
        start = told.get(name, f"warning: {name}: is read as lines of text, markup and columns too; ")
        assert done.stderr.startswith(start) and bool(done.stderr) == bool(start)
    made = tmt_here("tokenizer", "train", "--input", "a.csv", "--output", "tok.model", "--vocab-size", 300).ok()
    assert made.stderr.startswith("warning: a.csv: is read as lines of text")


def test_long_lines_are_one_warning_with_their_count(trained: Trained) -> None:
    lines = [" ".join(random.Random(i).choices("abcdefgh", k=60)) for i in range(5)]
    options = ("--beam-size", 1, "--set", "search.max_source_tokens=40")
    done = tmt_here("translate", trained.run, *options, stdin=text(lines)).ok()
    [warning] = done.stderr.splitlines()
    assert warning.startswith("warning: line 1: ") and warning.endswith("; more such lines: 4")
    done = tmt_here("translate", trained.run, *options, "--line-buffered", stdin=text(lines)).ok()
    assert len(done.stderr.splitlines()) == 5


def test_a_line_that_is_too_long_is_translated_in_parts_and_stays_one(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformer_mt.system.lines.LONGEST_LINE", 256)
    monkeypatch.setattr("transformer_mt.system.lines._READ_BYTES", 64)
    first, second = ("a b c d " * 32).strip(), ("b c d a " * 20).strip()
    done = tmt_here("translate", trained.run, "--beam-size", 1, stdin=f"a b c\n{first}  {second}\n\nb\n").ok()
    parts = tmt_here("translate", trained.run, "--beam-size", 1, stdin=f"{first}\n{second}\na b c\nb\n").ok().lines
    assert done.lines == [parts[2], f"{parts[0]}  {parts[1]}", "", parts[3]]
    for option in ("--json", "--n-best=1"):
        refused = tmt_here("translate", trained.run, option, stdin=f"a\n{first}  {second}\n")
        assert refused.status == 2 and "stdin, line 2: longer than" in refused.refusal
