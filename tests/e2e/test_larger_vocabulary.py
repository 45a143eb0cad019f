"""A model adapted with a larger vocabulary: where it starts, how it goes on, and that it leaves as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Done, Trained, symbol_lines, text, tmt_here, weights, write, write_config

from transformer_mt.checkpoints.model_directory import load_model, save_model
from transformer_mt.config.loading import load_config
from transformer_mt.text.added_pieces import origins
from transformer_mt.training.initial import initial_tokenizers, initial_weights

WORDS = ["zwölf", "zwanzig", "µm", "zeile"]


@pytest.fixture
def config(trained: Trained, tmp_path: Path) -> dict[str, Any]:
    """Another domain: words, a tag and a symbol that the model lacks."""
    old = symbol_lines(150, seed=7)
    lines = [f"{line} {WORDS[i % 4]} X-9" for i, line in enumerate(old)]
    found: dict[str, Any] = json.loads(trained.config.read_text())
    new, general = str(write(tmp_path / "new", lines)), str(write(tmp_path / "general", old))
    found["data"] |= {
        "train": [{"src": new, "tgt": new, "tag": "units"}, {"src": general, "tgt": general, "weight": 0.1}],
        "cache_dir": str(tmp_path / "cache"),
    }
    found["tokenizer"] = {"user_symbols": ["X-9"], "add_pieces": 12}
    found["train"] |= {"init_from": str(trained.run), "max_steps": 4, "eval_steps": 4, "checkpoint_steps": 2}
    return found


def train(config: dict[str, Any], run: Path, *options: object) -> Done:
    path = write_config(run.parent / f"{run.name}.yaml", config)
    return tmt_here("train", path, "--output", run, *options)


def test_it_starts_from_the_means_and_says_nothing_new(
    config: dict[str, Any], trained: Trained, tmp_path: Path, sources: list[str]
) -> None:
    settings = load_config(write_config(tmp_path / "c.yaml", config))
    told: list[str] = []
    tokenizers = initial_tokenizers(settings, ["<units>"], told.append)
    initial, tensors = initial_weights(str(trained.run), tokenizers)
    old, new = initial.tokenizers.src, tokenizers.src
    assert "<units> X-9" in told[0] and {"ö", "w"} < new.table.keys() - old.table.keys()
    before = initial.model.get_parameter("src_embed.weight")
    assert torch.equal(tensors["src_embed.weight"][: old.vocab_size], before)
    for row, ids in zip(tensors["src_embed.weight"][old.vocab_size :], origins(old, new, new.tags), strict=True):
        torch.testing.assert_close(row, torch.stack([before[i] for i in ids]).mean(0))
    model = tmp_path / "model"
    own = load_config(initial.path / "config.yaml", of_model=True)
    save_model(model, tensors, own, tokenizers, initial.longest_src_tokens)
    expected, found = (
        tmt_here("translate", path, "--beam-size", 1, stdin=text(sources)).ok().stdout for path in (trained.run, model)
    )
    assert found == expected


def test_it_keeps_the_length_that_it_has_learned(config: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    """Words alone teach it no sentences, but do not make it forget how long a source it knows either."""
    words, run = str(write(tmp_path / "words", WORDS)), tmp_path / "run"
    config["data"]["train"], config["tokenizer"] = [{"src": words, "tgt": words}], {}
    train(config, run, "--set", "train.max_steps=2").ok()
    train(config, run, "--resume").ok()
    longest = load_model(trained.run).longest_src_tokens
    assert longest > 5 and load_model(run).longest_src_tokens == longest


def test_it_goes_on_exactly_and_is_a_start_itself(config: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = train(config, whole).ok().stderr
    size = load_model(trained.run).tokenizers.src.vocab_size
    assert f"tokenizer: {size:,} pieces of {trained.run} and 14 more: <units> X-9 " in told
    train(config, cut, "--set", "train.max_steps=2").ok()
    train(config, cut, "--resume").ok()
    assert weights(cut) == weights(whole)
    # Without the model and the text that it came from, too; and with the configuration that the run has written.
    loaded = load_model(whole)
    assert loaded.tokenizers.src.tags == ["<units>"] and loaded.tokenizers.src.vocab_size == size + 14
    done = tmt_here("train", whole / "config.yaml", "--output", whole, "--resume", "--set", "train.max_steps=5").ok()
    assert "continuing from step 4" in done.stderr
    # As a start itself: it gets what is new again, and only if that is asked for.
    config["tokenizer"] = {}
    config["train"]["init_from"] = str(whole)
    train(config, tmp_path / "next", "--set", "train.freeze=[encoder]").ok()
    assert load_model(tmp_path / "next").tokenizers.fingerprint == loaded.tokenizers.fingerprint
    lines = text(["a b c µm X-9", "a b c"])
    for options in ([], ["--set", "search.tag=units"]):
        assert len(tmt_here("translate", whole, *options, stdin=lines).ok().lines) == 2


def test_frozen_embeddings_are_warned_of(config: dict[str, Any], tmp_path: Path) -> None:
    told = train(config, tmp_path / "run", "--set", "train.freeze=[embeddings]", "--dry-run").ok().stderr
    assert "warning: train.freeze: embeddings: what is new in the vocabulary keeps the rows that it starts" in told


def test_an_exported_one_translates_the_same(config: dict[str, Any], tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    train(config, tmp_path / "run").ok()
    tmt_here("export", tmp_path / "run", "--format", "ctranslate2", "--output", tmp_path / "ct2").ok()
    tokenizer = load_model(tmp_path / "run").tokenizers.src
    lines = [f"{line} zwölf X-9" for line in symbol_lines(20, seed=3, shortest=1, longest=4)]
    results = ctranslate2.Translator(str(tmp_path / "ct2"), intra_threads=1).translate_batch(
        [tokenizer.encode_pieces(line) for line in lines], beam_size=1, min_decoding_length=0, disable_unk=True
    )
    found = [tokenizer.decode_pieces(result.hypotheses[0]) for result in results]
    expected = tmt_here("translate", tmp_path / "run", "--beam-size", 1, stdin=text(lines)).ok().lines
    # What does not end is cut by each program at a length of its own.
    assert all(one.startswith(ours) for one, ours in zip(found, expected, strict=True)) and len(set(expected)) > 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": {"user_symbols": ["<units>"]}}, "tokenizer.user_symbols <units>: is a tag of sources"),
        ({"train": {"init_from": None}}, "tokenizer.add_pieces adds to the vocabulary of train.init_from; set that"),
    ],
)
def test_what_cannot_be_added_is_refused(
    changes: dict[str, Any], message: str, config: dict[str, Any], tmp_path: Path
) -> None:
    for section, keys in changes.items():
        config[section] |= keys
    done = train(config, tmp_path / "run")
    assert done.status == 2 and message in done.refusal
    assert not (tmp_path / "run" / "config.yaml").exists()
