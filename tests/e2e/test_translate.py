"""What `tmt translate`, `tmt eval` and `tmt tokenizer` promise for any text, with a model trained in seconds.

The model knows little: these tests compare its translations with each other, not with references.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import CLI, Done, Trained, environment, n_best, symbol_lines, text, tmt, translated, write

# The line contract.


def test_lines_end_at_lf_only(trained: Trained) -> None:
    plain = ["a b c", "", "d e f g", "h"]
    expected = translated(trained, plain)
    assert len(set(expected)) == 4
    assert expected[1] == ""

    def output(data: bytes) -> list[str]:
        return tmt("translate", trained.run, stdin=data).ok().lines

    joined = "\n".join(plain).encode()
    assert output(joined) == expected, "no line end at the end of the file"
    assert output(b"\xef\xbb\xbf" + joined + b"\n") == expected, "a byte order mark is dropped"
    assert output(joined.replace(b"\n", b"\r\n") + b"\r\n") == expected, "CR LF"


def test_other_separators_stay_inside_a_line(trained: Trained) -> None:
    separators = ["\u2028", "\u2029", "\u0085", "\u000b", "\u000c", "\r", "\u001c", "\u001e"]
    odd = [line for separator in separators for line in (f"a b{separator}c d", "e f g")]
    found = translated(trained, odd)
    assert set(found[1::2]) == set(translated(trained, ["e f g"]))
    assert not any(separator in line for separator in ("\r", "\n") for line in found)


def test_blank_lines_stay_blank_and_change_nothing(trained: Trained, sources: list[str]) -> None:
    blanks = ["", " ", "\t", " \u00a0\u3000 ", "\u2028", "\u200b"]
    mixed = [line for pair in zip(blanks, sources, strict=False) for line in pair]
    found = translated(trained, mixed)
    assert found[0::2] == [""] * len(blanks)
    assert found[1::2] == translated(trained, sources[: len(blanks)])


@pytest.mark.parametrize(("data", "expected"), [(b"", b""), (b"\n", b"\n"), (b"\n\n", b"\n\n"), (b" ", b"\n")])
def test_nothing_to_translate(trained: Trained, data: bytes, expected: bytes) -> None:
    done = tmt("translate", trained.run, stdin=data).ok()
    assert (done.stdout, done.stderr) == (expected, "")


def test_any_text_gives_one_line_each(trained: Trained) -> None:
    odd = [
        "😀 👩‍👩‍👧",
        "한국어 문장",
        "a\x00b",
        "\x01\x02\x1f\x7f",
        "\x00",
        "<s> </s> <pad> <unk> <0x0A>",
        "▁ ▁▁",
        "\\n",
        "a ||| b",
        "\u202eabc",
    ]
    found = tmt("translate", trained.run, stdin=text([*odd, "a b c"])).ok().stdout.decode("utf-8")
    assert found.count("\n") == len(odd) + 1
    assert found.split("\n")[-2] == translated(trained, ["a b c"])[0]


def test_line_longer_than_anything_trained_on_is_translated_with_a_warning(trained: Trained) -> None:
    long = " ".join(random.Random(1).choices("abcdefgh", k=2000))
    done = tmt("translate", trained.run, "--beam-size", 1, stdin=text(["a b c", long])).ok()
    assert done.lines[0] == translated(trained, ["a b c"], "--beam-size", 1)[0]
    assert len(done.lines) == 2
    assert done.lines[1] != ""
    warnings = done.stderr.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: line 2: ")
    tokens = (
        tmt("tokenizer", "encode", "--model", trained.run / "tokenizer.model", stdin=text([long]))
        .ok()
        .lines[0]
        .split(" ")
    )
    assert f"{len(tokens) + 1} source tokens" in warnings[0]


def test_input_that_is_not_utf8_is_refused_with_its_line(trained: Trained) -> None:
    refused = tmt("translate", trained.run, stdin=b"a b\n\xff\n")
    assert (refused.status, refused.stdout) == (2, b"")
    assert "stdin, line 2: not UTF-8" in refused.refusal


# Translations depend on their own line only.


def test_batch_size_and_order_change_nothing(trained: Trained, sources: list[str]) -> None:
    options = ("--beam-size", 3, "--n-best", 3)
    expected = n_best(tmt("translate", trained.run, *options, stdin=text(sources)))
    assert len({found for _, found, _ in expected}) > len(sources), "too few different translations to see anything"
    order = random.Random(1).sample(range(len(sources)), len(sources))

    def assert_equal(found: list[tuple[int, str, float]], expected: list[tuple[int, str, float]]) -> None:
        assert [(number, line) for number, line, _ in found] == [(number, line) for number, line, _ in expected]
        for (_, _, score), (_, _, other) in zip(found, expected, strict=True):
            assert math.isclose(score, other, abs_tol=1e-4 + 1e-9)

    for batch_tokens in (1, 64, 8192):
        setting = ("--set", f"search.batch_tokens={batch_tokens}")
        assert_equal(n_best(tmt("translate", trained.run, *options, *setting, stdin=text(sources))), expected)
    shuffled = n_best(tmt("translate", trained.run, *options, stdin=text([sources[i] for i in order])))
    assert_equal(sorted(((order[n], line, score) for n, line, score in shuffled), key=lambda f: f[0]), expected)


def test_n_best_is_numbered_sorted_and_headed_by_the_translation(trained: Trained, sources: list[str]) -> None:
    lines = [*sources[:5], "", *sources[5:8]]
    found = n_best(tmt("translate", trained.run, "--beam-size", 4, "--n-best", 4, stdin=text(lines)))
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


# Files and pipes.


def test_gz_in_and_out(trained: Trained, sources: list[str], tmp_path: Path) -> None:
    packed_in, packed_out = tmp_path / "in.gz", tmp_path / "out.gz"
    packed_in.write_bytes(gzip.compress(text(sources).encode()))
    done = tmt("translate", trained.run, "--input", packed_in, "--output", packed_out).ok()
    assert done.stdout == b""
    assert gzip.decompress(packed_out.read_bytes()).decode() == text(translated(trained, sources))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.gz", "out.gz"]


def test_dash_is_stdin_and_stdout(trained: Trained, tmp_path: Path) -> None:
    expected = tmt("translate", trained.run, stdin="a b c\n").ok().stdout
    assert tmt("translate", trained.run, "--input", "-", "--output", "-", stdin="a b c\n").ok().stdout == expected
    assert tmt("translate", trained.run, "--input", write(tmp_path / "in", ["a b c"])).ok().stdout == expected


@pytest.mark.parametrize(
    "command",
    [
        "yes 'a b c' | head -9000 | {tmt} translate {run} --beam-size 1 | head -1",
        "{tmt} tokenizer encode --model {run}/tokenizer.model < {src} | head -1",
        "{tmt} eval --sentence --metrics chrf --hyp {src} --ref {src} | head -1",
    ],
)
def test_reader_that_leaves_early_causes_no_traceback(trained: Trained, command: str) -> None:
    line = command.format(tmt=" ".join(CLI), run=trained.run, src=trained.train_src)
    found = subprocess.run(["bash", "-c", line], capture_output=True, env=environment(), timeout=240, check=False)
    assert found.stdout.count(b"\n") == 1
    assert found.stderr == b""


@pytest.mark.parametrize(
    "command",
    [
        "echo 'a b c' | {tmt} translate {run}",
        "echo 'a b c' | {tmt} tokenizer encode --model {run}/tokenizer.model",
        "{tmt} eval --metrics chrf --hyp {src} --ref {src}",
    ],
)
def test_full_stdout_is_one_line(trained: Trained, command: str) -> None:
    line = command.format(tmt=" ".join(CLI), run=trained.run, src=trained.train_src)
    found = subprocess.run(
        ["bash", "-c", f"{line} > /dev/full"], capture_output=True, env=environment(), timeout=240, check=False
    )
    done = Done(found.returncode, found.stdout, found.stderr.decode())
    assert done.status == 1
    assert "stdout" in done.refusal
    assert "No space left" in done.refusal


# Scores.


def test_eval_of_a_model_is_translate_and_eval(trained: Trained, sources: list[str], tmp_path: Path) -> None:
    src, hyp = write(tmp_path / "src", sources), tmp_path / "hyp"
    ref = write(tmp_path / "ref", [line.upper() for line in sources[:3]] + sources[3:])
    at_once = tmt("eval", trained.run, "--src", src, "--ref", ref).ok()
    tmt("translate", trained.run, "--input", src, "--output", hyp).ok()
    in_two = tmt("eval", "--hyp", hyp, "--ref", ref).ok()
    assert at_once.stdout == in_two.stdout
    assert [line.partition("|")[0] for line in at_once.lines] == ["BLEU", "chrF2", "TER"]
    assert all("version:" in line for line in at_once.lines), "no number without its signature"
    # The search options reach it.
    beam_1 = tmt("eval", trained.run, "--src", src, "--ref", ref, "--set", "search.beam_size=1").ok()
    assert beam_1.stdout != at_once.stdout


def test_eval_formats(tmp_path: Path) -> None:
    """Scores that are known without computing: a copy is perfect, and one of two references suffices."""
    lines = ["the cat sat on the mat today", "a dog ran over the green hill", "we had nothing to say to them"]
    hyp = write(tmp_path / "hyp", lines)
    worse = write(tmp_path / "worse", [*lines[:2], "something else stands here in its place"])
    other = write(tmp_path / "other", ["no word of this is in there", "nor here", lines[2]])

    def report(*options: object) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(tmt("eval", "--json", *options).ok().stdout)
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

    rows = [json.loads(line) for line in tmt("eval", "--hyp", hyp, "--ref", worse, "--sentence").ok().lines]
    assert [round(row["bleu"]) for row in rows[:2]] == [100, 100]
    assert rows[2]["bleu"] < 20
    assert tmt("eval", "--hyp", "-", "--ref", hyp, stdin=hyp.read_bytes()).ok().lines[0].startswith("BLEU|")


# The tokenizer alone.


def test_tokenizer_round_trip(tmp_path: Path) -> None:
    model, packed = tmp_path / "tok.model", tmp_path / "text.gz"
    words = ["Hallo", "Welt", "schöne", "Straße", "grün", "Häuser", "über", "Bäume"]
    draw = random.Random(1)
    lines = [" ".join(draw.choices(words, k=6)) for _ in range(200)]
    packed.write_bytes(gzip.compress(text(lines[:100]).encode()))
    second = write(tmp_path / "text", lines[100:])
    trained = tmt("tokenizer", "train", "--input", packed, "--input", second, "--output", model, "--vocab-size", 310)
    assert trained.ok().stdout == b""
    assert "from 200 lines" in trained.stderr
    asked = [*lines[:5], "", "Ein Wort, das es nicht gab: 한국 😀"]
    pieces = tmt("tokenizer", "encode", "--model", model, stdin=text(asked)).ok().lines
    assert len(pieces) == len(asked)
    assert pieces != asked
    assert pieces[5] == ""
    assert tmt("tokenizer", "decode", "--model", model, stdin=text(pieces)).ok().lines == asked


def test_tokenizer_type_and_size_are_used(tmp_path: Path) -> None:
    """A vocabulary that the text does not support is lowered and reported."""
    source = write(tmp_path / "text", symbol_lines(50, seed=1))
    for kind in ("bpe", "unigram"):
        model = tmp_path / f"{kind}.model"
        done = tmt(
            "tokenizer", "train", "--input", source, "--output", model, "--type", kind, "--vocab-size", 9000
        ).ok()
        assert f"tokenizer: {kind}" in done.stderr
        assert "lowered from vocab_size 9,000" in done.stderr
    assert (tmp_path / "bpe.model").read_bytes() != (tmp_path / "unigram.model").read_bytes()


# What else the command line says.


def test_dry_run_prints_the_plan_and_writes_no_run(trained: Trained, tmp_path: Path) -> None:
    done = tmt("train", trained.config, "--output", tmp_path / "dry", "--dry-run").ok()
    assert done.stdout == b""
    assert "updates an epoch" in done.stderr
    assert "peak memory" in done.stderr
    assert not (tmp_path / "dry").exists()


def test_help_and_version() -> None:
    commands = {"tokenizer", "train", "translate", "eval", "average"}
    found = tmt("--help").ok()
    assert all(f" {command} " in found.stdout.decode() for command in commands)
    assert found.stderr == ""
    assert tmt("--version").ok().stdout.decode().startswith("transformer_mt ")
    for command in commands:
        assert f" {command} " in tmt(command, "--help").ok().stdout.decode()
