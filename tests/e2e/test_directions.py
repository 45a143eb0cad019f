"""One model, several directions and domains: tags in the vocabulary, chosen when translating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import Trained, copy_corpus, metrics, symbol_lines, text, tmt_here, translated, write, write_config

LETTERS = "abcdefghij"  # few and in short lines: reversing is learned in seconds
TEST = symbol_lines(60, seed=5, shortest=3, longest=4, alphabet=LETTERS)
MODEL = {"d_model": 64, "d_ff": 128, "num_heads": 4, "dropout": 0.0, "num_encoder_layers": 1, "num_decoder_layers": 2}


def reverse(line: str) -> str:
    return " ".join(reversed(line.split(" ")))


def configuration(directory: Path) -> dict[str, Any]:
    """Into the "language" cp a text is copied, into rv it is reversed; in the domain `one` it is its first word."""
    config = copy_corpus(directory)
    lines = symbol_lines(6000, seed=1, shortest=2, longest=4, alphabet=LETTERS)
    src = str(write(directory / "task.src", lines))
    targets = {"cp": lines, "rv": list(map(reverse, lines)), "one": [line.split(" ")[0] for line in lines]}
    paths = {name: str(write(directory / f"task.{name}", found)) for name, found in targets.items()}
    sources = [
        {"src": src, "tgt": paths["cp"], "tgt_lang": "cp"},
        {"src": src, "tgt": paths["rv"], "tgt_lang": "rv"},
        {"src": src, "tgt": paths["one"], "tgt_lang": "cp", "tag": "one", "weight": 0.5},
    ]
    valid = str(write(directory / "few.src", TEST[:20]))
    config["data"] |= {"tgt_lang": "cp", "train": sources}
    config["data"]["valid"] = [
        {"src": valid, "tgt": valid},
        {
            "src": valid,
            "tgt": str(write(directory / "few.rv", [reverse(line) for line in TEST[:20]])),
            "tgt_lang": "rv",
        },
    ]
    config["tokenizer"] = {"vocab_size": 28, "byte_fallback": False}
    config["model"] |= MODEL
    config["batch"] = {"max_tokens": 600}
    config["optim"] = {"schedule": "cosine", "lr": 0.006, "warmup_steps": 40, "clip_norm": 1.0}
    config["train"] |= {"max_steps": 300, "eval_steps": 300, "checkpoint_steps": 300, "log_steps": 100}
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("directions")
    path = write_config(directory / "config.yaml", configuration(directory))
    tmt_here("train", path, "--output", directory / "run").ok()
    return directory / "run"


def share_of(found: list[str], expected: list[str]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def test_each_direction_and_domain_is_learned_and_chosen(run: Path) -> None:
    for options, expected in (
        (["--tgt-lang", "cp"], TEST),
        ([], TEST),  # data.tgt_lang
        (["--tgt-lang", "rv"], list(map(reverse, TEST))),
        (["--set", "search.tag=one"], [line.split(" ")[0] for line in TEST]),
    ):
        found = tmt_here("translate", run, *options, stdin=text(TEST)).ok().lines
        assert share_of(found, expected) > 0.8, (options, found[:3])


def test_a_server_translates_in_each_direction(run: Path, trained: Trained) -> None:
    """Also in those of a second model; requests for several languages come together."""
    models = pytest.importorskip("transformer_mt.server.models").Models
    with models.load([run, trained.run], [], 100_000, lambda _: None) as served:
        assert served.directions == [("src", "cp"), ("src", "rv"), ("src", "tgt")]
        targets = ("cp", "rv", "tgt")
        asked = [(target, served.submit([line], "src", target)) for line in TEST for target in targets]
        found = {t: [one.result(timeout=60).text for target, [one] in asked if target == t] for t in targets}
    for target in ("cp", "rv"):
        assert found[target] == tmt_here("translate", run, "--tgt-lang", target, stdin=text(TEST)).ok().lines
    assert found["tgt"] == translated(trained, TEST)


def test_tags_are_in_the_vocabulary_behind_the_pieces(run: Path) -> None:
    table = json.loads((run / "vocab.json").read_text(encoding="utf-8"))
    assert [piece for piece, i in sorted(table.items(), key=lambda item: item[1])][-3:] == ["<2cp>", "<2rv>", "<one>"]
    # Text that looks like a tag is text.
    spelt = "a <2rv> b"
    assert tmt_here("translate", run, stdin=text([spelt])).ok().lines != [""]


def test_scores_are_of_the_direction(run: Path, tmp_path: Path) -> None:
    src, tgt = write(tmp_path / "src", TEST), write(tmp_path / "tgt", list(map(reverse, TEST)))
    sums = []
    for language in ("cp", "rv"):
        lines = tmt_here("score", run, "--src", src, "--tgt", tgt, "--set", f"search.tgt_lang={language}").ok().lines
        sums.append(sum(map(float, lines)))
    assert sums[1] > sums[0] / 10 > sums[0]


def test_validation_has_scores_of_each_direction_and_their_mean(run: Path) -> None:
    [valid] = [record for record in metrics(run) if record["kind"] == "valid"]
    assert valid["bleu"] == pytest.approx((valid["bleu_src_cp"] + valid["bleu_src_rv"]) / 2)
    assert min(valid["bleu_src_cp"], valid["bleu_src_rv"]) > 50
    assert set(valid["signatures"]) == {"bleu_src_cp", "bleu_src_rv", "chrf_src_cp", "chrf_src_rv"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tgt-lang", "fr"], "no tag <2fr>; it has <2cp>, <2rv>"),
        (["--set", "search.tag=law"], "no tag <law>; it has <one>"),
    ],
)
def test_what_the_model_does_not_know_is_refused(run: Path, options: list[str], message: str) -> None:
    done = tmt_here("translate", run, *options, stdin="a\n")
    assert done.status == 2 and message in done.refusal


def test_a_model_of_one_direction_knows_no_other(trained: Any) -> None:
    """And --tgt-lang of its own language is no mistake."""
    line = "a b c"
    plain = tmt_here("translate", trained.run, stdin=text([line])).ok().lines
    assert tmt_here("translate", trained.run, "--tgt-lang", "tgt", stdin=text([line])).ok().lines == plain
    done = tmt_here("translate", trained.run, "--tgt-lang", "fr", stdin=text([line]))
    assert done.status == 2 and "translates into tgt only" in done.refusal


def test_another_run_can_start_from_it_with_its_tags(run: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["train"] |= {"init_from": str(run), "max_steps": 2, "eval_steps": 2, "checkpoint_steps": 2}
    config["data"]["tgt_lang"] = "rv"
    config["data"]["train"] = config["data"]["train"][1:2]  # one direction: its tag is there all the same
    tmt_here("train", write_config(tmp_path / "c.yaml", config), "--output", tmp_path / "run").ok()
    found = tmt_here("translate", tmp_path / "run", "--tgt-lang", "rv", stdin=text(TEST)).ok().lines
    assert share_of(found, list(map(reverse, TEST))) > 0.5
    config["data"]["train"][0] |= {"tag": "law", "tgt_lang": "new"}  # what it lacks is added
    config["data"]["tgt_lang"] = "new"
    done = tmt_here("train", write_config(tmp_path / "d.yaml", config), "--output", tmp_path / "other").ok()
    assert "warning: <2new> will be learned as a new target language; the model has <2cp> <2rv>" in done.stderr
    table = json.loads((tmp_path / "other" / "vocab.json").read_text(encoding="utf-8"))
    assert [*table][-5:] == ["<2cp>", "<2rv>", "<one>", "<2new>", "<law>"]
