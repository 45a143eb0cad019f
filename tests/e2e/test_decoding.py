"""What decoding promises beyond plain translation: scores, prefixes, ensembles, JSON, processes, long lines, odd text.

Most tests run the command line within this process, or use `Translator` as other programs do. Where processes, signals
and memory matter, the program runs by itself.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from harness import (
    ALPHABET,
    CLI,
    Done,
    Running,
    Trained,
    copy_corpus,
    descendants,
    environment,
    living,
    piped,
    symbol_lines,
    text,
    tmt,
    tmt_here,
    translated,
    write,
    write_config,
)

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.decoding import translator as translator_module
from transformer_mt.decoding.translations import Translation
from transformer_mt.decoding.translator import CHUNK_LINES, Translator
from transformer_mt.errors import InputError, RunError
from transformer_mt.model.layout import collate
from transformer_mt.model.loss import label_log_probs
from transformer_mt.search.scoring import length_penalty
from transformer_mt.system.processes import Workers
from transformer_mt.text.tokenizer import Tokenizer, load_tokenizer
from transformer_mt.text.vocabulary import EOS_ID

WHOLE = "max_source_tokens=40"  # the model has seen 12 at most, some of our lines have more: they are not to be split
SCORE_ERROR = 1e-4  # design, section 2: what scores of the same text may differ by in float32
needs_forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and /proc are Linux's")


def settings(*pairs: str) -> list[str]:
    """beam_size=2 … as options"""
    return [word for pair in pairs for word in ("--set", f"search.{pair}")]


def load(model: Path, *pairs: str, ensemble: Sequence[Path] = ()) -> Translator:
    return Translator.load(model, [f"search.{pair}" for pair in pairs], ensemble=ensemble)


def texts(found: Sequence[Translation]) -> list[str]:
    return [translation.text for translation in found]


def assert_same(found: Sequence[Translation], expected: Sequence[Translation]) -> None:
    """All alternatives: their text, and their scores but for rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert [(a.text, a.tokens) for a in one.alternatives] == [(a.text, a.tokens) for a in other.alternatives]
        scores = [[a.score for a in translation.alternatives] for translation in (one, other)]
        assert scores[0] == pytest.approx(scores[1], rel=0, abs=SCORE_ERROR)


def assert_refused(done: Done, status: int, *parts: object) -> None:
    assert (done.status, done.stdout) == (status, b""), done.stderr
    missing = [str(part) for part in parts if str(part) not in done.refusal]
    assert not missing, f"{done.refusal!r} lacks {missing}"
    assert len(done.stderr.splitlines()) == 1, done.stderr


def earlier(trained: Trained) -> Path:
    """A checkpoint of the same run that translates worse."""
    return trained.run / "checkpoints" / "step_00000100"


@pytest.fixture(scope="session")
def tokenizer(trained: Trained) -> Tokenizer:
    return load_tokenizer(trained.run / "tokenizer.model")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has another vocabulary, without bytes for what is not in it, and 32 learned positions."""
    directory = tmp_path_factory.mktemp("other")
    config = copy_corpus(directory, num_train=60)
    del config["data"]["valid"]
    config["data"]["clean"] = {"max_src_tokens": 30, "max_tgt_tokens": 30}
    config["tokenizer"] |= {"byte_fallback": False, "vocab_size": 40}
    config["model"] |= {"positions": "learned", "max_positions": 32}
    config["train"] |= {"max_steps": 2, "checkpoint_steps": 2}
    tmt("train", write_config(directory / "config.yaml", config), "--output", directory / "run").ok()
    return directory / "run"


@pytest.fixture(scope="session")
def references(trained: Trained) -> list[tuple[str, str]]:
    """Lines with translations of which some are right and some far off."""
    lines = trained.train_src.read_text().splitlines()[:120]
    draw = random.Random(5)
    return [
        (line, " ".join(draw.sample(line.split(), k=max(1, len(line.split()) - i % 3)))) for i, line in enumerate(lines)
    ]


# ---------------------------------------------------------------- tmt score


@pytest.mark.parametrize(
    ("form", "alpha", "beam_size"), [("gnmt", 0.6, 4), ("power", 0.0, 4), ("power", 1.0, 2), ("gnmt", -0.5, 1)]
)
def test_score_is_what_search_found(
    trained: Trained,
    tokenizer: Tokenizer,
    sources: list[str],
    form: Literal["gnmt", "power"],
    alpha: float,
    beam_size: int,
) -> None:
    """The engine of search and the model as it is trained agree on the log-probability of every alternative."""
    translator = load(
        trained.run,
        WHOLE,
        f"beam_size={beam_size}",
        f"n_best={beam_size}",
        f"length_penalty={alpha}",
        f"length_penalty_form={form}",
    )
    found = [
        (source, alternative)
        for source, translation in zip(sources, translator.translate(sources), strict=True)
        for alternative in translation.alternatives
        # Search may spell a text in other pieces than the tokenizer does.
        if tokenizer.encode_pieces(alternative.text) == alternative.tokens
    ]
    assert len(found) > 0.6 * beam_size * len(sources)
    scores = translator.score([source for source, _ in found], [alternative.text for _, alternative in found])
    expected = [a.score * length_penalty(len(a.tokens) + 1, alpha, form) for _, a in found]
    assert scores == pytest.approx(expected, rel=0, abs=SCORE_ERROR)


def test_score_command_gives_the_scores_of_json(
    trained: Trained, tokenizer: Tokenizer, sources: list[str], tmp_path: Path
) -> None:
    """A penalty of 0 leaves the log-probability; files may be compressed."""
    options = (
        "--n-best",
        3,
        "--beam-size",
        3,
        "--json",
        *settings(WHOLE, "length_penalty=0.0", "length_penalty_form=power"),
    )
    rows = [json.loads(line) for line in tmt_here("translate", trained.run, *options, stdin=text(sources)).ok().lines]
    pairs = [
        (source, alternative)
        for source, row in zip(sources, rows, strict=True)
        for alternative in row["alternatives"]
        if tokenizer.encode_pieces(alternative["text"]) == alternative["tokens"]
    ]
    assert len(pairs) > len(sources)
    src, tgt = write(tmp_path / "src", [source for source, _ in pairs]), tmp_path / "tgt.gz"
    tgt.write_bytes(gzip.compress(text([alternative["text"] for _, alternative in pairs]).encode()))
    done = tmt("score", trained.run, "--src", src, "--tgt", tgt, *settings(WHOLE)).ok()  # as they were translated
    assert done.stderr == ""
    assert [float(line) for line in done.lines] == pytest.approx([a["score"] for _, a in pairs], rel=0, abs=SCORE_ERROR)
    by_tokens = tmt_here("score", trained.run, "--src", src, "--tgt", tgt, "--tokens", *settings(WHOLE)).ok().lines
    for line, whole, (_, alternative) in zip(by_tokens, done.lines, pairs, strict=True):
        row = json.loads(line)
        assert row["tokens"] == [*alternative["tokens"], "</s>"]
        assert row["log_probs"][:-1] == pytest.approx(alternative["log_probs"], rel=0, abs=SCORE_ERROR)
        assert sum(row["log_probs"]) == pytest.approx(row["log_prob"]) == pytest.approx(float(whole), abs=1e-5)


def test_log_probs_of_a_line_in_parts(trained: Trained, sources: list[str]) -> None:
    """One of each token, and none of the ends of the parts; a blank line has none."""
    lines = ["", " ".join(sources[:9]), sources[0]]
    done = tmt_here("translate", trained.run, "--json", *settings("max_source_tokens=12"), stdin=text(lines)).ok()
    rows = [json.loads(line) for line in done.lines]
    assert rows[0]["log_probs"] == rows[0]["tokens"] == [] and "translated in " in done.stderr
    assert all(len(row["log_probs"]) == len(row["tokens"]) > 0 and max(row["log_probs"]) <= 0 for row in rows[1:])


def test_score_of_blank_lines(trained: Trained, tmp_path: Path) -> None:
    """Nothing is said of a blank source; a blank target is the probability of ending at once."""
    src, tgt = write(tmp_path / "src", ["", "a b", " \u3000", "a b"]), write(tmp_path / "tgt", ["a", "", "", "a b"])
    lines = tmt_here("score", trained.run, "--src", src, "--tgt", tgt).ok().lines
    assert (lines[0], lines[2]) == ("", "")
    assert float(lines[1]) < float(lines[3]) < 0, "a copy is likelier than nothing"
    by_tokens = [
        json.loads(line) for line in tmt_here("score", trained.run, "--src", src, "--tgt", tgt, "--tokens").lines
    ]
    assert by_tokens[0] == by_tokens[2] == {"log_prob": None, "tokens": [], "log_probs": []}
    assert by_tokens[1]["tokens"] == ["</s>"]
    blank = write(tmp_path / "blank", ["", ""])
    assert tmt_here("score", trained.run, "--src", blank, "--tgt", blank).ok().stdout == b"\n\n"
    empty = write(tmp_path / "empty", [])
    assert tmt_here("score", trained.run, "--src", empty, "--tgt", empty).ok().stdout == b""


def test_score_of_lines_that_translate_splits(trained: Trained, tmp_path: Path) -> None:
    """They are scored as a whole, which is said, and in batches whose memory is bounded."""
    lines = ["a b c", "a b. " * 600, "a b", "c d. " * 600]
    src, tgt = write(tmp_path / "src", lines), write(tmp_path / "tgt", ["a b c", "a b.", "a b", "c d. " * 500])
    done = tmt_here("score", trained.run, "--src", src, "--tgt", tgt).ok()
    [warning] = done.stderr.splitlines()
    assert warning.startswith("warning: 2 of lines 1 to 4 have more than ")
    assert "the first is line 2: scored as a whole" in warning
    alone = load(trained.run).score(lines[3:], ["c d. " * 500])
    assert float(done.lines[3]) == pytest.approx(alone[0], rel=1e-6)

    write(tmp_path / "src", [*lines, "a b. " * 9000])
    write(tmp_path / "tgt", ["a"] * 5)
    refused = tmt_here("score", trained.run, "--src", src, "--tgt", tgt)
    assert refused.status == 2
    assert "line 5: " in refused.refusal
    assert "at most 4096 of a side are scored" in refused.refusal


def test_score_of_unequal_counts(trained: Trained, tmp_path: Path) -> None:
    three, two = write(tmp_path / "three", ["a", "b", "c"]), write(tmp_path / "two", ["a", "b"])
    for src, tgt in ((three, two), (two, three)):
        done = tmt_here("score", trained.run, "--src", src, "--tgt", tgt)
        assert done.status == 2 and len(done.lines) == 2
        assert f"{two} has 2 lines, {three} 3; line 3 of {three} is" in done.refusal
    assert_refused(tmt_here("score", trained.run, "--src", tmp_path / "none", "--tgt", two), 2, "none", "No such file")
    assert_refused(tmt_here("score", trained.run, "--src", two), 2, "--tgt")


def test_score_answers_the_lines_before_a_refused_one(trained: Trained, tmp_path: Path) -> None:
    src, tgt = write(tmp_path / "src", ["a dog", "a cat", "a cow"]), tmp_path / "tgt"
    tgt.write_bytes(b"ein Hund\neine Katze\n\xff\n")
    done = tmt_here("score", trained.run, "--src", src, "--tgt", tgt)
    assert done.status == 2 and done.refusal.startswith(f"tmt: {tgt}, line 3: not UTF-8") and len(done.lines) == 2


def test_score_of_unknown_characters(trained: Trained, other: Path) -> None:
    """As bytes where the vocabulary has them, else as the unknown piece; neither is likely."""
    for model in (trained.run, other):
        known, *odd = load(model).score(["a b c"] * 4, ["a b c", "a b 한", "é \u202eß 😀", "a\x00b"])
        assert known is not None
        for score in odd:
            assert score is not None
            assert math.isfinite(score) and score < known


def test_score_depends_on_its_own_line_only(trained: Trained, references: list[tuple[str, str]]) -> None:
    def scores(pairs: list[tuple[str, str]], batch_tokens: int) -> list[float | None]:
        translator = load(trained.run, f"batch_tokens={batch_tokens}")
        return translator.score([src for src, _ in pairs], [tgt for _, tgt in pairs])

    expected = scores(references, 4096)
    assert len(set(expected)) == len(references)
    for batch_tokens in (1, 40):
        assert scores(references, batch_tokens) == pytest.approx(expected, rel=0, abs=SCORE_ERROR)
    order = random.Random(1).sample(range(len(references)), len(references))
    shuffled = scores([references[i] for i in order], 4096)
    assert shuffled == pytest.approx([expected[i] for i in order], rel=0, abs=SCORE_ERROR)


def test_score_in_chunks(
    trained: Trained,
    other: Path,
    references: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More lines than are read at once: the same numbers, and a refusal names the line of the file."""
    src, tgt = (write(tmp_path / name, [pair[side] for pair in references]) for side, name in enumerate(("src", "tgt")))
    whole = tmt_here("score", trained.run, "--src", src, "--tgt", tgt).ok().lines
    monkeypatch.setattr(translator_module, "CHUNK_LINES", 7)
    parts = tmt_here("score", trained.run, "--src", src, "--tgt", tgt).ok().lines
    assert [*map(float, parts)] == pytest.approx([*map(float, whole)], rel=0, abs=SCORE_ERROR)
    long = write(tmp_path / "long", [*["a b"] * 9, "a " * 40])
    refused = tmt_here("score", other, "--src", long, "--tgt", long)
    assert refused.status == 2
    assert "line 10:" in refused.refusal


def test_more_translations_are_found_for_those_who_ask(trained: Trained, sources: list[str]) -> None:
    """With either rule of stopping the best stays the best; no more are found than the beam has."""
    for stop in ("bound", "beam_finished"):
        how = (WHOLE, "beam_size=4", f"stop={stop}")
        translator = load(trained.run, *how)
        three = translator.translate(sources, n_best=3)
        assert_same(three, load(trained.run, *how, "n_best=3").translate(sources))
        assert texts(three) == texts(translator.translate(sources))
        assert {len(one.alternatives) for one in translator.translate(sources[:5], n_best=9)} == {4}
        with pytest.raises(InputError, match="n_best: 1 at least"):
            translator.translate(sources, n_best=0)
    sampler = load(trained.run, "sampling=true", "n_best=2")
    assert {len(one.alternatives) for one in sampler.translate(sources[:5], n_best=3)} == {2}


# ---------------------------------------------------------------- --prefix


@pytest.mark.parametrize("how", [("beam_size=1",), ("beam_size=4", "n_best=4"), ("sampling=true", "n_best=3")])
def test_translations_start_with_their_prefix(
    trained: Trained, tokenizer: Tokenizer, sources: list[str], how: tuple[str, ...]
) -> None:
    """Whatever it is, and whatever the rules; where it is blank nothing changes."""
    odd = ["", "t", "a b", " ", "q r s t a b c d", "é 한", "a a a a a a", "x</s>y", "", "\x00"]
    prefixes = [odd[i % len(odd)] for i in range(len(sources))]
    for rules in ((), ("min_tokens=6", "no_repeat_ngram=2", "max_extra_tokens=0")):
        translator = load(trained.run, WHOLE, *how, *rules)
        found, plain = translator.translate(sources, prefixes), translator.translate(sources)
        for prefix, one, without in zip(prefixes, found, plain, strict=True):
            start = tokenizer.encode_pieces(prefix)
            assert all(alternative.tokens[: len(start)] == start for alternative in one.alternatives)
            assert all(alternative.text.startswith(prefix.strip()) for alternative in one.alternatives)
            if not start:
                assert_same([one], [without])
        assert sum(one.text != without.text for one, without in zip(found, plain, strict=True)) > len(sources) / 2


def test_prefix_of_the_whole_translation(trained: Trained, sources: list[str]) -> None:
    """The best translation, given as a prefix, comes back: nothing better can follow it but what beam search missed."""
    translator = load(trained.run, WHOLE, "beam_size=4")
    best = translator.translate(sources)
    again = translator.translate(sources, texts(best))
    assert all(two.text.startswith(one.text) for one, two in zip(best, again, strict=True))
    assert sum(one.text == two.text for one, two in zip(best, again, strict=True)) > 0.8 * len(sources)


def test_score_of_a_translation_counts_its_prefix(trained: Trained, sources: list[str]) -> None:
    translator = load(trained.run, WHOLE, "length_penalty=0.0", "length_penalty_form=power")
    found = translator.translate(sources, ["t s r"] * len(sources))
    scores = translator.score(sources, texts(found))
    is_equal = [
        math.isclose(one.score, score, abs_tol=SCORE_ERROR) for one, score in zip(found, scores, strict=True) if score
    ]
    assert sum(is_equal) > 0.8 * len(sources), "but where search spelt the text in other pieces"


def test_prefix_file(trained: Trained, sources: list[str], tmp_path: Path) -> None:
    lines = ["", *sources[:8]]
    prefixes = ["t t", "", "t", "", " ", "b c", "", "", "e f"]
    plain, packed = write(tmp_path / "prefixes", prefixes), tmp_path / "prefixes.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    found = tmt_here("translate", trained.run, "--prefix", plain, stdin=text(lines)).ok().lines
    assert found[0] == "", "blank stays blank"
    assert found == texts(load(trained.run).translate(lines, prefixes))
    assert found == tmt("translate", trained.run, "--prefix", packed, stdin=text(lines)).ok().lines
    blank = write(tmp_path / "blank", [""] * len(lines))
    expected = tmt_here("translate", trained.run, "--n-best", 2, stdin=text(lines)).ok().stdout
    assert (
        tmt_here("translate", trained.run, "--n-best", 2, "--prefix", blank, stdin=text(lines)).ok().stdout == expected
    )


def test_prefix_file_of_another_length(trained: Trained, tmp_path: Path) -> None:
    three, two = write(tmp_path / "three", ["a", "b", "c"]), write(tmp_path / "two", ["a", "b"])
    output = write(tmp_path / "out", ["what stood there"])
    for source, prefixes in ((three, two), (two, three)):
        done = tmt_here("translate", trained.run, "--input", source, "--prefix", prefixes, "--output", output)
        assert_refused(done, 2, f"{two} has 2 lines", f"{three} 3", f"line 3 of {three}")
    assert output.read_text() == "what stood there\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "three", "two"]


def test_prefix_and_learned_positions(other: Path, tmp_path: Path) -> None:
    """A small vocabulary, which is padded, and a limit that no prefix may pass."""
    translator = load(other, "beam_size=4", "n_best=4")
    encode = load_tokenizer(other / "tokenizer.model").encode_pieces
    letters = [letter for letter in ALPHABET if len(encode(letter)) == 1]
    for length in (1, 5, 30, 31):
        prefix = " ".join(random.Random(length).choices(letters, k=length))
        for alternative in translator.translate(["a b c"], [prefix])[0].alternatives:
            assert alternative.text.startswith(prefix)
            assert length <= len(alternative.tokens) <= 31
    source, prefixes = write(tmp_path / "source", ["a b c"]), write(tmp_path / "prefixes", ["a " * 40])
    done = tmt_here("translate", other, "--input", source, "--prefix", prefixes)
    assert_refused(done, 2, "32", "positions")


def test_prefix_with_characters_that_the_vocabulary_has_not(other: Path) -> None:
    """The unknown piece is never made up, but it may be given."""
    translation = load(other).translate(["a b c"], ["a 한 b"])[0]
    assert "<unk>" in translation.tokens[:4]


# ---------------------------------------------------------------- --ensemble


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
@pytest.mark.parametrize("search", [("beam_size=4", "n_best=4"), ("beam_size=1",), ("sampling=true", "n_best=2")])
def test_ensemble_of_a_model_with_itself(
    trained: Trained, sources: list[str], kind: str, search: tuple[str, ...]
) -> None:
    alone = load(trained.run, *search).translate(sources)
    twice = load(trained.run, f"ensemble={kind}", *search, ensemble=[trained.run]).translate(sources)
    assert_same(twice, alone)


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
def test_ensemble_of_two_checkpoints(trained: Trained, sources: list[str], kind: str) -> None:
    first, second = trained.run, earlier(trained)
    found = load(first, f"ensemble={kind}", ensemble=[second]).translate(sources)
    assert texts(found) != texts(load(first).translate(sources))
    assert texts(found) != texts(load(second).translate(sources))
    assert_same(load(second, f"ensemble={kind}", ensemble=[first]).translate(sources), found)
    # The second model has a say of one third now.
    assert_same(
        load(first, f"ensemble={kind}", ensemble=[first, second]).translate(sources[:5]),
        load(first, f"ensemble={kind}", ensemble=[second, first]).translate(sources[:5]),
    )
    another = "log_linear" if kind == "linear" else "linear"
    differing = load(first, f"ensemble={another}", ensemble=[second]).translate(sources)
    assert [one.score for one in found] != pytest.approx([one.score for one in differing], rel=0, abs=1e-3)


def test_score_of_a_linear_ensemble_is_the_mean_of_probabilities(trained: Trained, sources: list[str]) -> None:
    """Token by token, as the models are trained."""
    first, second = load_model(trained.run), load_model(earlier(trained))
    translator = load(trained.run, "length_penalty=0.0", "length_penalty_form=power", WHOLE, ensemble=[second.path])
    encoder = first.tokenizers.src
    for source, found in zip(sources, translator.translate(sources), strict=True):
        batch = collate(
            [[*encoder.encode([source])[0], EOS_ID]], [[*(encoder.table[piece] for piece in found.tokens), EOS_ID]]
        )
        with torch.no_grad():
            logp = []
            for model in (first.model.eval(), second.model.eval()):
                hidden_PD = model.decode(batch.tgt_in_P, batch.tgt, model.encode(batch.src_ids_P, batch.src))
                logp.append(label_log_probs(hidden_PD, model.generator.weight, batch.labels_N))
        expected = (torch.logaddexp(*logp) - math.log(2)).sum().item()
        assert found.score == pytest.approx(expected, rel=0, abs=SCORE_ERROR)


def test_ensemble_on_the_command_line(trained: Trained, other: Path, sources: list[str], tmp_path: Path) -> None:
    options = ("--beam-size", 3, "--n-best", 3)
    alone = tmt_here("translate", trained.run, *options, stdin=text(sources)).ok().lines
    more = ("--ensemble", trained.run, "--ensemble", trained.run)
    found = tmt_here("translate", trained.run, *options, *more, stdin=text(sources)).ok().lines
    assert [line.rpartition(" ||| ")[0] for line in found] == [line.rpartition(" ||| ")[0] for line in alone]
    mixed = tmt_here("translate", trained.run, *options, "--ensemble", earlier(trained), stdin=text(sources)).ok().lines
    assert mixed != alone
    refused = tmt_here("translate", trained.run, "--ensemble", other, stdin="a\n")
    assert_refused(refused, 2, other, trained.run, "vocabulary", "same tokenizer")
    refused = tmt_here("translate", trained.run, "--ensemble", tmp_path / "none", stdin="a\n")
    assert_refused(refused, 2, tmp_path / "none", "no such model directory")
    refused = tmt_here("translate", trained.run, *settings("ensemble=median"), stdin="a\n")
    assert_refused(refused, 2, "search.ensemble", "linear", "log_linear", "'median'")


# ---------------------------------------------------------------- --json and --stats


def test_json(trained: Trained, tokenizer: Tokenizer, sources: list[str]) -> None:
    lines = [sources[0], "", *sources[1:20], " ", "a\u2028b c\u0085d", "a\x00b", "\u200b"]
    plain = tmt_here("translate", trained.run, "--beam-size", 3, stdin=text(lines)).ok().lines
    for n_best in (None, 1, 3):
        options = () if n_best is None else ("--n-best", n_best)
        done = tmt_here("translate", trained.run, "--beam-size", 3, "--json", *options, stdin=text(lines)).ok()
        rows = [json.loads(line) for line in done.lines]
        assert [row["text"] for row in rows] == plain
        for line, row in zip(lines, rows, strict=True):
            assert list(row) == ["text", "score", "tokens", "log_probs", "alternatives"]
            best = {key: row[key] for key in ("text", "score", "tokens", "log_probs")}
            assert row["alternatives"][0] == best
            scores = [alternative["score"] for alternative in row["alternatives"]]
            assert scores == sorted(scores, reverse=True)
            for alternative in row["alternatives"]:
                assert list(alternative) == list(best)
                assert tokenizer.decode_pieces(alternative["tokens"]) == alternative["text"]
            if not line.strip(" \u200b"):
                assert (best, len(scores)) == ({"text": "", "score": 0.0, "tokens": [], "log_probs": []}, 1)
            else:
                assert len(scores) == (n_best or 1)
                assert scores[0] < 0


def test_json_is_not_escaped(trained: Trained, tmp_path: Path) -> None:
    prefixes = ["é ß", "한국어", "😀 a"]
    file, lines = write(tmp_path / "prefixes", prefixes), ["a b", "c d", "a\u2028\x00b 한"]
    done = tmt("translate", trained.run, "--json", "--prefix", file, stdin=text(lines)).ok()
    assert all(json.loads(line)["text"].startswith(start) for line, start in zip(done.lines, prefixes, strict=True))
    assert all(line.startswith(f'{{"text": "{start}') for line, start in zip(done.lines, prefixes, strict=True))


def test_stats(trained: Trained, sources: list[str], tmp_path: Path) -> None:
    short = [line for line in sources if len(line) < 16]
    lines = ["", *short[:10], short[0], " "]
    for options in ((), ("--json",), ("--n-best", 2)):
        plain = tmt_here("translate", trained.run, *options, stdin=text(lines)).ok()
        done = tmt_here("translate", trained.run, "--stats", *options, stdin=text(lines)).ok()
        assert (done.stdout, plain.stderr) == (plain.stdout, "")
        assert len(done.stderr.splitlines()) == 4 and "faster" in done.stderr.splitlines()[-1]
        assert done.stderr.startswith("11 translations (blank lines left out: 2) in ")
    none = tmt_here("translate", trained.run, "--stats", stdin="").ok()
    assert (none.stdout, len(none.stderr.splitlines())) == (b"", 4)
    int8 = tmt_here("translate", trained.run, "--stats", *settings("precision=int8"), stdin=text(lines)).ok()
    assert "faster" not in int8.stderr
    copies = tmt_here("translate", trained.run, "--stats", "--output", tmp_path / "out", stdin=text(lines)).ok()
    assert copies.stdout == b""
    translations = (tmp_path / "out").read_text().splitlines()
    num_copied = sum(a == b for a, b in zip(lines, translations, strict=True) if a.strip())
    assert num_copied > 0
    assert f"{num_copied} ({num_copied / 11:.1%}) copied from the source" in copies.stderr


# ---------------------------------------------------------------- processes


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """More than anyone would wait for."""
    lines = symbol_lines(500, seed=3)
    return write(tmp_path / "endless", lines * 800)


@pytest.fixture
def translating(trained: Trained, endless: Path, tmp_path: Path) -> Iterator[tuple[Running, list[int]]]:
    """A process that translates into a file, and the two processes that it has started for that."""
    options = ("--beam-size", 1, *settings("workers=2"))
    running = Running(
        "translate", trained.run, "--input", endless, "--output", tmp_path / "out", *options, own_group=True
    )
    running.wait_until(lambda: len(running.descendants()) == 2)
    started = running.descendants()
    running.wait_until(lambda: bool(list(tmp_path.glob(".out.*.tmp"))))
    yield running, started
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    running.kill()


def children() -> list[int]:
    """The processes that this one has started."""
    return descendants(os.getpid())


@needs_forks
@pytest.mark.parametrize("beam_size", [1, 4])
def test_any_number_of_processes_gives_the_same(trained: Trained, sources: list[str], beam_size: int) -> None:
    lines = [*sources, "", *sources[::-1], "x y z"]
    expected = load(trained.run, f"beam_size={beam_size}").translate(lines)
    for workers in (2, 3):
        with contextlib.closing(load(trained.run, f"beam_size={beam_size}", f"workers={workers}")) as translator:
            assert_same(list(translator.stream(lines)), expected)
            assert_same(translator.translate(lines), expected)
            assert len(children()) == workers
    assert children() == []


@needs_forks
def test_any_number_of_processes_gives_the_same_bytes(trained: Trained, sources: list[str]) -> None:
    outputs = {
        tmt("translate", trained.run, *settings(f"workers={n}"), stdin=text(sources)).ok().stdout for n in (1, 2, 3)
    }
    assert len(outputs) == 1


@needs_forks
def test_fewer_lines_than_processes(trained: Trained) -> None:
    with contextlib.closing(load(trained.run, "workers=3")) as translator:
        expected = texts(load(trained.run).translate(["a b", "c", "d"]))
        for count in (0, 1, 2, 3):
            assert texts(translator.translate(["a b", "c", "d"][:count])) == expected[:count]
        assert children() == [], "not worth starting any"
        assert [len(found) for found in translator.translate_ids([[5, EOS_ID]] * 2)] == [1, 1]


@needs_forks
def test_killed_process(translating: tuple[Running, list[int]], tmp_path: Path) -> None:
    running, started = translating
    os.kill(started[0], signal.SIGKILL)
    assert_refused(running.end(), 1, "one of our processes has ended", "search.batch_tokens", "search.workers")
    assert living(started) == []
    assert [path.name for path in tmp_path.iterdir()] == ["endless"]


@needs_forks
def test_interrupted(translating: tuple[Running, list[int]], tmp_path: Path) -> None:
    running, started = translating
    running.interrupt()
    assert_refused(running.end(), 1, "interrupted")
    assert living(started) == []
    assert [path.name for path in tmp_path.iterdir()] == ["endless"]


@needs_forks
def test_interrupted_while_processes_start(trained: Trained, endless: Path, tmp_path: Path) -> None:
    """There is no moment in which an interrupt gets lost."""
    options = ("--beam-size", 1, *settings("workers=8"), "--output", tmp_path / "out")
    running = Running("translate", trained.run, "--input", endless, *options, own_group=True)
    running.wait_until(lambda: bool(running.descendants()))
    running.interrupt()
    processes = [running.process.pid, *running.descendants()]
    is_ended = living(processes) == []
    done = running.end() if is_ended else running.kill()
    assert is_ended, f"it goes on: {done.stderr}"
    assert_refused(done, 1, "interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["endless"]


@needs_forks
def test_killed_parent(translating: tuple[Running, list[int]]) -> None:
    running, started = translating
    running.signal(signal.SIGKILL)
    assert living(started) == []
    assert running.end().stderr == ""


@needs_forks
def test_reader_that_leaves_early_leaves_no_processes(trained: Trained, endless: Path) -> None:
    options = ("--input", endless, "--beam-size", 1, *settings("workers=2"))
    with piped("translate", trained.run, *options) as (running, _, stdout):
        assert stdout.readline().endswith(b"\n")
        started = running.descendants()
        assert len(started) == 2
        stdout.close()
        done = running.end()
    assert (done.status, done.stderr) == (1, "")
    assert living(started) == []


@needs_forks
def test_refused_input_leaves_no_processes(trained: Trained, endless: Path, tmp_path: Path) -> None:
    with open(endless, "ab") as file:
        file.write(b"\xff\n")
    lines = endless.read_bytes().split(b"\n")
    endless.write_bytes(b"\n".join(lines[-5000:]))
    done = tmt("translate", trained.run, "--input", endless, "--output", tmp_path / "out", *settings("workers=2"))
    assert_refused(done, 2, endless, "not UTF-8")
    assert [path.name for path in tmp_path.iterdir()] == ["endless"]


def pid_of(job: float) -> int:
    time.sleep(job)
    return os.getpid()


@contextlib.contextmanager
def closing(workers: Workers[Any, Any]) -> Iterator[Workers[Any, Any]]:
    try:
        yield workers
    finally:
        workers.close()


@needs_forks
def test_work_is_shared_evenly() -> None:
    """A chunk is cut into two jobs a process, so each must get two."""
    with closing(Workers(pid_of, 2)) as workers:
        pids = [workers.result(job) for job in workers.submit([0.1] * 4)]
        assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]


@needs_forks
@pytest.mark.timeout(20)
def test_jobs_larger_than_a_pipe_holds() -> None:
    """Neither side may wait for the other to read: search.batch_tokens may be large."""
    with closing(Workers(len, 2)) as workers:
        assert [workers.result(job) for job in workers.submit([bytes(1 << 21)] * 6)] == [1 << 21] * 6
    with closing(Workers(bytes, 2)) as workers:
        assert [len(workers.result(job)) for job in workers.submit([1 << 21] * 6)] == [1 << 21] * 6
    with closing(Workers(bytes.upper, 2)) as workers:
        assert [len(workers.result(job)) for job in workers.submit([bytes(1 << 21)] * 6)] == [1 << 21] * 6


@needs_forks
def test_streams_side_by_side(trained: Trained) -> None:
    """Two of one translator at once, of which one is left before its end."""
    lines = ["a b", "c", "d e f"]
    with contextlib.closing(load(trained.run, "workers=2", "beam_size=1")) as translator:
        expected = texts(translator.translate(lines))
        first, second = translator.stream(lines * 3000), translator.stream(lines * 2)
        assert (next(first).text, next(second).text) == (expected[0], expected[0])
        assert hasattr(second, "close")
        second.close()
        assert texts([*first]) == (expected * 3000)[1:]


@needs_forks
def test_translator_after_a_killed_process(trained: Trained, sources: list[str]) -> None:
    """One call fails, the next one starts others."""
    ids = [[5, 6, 7, EOS_ID]] * 20
    calls: list[Callable[[Translator], object]] = [
        lambda translator: texts(translator.translate(sources)),
        lambda translator: translator.translate_ids(ids),
    ]
    for call in calls:
        with contextlib.closing(load(trained.run, "workers=2")) as translator:
            expected = call(translator)
            os.kill(children()[0], signal.SIGKILL)
            with pytest.raises(RunError, match="killed"):
                call(translator)
            assert call(translator) == expected


@needs_forks
def test_forgotten_translator_ends_its_processes(trained: Trained, sources: list[str]) -> None:
    translator = load(trained.run, "workers=2")
    translator.translate(sources)
    started = children()
    assert len(started) == 2
    del translator
    gc.collect()
    try:
        assert living(started) == []
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@needs_forks
def test_abandoned_stream_at_the_end_of_a_program(trained: Trained) -> None:
    """A program that ends in the middle of a stream says nothing about it and leaves nothing behind."""
    code = (
        "import sys\n"
        "from transformer_mt.decoding.translator import Translator\n"
        "translator = Translator.load(sys.argv[1], ['search.workers=2'])\n"
        "stream = translator.stream(['a b c'] * 9000)\n"
        "print(next(stream).text)\n"
    )
    done = tmt(trained.run, launcher=(sys.executable, "-c", code))
    assert (done.status, done.stderr) == (0, "")


@needs_forks
@pytest.mark.timeout(60)
def test_threads_and_forks(trained: Trained) -> None:
    """Threads share the processes; a fork that only exits leaves them; one that translates has its own."""
    lines = ["a b", "c", "d e f"]
    with load(trained.run, "workers=2", "beam_size=1") as translator, ThreadPoolExecutor(3) as threads:
        expected = texts(translator.translate(lines))
        for found in threads.map(lambda _: texts([*translator.stream(lines * 4)]), range(9)):
            assert found == expected * 4
        for code in ("pass", "assert texts(translator.translate(lines)) == expected"):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    exec(code, {"texts": texts, "translator": translator, "lines": lines, "expected": expected})
                    weakref.finalize._exitfunc()  # type: ignore[attr-defined]  # as a program does that exits
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert texts(translator.translate(lines)) == expected


def test_arguments_of_the_python_interface(trained: Trained) -> None:
    with load(trained.run) as translator:
        for call in (translator.translate, translator.stream):
            with pytest.raises(InputError, match="lines: a list of texts is needed"):
                call("a b")
            with pytest.raises(InputError, match="prefixes: a list of texts is needed"):
                call(["a b"], "a")
        with pytest.raises(InputError, match="targets: a list of texts is needed"):
            translator.score(["a b"], "a b")
        with pytest.raises(InputError, match="cannot be copied or pickled"):
            pickle.dumps(translator)
        one, other = texts(translator.translate(["a b", "c d"]))
        assert texts(translator.translate(["\na b\r\n\nc d\n", "\n"])) == [f"\n{one}\r\n\n{other}\n", "\n"]


# ---------------------------------------------------------------- long lines


def test_long_line_is_its_parts(trained: Trained) -> None:
    """White space between sentences stays as it is, and each part is translated as if it stood alone."""
    sentences = ["a b c d。", "e f g。", "h i j k l。", "m n。", "o p q r s。", "t a b。"]
    gaps = [" ", "\u3000 \t", "\u2028", "\u00a0", "  ", " \u0085\t"]
    long = "\t " + "".join(sentence + gap for sentence, gap in zip(sentences, gaps, strict=True))
    lines = ["a b", "", long, "c d e"]
    for options in ((), ("--beam-size", 1), settings("sampling=true")):
        limit = settings("max_source_tokens=14")
        done = tmt_here("translate", trained.run, *limit, *options, stdin=text(lines)).ok()
        plain = tmt_here("translate", trained.run, *limit, *options, stdin=text(["a b", "c d e", *sentences])).ok()
        assert plain.stderr == ""
        alone = plain.lines[2:]
        expected = "\t " + "".join(found + gap for found, gap in zip(alone, gaps, strict=True))
        assert done.lines == [plain.lines[0], "", expected, plain.lines[1]]
        [warning] = done.stderr.splitlines()
        assert warning.startswith("warning: line 3: ")
        assert "search.max_source_tokens" in warning and "6 parts" in warning


def test_alternatives_and_json_of_a_long_line(trained: Trained) -> None:
    sentences = ["a b c d。", "e f g。", "h i j k l。"]
    options = ("--beam-size", 3, "--n-best", 3, "--json", *settings("max_source_tokens=14"))
    done = tmt_here("translate", trained.run, *options, stdin=text([" ".join(sentences), *sentences])).ok()
    whole, *parts = (json.loads(line)["alternatives"] for line in done.lines)
    assert len(whole) == 3
    for rank, alternative in enumerate(whole):
        assert alternative["text"] == " ".join(part[rank]["text"] for part in parts)
        assert alternative["tokens"] == [token for part in parts for token in part[rank]["tokens"]]
        total = sum(part[rank]["score"] for part in parts)
        assert alternative["score"] == pytest.approx(total, rel=0, abs=3 * SCORE_ERROR)


def test_prefix_of_a_long_line_starts_its_first_part(trained: Trained) -> None:
    translator = load(trained.run, "max_source_tokens=14")
    sentences = ["a b c d。", "e f g。", "h i j k l。"]
    whole = translator.translate([" ".join(sentences)], ["t t t"])[0].text
    assert whole == " ".join(texts(translator.translate(sentences, ["t t t", "", ""])))


def test_line_numbers_in_warnings_go_on_behind_a_chunk(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator_module, "CHUNK_LINES", 3)
    long = "a b c d. " * 8
    lines = ["a", "", long, "b", "c", "d", long, "e"]
    done = tmt_here("translate", trained.run, stdin=text(lines)).ok()
    [warning] = done.stderr.splitlines()
    assert warning.startswith("warning: line 3: ") and warning.endswith("; more such lines: 1")
    assert done.lines == texts(load(trained.run).translate(lines))
    told: list[str] = []
    list(Translator.load(trained.run, ["search.workers=1"], told.append).stream(lines))
    assert [line.split(": ")[:2] for line in told] == [["warning", "line 3"], ["warning", "line 7"]]


def test_line_of_ten_thousand_tokens_without_white_space(trained: Trained) -> None:
    long = "".join(random.Random(1).choices(ALPHABET, k=10_000))
    done = tmt_here("translate", trained.run, "--beam-size", 1, stdin=text(["a b c", long, "d e"])).ok()
    assert len(done.lines) == 3
    assert len(done.lines[1]) > 1000
    assert [done.lines[0], done.lines[2]] == texts(load(trained.run, "beam_size=1").translate(["a b c", "d e"]))
    assert len(done.stderr.splitlines()) == 1
    assert "line 2: 10001 source tokens" in done.stderr


# A process counts as its own what the one that started it had: so one in between that has next to nothing.
MEASURED = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@needs_forks
def test_memory_of_a_very_long_line(trained: Trained, tmp_path: Path) -> None:
    """A quarter of a million characters on one line. The program by itself takes 250 MiB, most of it PyTorch's code."""
    source = write(tmp_path / "source", [" ".join(random.Random(1).choices(ALPHABET, k=120_000))])
    options = ["--beam-size", "1", *settings("max_source_tokens=50", "max_extra_tokens=0")]
    command = [*CLI, "translate", str(trained.run), "--input", str(source), "--output", str(tmp_path / "out"), *options]
    launcher = [sys.executable, "-c", MEASURED, *command]
    done = subprocess.run(launcher, capture_output=True, text=True, env=environment(), check=True)
    assert done.stderr.startswith("warning: line 1: ") and len(done.stderr.splitlines()) == 1
    assert (tmp_path / "out").read_text().count("\n") == 1
    assert int(done.stdout) < 0.5 * (1 << 20), "KiB, of the largest of its processes"


# ---------------------------------------------------------------- any text


ODD = [
    "",
    " ",
    "\t \u3000",
    "\x00",
    "a\x00b \x00",
    "\x01\x02\x1b[31m\x7f",
    "\x80\x9f",
    "😀 👩‍👩‍👧 🇰🇷",
    "\u202eאבג שלום\u202c مرحبا",
    "한국어 문장 하나.",
    "ᚠᛇᚻ 𐌰𐌱 ሀለ",
    "\U000e0001\U0010fffd\ufffe\uffff",
    "e\u0301\u0301\u0301\u0301",
    "<s> </s> <pad> <unk> <0x0A> ▁▁",
    "\\n \\u0000 \" ' {} ||| \t",
    "\ufeffa b",
    "\u200b\u200d\u2060",
    "a" * 60,
    "。。。 !!! ...",
]


@pytest.mark.parametrize(
    ("options", "n_best"),
    [
        (("--beam-size", 3), 3),
        (("--beam-size", 1), 1),
        (settings("sampling=true", "temperature=2.0"), 1),
        (settings("max_source_tokens=3"), 2),
    ],
    ids=["beam", "greedy", "sampling", "parts"],
)
def test_odd_lines(trained: Trained, options: Sequence[object], n_best: int) -> None:
    """Each gets its line back, the same among others and alone, plain, as JSON and with alternatives."""

    def output(lines: Sequence[str], *more: object) -> list[str]:
        return tmt_here("translate", trained.run, *options, *more, stdin=text(lines)).ok().lines

    lines = [*ODD, "a b c"]
    blank = {i for i, line in enumerate(lines) if not line.strip()}
    plain = output(lines)
    assert len(plain) == len(lines)
    assert all(plain[i] == "" for i in blank)
    assert len({plain[i] for i in range(len(lines)) if i not in blank}) > 8
    order = random.Random(2).sample(range(len(lines)), len(lines))
    assert output([lines[i] for i in order]) == [plain[i] for i in order]
    assert [output([line]) for line in lines] == [[found] for found in plain]

    rows = [json.loads(line) for line in output(lines, "--n-best", n_best, "--json")]
    assert [row["text"] for row in rows] == plain
    expected = [f"{i} ||| {a['text']} ||| {a['score']:.4f}" for i, row in enumerate(rows) for a in row["alternatives"]]
    numbered = output(lines, "--n-best", n_best)
    assert numbered == expected
    assert {int(line.split(" ||| ")[0]) for line in numbered} == set(range(len(lines)))


def test_odd_lines_with_all_else(trained: Trained, tmp_path: Path) -> None:
    """Prefixes, an ensemble, statistics, and the program by itself."""
    prefixes = write(tmp_path / "prefixes", ODD[::-1])
    options = ("--prefix", prefixes, "--ensemble", earlier(trained), "--stats", "--json", "--n-best", 2)
    done = tmt("translate", trained.run, *options, stdin=text(ODD)).ok()
    rows = [json.loads(line) for line in done.lines]
    assert len(rows) == len(ODD)
    for line, prefix, row in zip(ODD, ODD[::-1], rows, strict=True):
        if not line.strip():
            assert row["text"] == ""
        elif prefix.isalpha():
            assert row["text"].startswith(prefix)


# ---------------------------------------------------------------- more lines than are read at once


def short_lines(count: int) -> list[str]:
    """Of a hundred different ones, in an order of their own."""
    lines = [*symbol_lines(98, seed=8, shortest=1, longest=2), "", "a b c d e f"]
    return random.Random(1).choices(lines, k=count)


def test_chunks_keep_the_order(trained: Trained) -> None:
    lines = short_lines(2 * CHUNK_LINES + 50)
    different = sorted(set(lines))
    of = dict(zip(different, texts(load(trained.run, "beam_size=1").translate(different)), strict=True))
    assert len(set(of.values())) > 80
    found = translated(trained, lines, "--beam-size", 1, *settings("workers=2"))
    assert found == [of[line] for line in lines]
    # The same in one process, with prefixes, whose lines must go along.
    prefixes = ["" if i % 7 else "t t t" for i in range(len(lines))]
    with_prefix = texts([*load(trained.run, "beam_size=1", "workers=1").stream(lines, prefixes)])
    for i, (line, prefix, one) in enumerate(zip(lines, prefixes, with_prefix, strict=True)):
        assert one.startswith(prefix) if prefix and line else one == of[line], i


def test_output_is_streamed(trained: Trained) -> None:
    """From a slow writer: what has been read some chunks ago is there before the rest comes."""
    lines = short_lines(3 * CHUNK_LINES)
    with piped("translate", trained.run, "--beam-size", 1, *settings("workers=2")) as (running, stdin, stdout):
        stdin.write(text(lines).encode())
        stdin.flush()
        first = [stdout.readline() for _ in range(CHUNK_LINES)]
        assert running.process.poll() is None
        for piece in (b"a b ", b"c", b"\nd", b" e\n", b"f"):
            stdin.write(piece)
            stdin.flush()
            time.sleep(0.05)
        stdin.close()
        rest = stdout.read()
        assert running.end().ok().stderr == ""
    found = [*b"".join(first).decode().splitlines(), *rest.decode().splitlines()]
    assert len(found) == 3 * CHUNK_LINES + 3
    lines = [*lines[:200], *lines[-200:], "a b c", "d e", "f"]
    assert [*found[:200], *found[-203:]] == texts(load(trained.run, "beam_size=1").translate(lines))


# ---------------------------------------------------------------- rules of search and precision


def test_min_tokens(trained: Trained, sources: list[str]) -> None:
    def lengths(*options: object) -> list[int]:
        done = tmt_here("translate", trained.run, "--json", *options, stdin=text(["", *sources])).ok()
        return [len(json.loads(line)["tokens"]) for line in done.lines]

    assert sum(length < 12 for length in lengths()) > 10
    for how in (("--beam-size", 4), ("--beam-size", 1), settings("sampling=true")):
        found = lengths(*how, *settings("min_tokens=12", "max_extra_tokens=20"))
        assert found[0] == 0, "blank stays blank"
        assert min(found[1:]) == 12


def test_no_repeat_ngram(trained: Trained) -> None:
    lines = ["a a a a a a a a", "b c b c b c b c", "d e f d e f d e f", "a b c"]

    def num_repeats(n: int, *options: object) -> int:
        done = tmt_here("translate", trained.run, "--json", "--n-best", 2, *options, stdin=text(lines)).ok()
        tokens = [row["tokens"] for line in done.lines for row in json.loads(line)["alternatives"]]
        grams = [[tuple(one[i : i + n]) for i in range(len(one) - n + 1)] for one in tokens]
        return sum(len(own) - len(set(own)) for own in grams)

    for n in (1, 2, 3):
        assert num_repeats(n) > 0
        for how in ((), settings("sampling=true", "temperature=0.5")):
            assert num_repeats(n, *how, *settings(f"no_repeat_ngram={n}")) == 0


@pytest.mark.parametrize(
    ("pair", "parts"),
    [
        ("min_tokens=-1", ("search.min_tokens", "-1")),
        ("no_repeat_ngram=two", ("search.no_repeat_ngram", "'two'")),
        ("workers=-2", ("search.workers", "-2")),
        ("workers=1.5", ("search.workers", "1.5")),
        ("precision=float16", ("search.precision", "'float32'", "'bfloat16'", "'int8'", "'float16'")),
        ("max_source_tokens=0", ("search.max_source_tokens", "greater than 0")),
        ("batch_tokens=0", ("search.batch_tokens", "greater than 0")),
        ("ngram=2", ("search.ngram", "unknown key", "no_repeat_ngram")),
    ],
)
def test_refused_settings(trained: Trained, pair: str, parts: Sequence[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert_refused(tmt_here("translate", trained.run, *settings(pair), "--output", output, stdin="a\n"), 2, *parts)
    assert_refused(tmt_here("score", trained.run, "--src", "-", "--tgt", "-", *settings(pair)), 2, *parts)
    assert not output.exists()


@pytest.fixture
def all_weights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower precision for this model too, whose weights are otherwise too small for it to pay."""
    monkeypatch.setattr("transformer_mt.decoding.prepared_linear._SMALL_WEIGHT", 0)


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "auto"])
def test_precision(trained: Trained, precision: str, all_weights_count: None) -> None:
    """Of two hundred lines at most a fifth differ from float32 (14 in bfloat16 and 20 in int8 when this was written, of
    a model that is sure of little); the others have nearly the same scores."""
    lines = symbol_lines(200, seed=21, shortest=1, longest=10)
    expected = load(trained.run).translate(lines)
    found = load(trained.run, f"precision={precision}").translate(lines)
    pairs = list(zip(found, expected, strict=True))
    num_differing = sum(one.text != other.text for one, other in pairs)
    print(f"{precision}: {num_differing} of {len(lines)} lines differ from float32")
    assert num_differing <= len(lines) / 5
    assert all(abs(one.score - other.score) < 0.5 for one, other in pairs if one.text == other.text)
    if precision != "auto":
        assert any(one.score != other.score for one, other in pairs), "it has no effect"


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_order_changes_nothing_in_lower_precision(trained: Trained, precision: str, all_weights_count: None) -> None:
    """One line at a time is the same work in any order. In batches, sums of other shapes may differ in their last bits,
    of which rounding may make more: how many lines differ is printed (none when this was written)."""
    lines = symbol_lines(60, seed=21, shortest=1, longest=10)
    order = random.Random(1).sample(range(len(lines)), len(lines))
    shuffled = [lines[i] for i in order]
    alone = load(trained.run, f"precision={precision}", "batch_tokens=1")
    expected = alone.translate(lines)
    assert [(one.text, one.score) for one in alone.translate(shuffled)] == [
        (expected[i].text, expected[i].score) for i in order
    ]
    for batch_tokens in (64, 4096):
        translator = load(trained.run, f"precision={precision}", f"batch_tokens={batch_tokens}")
        found, again = translator.translate(lines), translator.translate(shuffled)
        differing = [sum(a.text != b.text for a, b in zip(found, expected, strict=True))]
        differing += [sum(one.text != found[i].text for one, i in zip(again, order, strict=True))]
        scores = [abs(a.score - b.score) for a, b in zip(found, expected, strict=True) if a.text == b.text]
        print(f"{precision}, batch_tokens {batch_tokens}: {differing} lines differ by batch, order; {max(scores):.1e}")
        assert max(differing) <= len(lines) / 10


def test_precision_on_the_command_line(trained: Trained, sources: list[str]) -> None:
    """A model as small as this one is multiplied in float32 whatever is asked for."""
    expected = tmt_here("translate", trained.run, *settings(WHOLE), stdin=text(sources)).ok().stdout
    for precision in ("bfloat16", "int8", "auto"):
        options = settings(WHOLE, f"precision={precision}")
        found = tmt_here("translate", trained.run, *options, stdin=text(sources)).ok()
        assert (found.stdout, found.stderr) == (expected, "")
