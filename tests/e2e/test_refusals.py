"""Every expected failure: its exit status, and one line that says what, where, and what to do. Never a traceback."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import (
    Done,
    checkpoints,
    copy_corpus,
    last_checkpoint,
    metrics,
    symbol_lines,
    tmt,
    tmt_here,
    write,
    write_config,
)
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from transformer_mt.config.loading import load_config

# What may stand on stderr before a refusal: news, not reasons.
NEWS = re.compile(r"(tokenizer|corpus|step [\d,]+|warning): |training |continuing |averaging |left out: ")


def assert_refused(done: Done, status: int, *parts: object) -> None:
    """One line with all these parts, this status, no result."""
    refusal = done.refusal
    assert done.status == status, done.stderr
    assert done.stdout == b""
    missing = [str(part) for part in parts if str(part) not in refusal]
    assert not missing, f"{refusal!r} lacks {missing}"
    others = done.stderr.splitlines()[:-1]
    assert all(NEWS.match(line) for line in others), done.stderr


def set_in(config: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[key] = value


@dataclass(frozen=True)
class Place:
    """A directory of one's own, a configuration that works, and a model that nobody changes."""

    path: Path
    config: dict[str, Any]
    model: Path

    def train(self, *options: object) -> Done:
        config = write_config(self.path / "config.yaml", self.config)
        return tmt_here("train", config, "--output", self.path / "run", *options)

    def training_file(self, side: str) -> Path:
        return self.path / f"train.{side}"

    def copy_of_model(self) -> Path:
        return Path(shutil.copytree(self.model, self.path / "model"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An averaged model, trained for a moment."""
    directory = tmp_path_factory.mktemp("model")
    config = copy_corpus(directory, num_train=60)
    del config["data"]["valid"]
    config["train"] |= {"max_steps": 2, "checkpoint_steps": 1}
    tmt_here("train", write_config(directory / "config.yaml", config), "--output", directory / "run").ok()
    tmt_here("average", directory / "run", "--last", 2, "--output", directory / "model").ok()
    return directory / "model"


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Place:
    config = copy_corpus(tmp_path, num_train=60)
    config["train"] |= {"max_steps": 2}
    return Place(tmp_path, config, model)


def test_place_is_fine_as_it_is(place: Place) -> None:
    """Else all the refusals below would show nothing. They are asked for within this process; here is one outside."""
    place.train().ok()
    assert len(tmt("translate", place.model, stdin="a b c\n").ok().lines) == 1
    set_in(place.config, "data.clean.max_src_tokens", 1)
    config = write_config(place.path / "config.yaml", place.config)
    assert_refused(tmt("train", config, "--output", place.path / "other"), 2, "no sentence pair is left")


# Usage.


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("frobnicate",), "frobnicate"),
        (("--frobnicate",), "--frobnicate"),
        (("translate", "m", "--frobnicate"), "--frobnicate"),
        (("translate",), "MODEL"),
        (("translate", "m", "--beam-size", "many"), "--beam-size"),
        (("train",), "CONFIG.yaml"),
        (("average", "run"), "--output"),
        (("average", "run", "--output", "x", "--last", "0"), "--last"),
        (("tokenizer", "train", "--output", "t.model"), "--input"),
        (("tokenizer", "encode"), "--model"),
        (("eval",), "--ref"),
        (("eval", "--hyp", "h"), "--ref"),
        (("eval", "--ref", "r"), "--hyp"),
        (("eval", "m", "--ref", "r"), "--src"),
        (("eval", "m", "--src", "s", "--hyp", "h", "--ref", "r"), "--hyp"),
    ],
)
def test_usage(args: Sequence[str], named: str) -> None:
    assert_refused(tmt_here(*args), 2, named)


# Configuration.


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model.d_modell": 32}, ("model.d_modell", "unknown key", "d_model")),
        ({"trian": {}}, ("trian", "unknown key", "train")),
        ({"data.train": [{"src": "a", "tgt": "b", "splitt": "x"}]}, ("splitt", "unknown key", "split")),
        ({"train.max_steps": "many"}, ("train.max_steps", "integer", "'many'")),
        ({"train.max_steps": 0}, ("train.max_steps", "greater than 0", "found 0")),
        ({"train.seed": True}, ("train.seed", "integer", "True")),
        ({"model.dropout": 1.5}, ("model.dropout", "less than 1", "1.5")),
        ({"model": 5}, ("model", "found 5")),
        ({"model.num_heads": 5}, ("num_heads 5", "does not divide", "d_model 32", "d_k")),
        ({"data.train": []}, ("data", "train", "at least one source")),
        ({"data.train": [{"src": "a"}]}, ("data.train.0", "src and tgt go together")),
        ({"tokenizer.shared": False}, ("tie_embeddings", "tokenizer.shared")),
        ({"optim": {"schedule": "cosine"}}, ("optim", "needs lr")),
        ({"tokenizer.type": "wordpiece"}, ("tokenizer.type", "bpe", "unigram", "'wordpiece'")),
        (
            {"model.d_modell": 32, "train.max_steps": "many", "optim.lr": -1},
            ("3 problems", "model.d_modell", "train.max_steps", "optim.lr"),
        ),
    ],
)
def test_configuration(place: Place, changes: dict[str, Any], parts: Sequence[str]) -> None:
    for path, value in changes.items():
        set_in(place.config, path, value)
    assert_refused(place.train(), 2, place.path / "config.yaml", *parts)
    assert not (place.path / "run").exists()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.max_steps", ("--set train.max_steps", "key.path=value")),
        ("=3", ("--set =3", "key.path=value")),
        ("train..seed=3", ("--set train..seed=3", "key.path=value")),
        ("train.max_stepps=3", ("train.max_stepps", "unknown key", "max_steps")),
        ("train.max_steps=[", ("train.max_steps", "YAML")),
        ("train.max_steps.x=3", ("train.max_steps.x", "not a section")),
    ],
)
def test_override(place: Place, override: str, parts: Sequence[str]) -> None:
    assert_refused(place.train("--set", override), 2, *parts)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("search.beam_sise=3", ("search.beam_sise", "unknown key", "beam_size")),
        ("search.beam_size=0", ("search.beam_size", "greater than 0")),
        ("train.seed=3", ("train.seed", "search.")),
        ("search.n_best=9", ("n_best 9", "beam_size")),
    ],
)
def test_override_of_a_model(place: Place, override: str, parts: Sequence[str]) -> None:
    assert_refused(tmt_here("translate", place.model, "--set", override, stdin="a\n"), 2, *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"data: [\n", ("line ", "not valid YAML")),
        (b"data: {src_lang: en\nmodel: {}\n", ("line 2", "not valid YAML")),
        (b"a: 1\na: 2\n", ("line 2", "not valid YAML", "duplicate")),
        (b"", ("not a configuration", "nothing")),
        (b"just text\n", ("not a configuration",)),
        (b"data: {src_lang: \xff}\n", ("line 1", "not UTF-8")),
        (b"\x00", ("not valid YAML",)),
        (b"model: {preset: tiny}\n", ("data", "missing")),
        (b'data: {src_lang: a, tgt_lang: b, train: [{src: "${TMT_NOT_SET}/a", tgt: b}]}\n', ("TMT_NOT_SET", "export")),
    ],
)
def test_file_that_is_no_configuration(tmp_path: Path, content: bytes, parts: Sequence[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(content)
    assert_refused(tmt_here("train", config, "--output", tmp_path / "run"), 2, *parts)


def test_missing_configuration(tmp_path: Path) -> None:
    assert_refused(tmt_here("train", tmp_path / "none.yaml"), 2, tmp_path / "none.yaml", "No such file")
    assert_refused(tmt_here("train", tmp_path), 2, tmp_path, "Is a directory")


# Training text.


def test_missing_training_file(place: Place) -> None:
    place.training_file("tgt").unlink()
    assert_refused(place.train(), 2, place.training_file("tgt"), "No such file")


def test_missing_validation_file(place: Place) -> None:
    (place.path / "valid.src").unlink()
    assert_refused(place.train(), 2, place.path / "valid.src", "No such file")


def test_empty_validation_text(place: Place) -> None:
    write(place.path / "valid.src", [])
    write(place.path / "valid.tgt", [])
    assert_refused(place.train(), 2, "data.valid", "empty")


@pytest.mark.parametrize(("longer", "shorter"), [("src", "tgt"), ("tgt", "src")])
def test_unequal_line_counts(place: Place, longer: str, shorter: str) -> None:
    write(place.training_file(shorter), symbol_lines(57, seed=1))
    short, long = place.training_file(shorter), place.training_file(longer)
    assert_refused(place.train(), 2, f"{short} has 57 lines", f"{long} 60", f"line 58 of {long} is the first")


def test_training_text_that_is_not_utf8(place: Place) -> None:
    lines = place.training_file("src").read_bytes().split(b"\n")
    lines[40] = "Straße".encode("latin-1")
    place.training_file("src").write_bytes(b"\n".join(lines))
    assert_refused(place.train(), 2, place.training_file("src"), "line 41", "not UTF-8", "0xdf", "iconv")


def test_damaged_gz(place: Place) -> None:
    packed = gzip.compress(place.training_file("src").read_bytes())
    (place.path / "train.src.gz").write_bytes(packed[: len(packed) // 2])
    place.config["data"]["train"][0]["src"] = str(place.path / "train.src.gz")
    assert_refused(place.train(), 2, place.path / "train.src.gz", "damaged gzip")


def test_empty_corpus(place: Place) -> None:
    for side in ("src", "tgt"):
        write(place.training_file(side), [])
    assert_refused(place.train(), 2, "empty", "data.train")


def test_all_pairs_filtered_out_with_a_given_tokenizer(place: Place) -> None:
    place.config["tokenizer"] = {"model": str(place.model / "tokenizer.model")}
    set_in(place.config, "tokenizer.vocab_size", 77)
    set_in(place.config, "data.clean.max_src_tokens", 1)
    failed = place.train()
    assert_refused(failed, 2, "no sentence pair is left", "60 too_many_src_tokens", "data.clean")
    assert "warning: tokenizer.vocab_size: no effect beside tokenizer.model" in failed.stderr


def test_text_with_more_characters_than_the_vocabulary(place: Place) -> None:
    set_in(place.config, "tokenizer.vocab_size", 20)
    assert_refused(place.train(), 2, "tokenizer.vocab_size 20", "raise it")


# Models.


def rewrite_manifest(model: Path) -> None:
    """Make a changed model look as if it had been written so."""
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        content = (model / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    (model / "manifest.json").write_text(json.dumps(manifest, indent=1))


def assert_translates_not(model: Path, *parts: object) -> None:
    assert_refused(tmt_here("translate", model, stdin="a b c\n"), 2, *parts)


def test_no_model(place: Place) -> None:
    assert_translates_not(place.path / "none", place.path / "none", "no such model directory")
    assert_translates_not(place.path, place.path, "not a model")
    (place.path / "run" / "checkpoints").mkdir(parents=True)
    assert_translates_not(place.path / "run", place.path / "run", "no checkpoint yet", "tmt train")


def test_model_without_weights(place: Place) -> None:
    model = place.copy_of_model()
    (model / "model.safetensors").unlink()
    assert_translates_not(model, model / "model.safetensors", "missing")
    (model / "manifest.json").unlink()
    assert_translates_not(model, model, "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer.model", "vocab.json", "manifest.json"])
def test_model_with_a_file_cut_short(place: Place, name: str) -> None:
    model = place.copy_of_model()
    file = model / name
    file.write_bytes(file.read_bytes()[:-7])
    assert_translates_not(model, file, "another checkpoint")


def test_model_with_the_vocabulary_of_another(place: Place) -> None:
    """Consistent files that do not belong together."""
    model = place.copy_of_model()
    table = json.loads((model / "vocab.json").read_text())
    (model / "vocab.json").write_text(json.dumps({**table, "another piece": len(table)}))
    rewrite_manifest(model)
    rows = len(table)
    assert_translates_not(model, model / "model.safetensors", f"[{rows}, 32]", f"[{rows + 1}, 32]", "same run")


def test_model_whose_configuration_describes_another(place: Place) -> None:
    model = place.copy_of_model()
    config = (model / "config.yaml").read_text()
    assert "num_decoder_layers: 1" in config
    (model / "config.yaml").write_text(config.replace("num_decoder_layers: 1", "num_decoder_layers: 2"))
    rewrite_manifest(model)
    assert_translates_not(model, model / "model.safetensors", "decoder.layers.1.", "config.yaml")


def test_a_model_is_used_whatever_its_training_was(place: Place) -> None:
    """Keys of data, optimizer and training may be named otherwise or taken more strictly by a later version."""
    model = place.copy_of_model()
    before = tmt_here("translate", model, "--json", stdin="a b c\n").ok().stdout
    path = model / "config.yaml"
    recorded = YAML(typ="safe").load(path)
    for section in recorded.values():
        if section is not recorded["model"] and section is not recorded["search"]:
            section["abolished"] = 1
    recorded["data"]["clean"]["max_chars"] = "many"
    recorded["data"]["train"][0]["weight"] = -1
    recorded["train"]["max_steps"] = recorded["optim"]["schedule"] = recorded["eval"]["beam_size"] = "none"
    recorded["abolished"] = {"key": 1}
    write_config(path, recorded)
    rewrite_manifest(model)
    assert tmt_here("translate", model, "--json", stdin="a b c\n").ok().stdout == before
    text = write(place.path / "text", ["a b c"])
    tmt_here("score", model, "--src", text, "--tgt", text).ok()
    tmt_here("eval", model, "--src", text, "--ref", text).ok()
    place.config["data"] |= {"train": [{"distill": str(text), "model": str(model)}], "valid": []}
    tmt_here("data", "synthesize", write_config(place.path / "config.yaml", place.config)).ok()
    # Averaging and continuing look at all of it.
    other = shutil.copytree(model, place.path / "other")
    assert_refused(tmt_here("average", model, other, "--output", place.path / "mean"), 2, path, "unknown key")


@pytest.mark.parametrize(("section", "key"), [("model", "d_models"), ("search", "beam_sizes")])
def test_model_with_an_unknown_key_that_matters(place: Place, section: str, key: str) -> None:
    model = place.copy_of_model()
    path = model / "config.yaml"
    recorded = YAML(typ="safe").load(path)
    recorded[section][key] = 4
    write_config(path, recorded)
    rewrite_manifest(model)
    assert_translates_not(model, path, f"{section}.{key}: unknown key; did you mean {key[:-1]}?")


def test_init_from_a_model_with_another_tokenizer(place: Place) -> None:
    other = place.path / "other.model"
    text = write(place.path / "text", ["entirely other words than before", "so that its pieces differ"])
    tmt_here("tokenizer", "train", "--input", text, "--output", other, "--vocab-size", 290).ok()
    place.config["tokenizer"] = {"model": str(other)}
    place.config["train"]["init_from"] = str(place.model)
    assert_refused(place.train(), 2, "tokenizer.model", other, "train.init_from", place.model)


def test_init_from_a_model_of_another_shape(place: Place) -> None:
    place.config["train"]["init_from"] = str(place.model)
    place.config["model"] |= {"d_ff": 128, "dropout": 0.2}
    place.config["tokenizer"]["normalization"] = "nfkc"
    parts = "model.d_ff is 128, that of train.init_from 64", "tokenizer.normalization is nfkc", "nmt_nfkc", place.model
    refused = place.train()
    assert_refused(refused, 2, *parts)
    assert "dropout" not in refused.stderr
    assert not (place.path / "run" / "config.yaml").exists()


def test_a_run_from_a_model_records_that_models_tokenizer(place: Place) -> None:
    """What is not said is the initial model's; the run's own config.yaml continues it."""
    place.config["train"]["init_from"] = str(place.model)
    place.config["tokenizer"] = {}
    place.train().ok()
    run = place.path / "run"
    recorded = load_config(run / "config.yaml", of_model=True)
    assert recorded.tokenizer == load_config(place.model / "config.yaml", of_model=True).tokenizer
    place.train("--resume", "--set", "train.max_steps=3").ok()
    tmt_here("train", run / "config.yaml", "--output", run, "--resume", "--set", "train.max_steps=4").ok()


def test_a_warm_up_that_never_ends_is_warned_of(place: Place) -> None:
    place.config["optim"]["warmup_steps"] = 4000
    done = place.train("--dry-run").ok()
    assert "warning: train.max_steps 2 is less than optim.warmup_steps 4,000" in done.stderr


def test_a_rate_that_never_stands_is_warned_of(place: Place) -> None:
    place.config["optim"] |= {"schedule": "stable", "warmup_steps": 1, "lr": 0.001, "decay_steps": 1}
    assert "warning: optim.decay_steps 1 and optim.warmup_steps 1 leave nothing of train.max_steps 2" in (
        place.train("--dry-run").ok().stderr
    )
    assert "decay_steps" not in place.train("--dry-run", "--set", "train.max_steps=9").ok().stderr
    told = place.train("--dry-run", "--set", "optim.warmup_steps=4000").ok().stderr
    assert "lower optim.warmup_steps" in told and "optim.decay_steps 1" not in told


def test_a_coverage_that_sentencepiece_refuses_is_named(place: Place) -> None:
    set_in(place.config, "tokenizer.character_coverage", 0.95)
    assert_refused(place.train(), 2, "tokenizer.character_coverage 0.95 is too low; 0.98 is the least")


def test_one_language_for_both_sides_is_warned_of(place: Place) -> None:
    assert "src_lang" not in place.train("--dry-run").ok().stderr
    place.config["data"]["tgt_lang"] = "src"
    assert "warning: data.src_lang and data.tgt_lang are both src; " in place.train("--dry-run").ok().stderr


def test_init_from_nothing(place: Place) -> None:
    place.config["train"]["init_from"] = str(place.path / "none")
    assert_refused(place.train(), 2, f"train.init_from: {place.path}", "none: no such model directory")


def test_average_of_what_cannot_be_averaged(place: Place) -> None:
    place.train("--set", "train.checkpoint_steps=1").ok()
    output = place.path / "averaged"
    assert_refused(
        tmt_here("average", place.path / "run", "--last", 9, "--output", output),
        2,
        "has 2 checkpoints",
        "--last asks for 9",
    )
    assert_refused(tmt_here("average", place.path / "none", "--output", output), 2, place.path / "none")
    file = last_checkpoint(place.path / "run") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert_refused(tmt_here("average", place.path / "run", "--last", 2, "--output", output), 2, file)
    assert not output.exists()


def test_tokenizer_that_is_none(place: Place) -> None:
    text = write(place.path / "text", ["no tokenizer"])
    assert_refused(tmt_here("tokenizer", "encode", "--model", text, stdin="a\n"), 2, text)
    assert_refused(tmt_here("tokenizer", "encode", "--model", place.path / "none", stdin="a\n"), 2, place.path / "none")
    output = place.path / "new.model"
    assert_refused(
        tmt_here("tokenizer", "train", "--input", place.path / "none", "--output", output), 2, place.path / "none"
    )
    assert_refused(
        tmt_here("tokenizer", "train", "--input", text, "--output", output, "--type", "words"), 2, "type", "'words'"
    )
    assert not output.exists()


# Places that cannot be written.


def test_output_that_cannot_be_written(place: Place) -> None:
    text = write(place.path / "text", ["a b c"])
    nowhere = place.path / "none" / "out"
    assert_refused(tmt_here("translate", place.model, "--input", text, "--output", nowhere), 2, nowhere, "mkdir -p")
    assert_refused(
        tmt_here("translate", place.model, "--input", text, "--output", place.path), 2, place.path, "directory"
    )
    assert_refused(tmt_here("tokenizer", "train", "--input", text, "--output", nowhere), 2, nowhere, "mkdir -p")
    assert_refused(tmt_here("average", place.model, "--last", 1, "--output", nowhere), 2, nowhere)
    assert_refused(tmt_here("average", place.model, "--last", 1, "--output", text), 2, text, "--output")
    config = write_config(place.path / "config.yaml", place.config)
    assert_refused(tmt_here("train", config, "--output", text), 2, text, "--output")
    assert_refused(tmt_here("train", config, "--output", text / "run"), 2, text / "run", "--output")
    place.config["data"]["cache_dir"] = str(text / "cache")
    refused = place.train()
    assert refused.status in (1, 2)
    assert str(text / "cache") in refused.refusal
    assert text.read_text() == "a b c\n"


def test_input_that_cannot_be_read(place: Place) -> None:
    none, text = place.path / "none", write(place.path / "text", ["a b c"])
    output = place.path / "out"
    assert_refused(tmt_here("translate", place.model, "--input", none, "--output", output), 2, none, "No such file")
    assert_refused(tmt_here("eval", "--hyp", none, "--ref", text), 2, none, "No such file")
    assert_refused(tmt_here("eval", "--hyp", text, "--ref", none), 2, none, "No such file")
    text.write_bytes(b"a\n\xff\n")
    assert_refused(
        tmt_here("translate", place.model, "--input", text, "--output", output), 2, text, "line 2", "not UTF-8"
    )
    assert not output.exists()


def test_eval_of_unequal_counts(place: Place) -> None:
    three, two = write(place.path / "three", ["a", "b", "c"]), write(place.path / "two", ["a", "b"])
    none = write(place.path / "empty", [])
    for command in (("--hyp", three), (place.model, "--src", three)):
        assert_refused(tmt_here("eval", *command, "--ref", two), 2, "3 lines", str(three), f"2 in {two}", "line 3")
    assert_refused(tmt_here("eval", "--hyp", two, "--ref", two, "--ref", three), 2, "2 lines", str(three), "line 3")
    assert_refused(tmt_here("eval", "--hyp", none, "--ref", none), 2, none, "no lines")
    assert_refused(tmt_here("eval", "--hyp", two, "--ref", two, "--metrics", "blue"), 2, "'blue'", "'bleu'")
    assert_refused(tmt_here("eval", "--hyp", two, "--ref", two, "--tokenize", "14a"), 2, "'14a'", "13a")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk that fills needs the right to mount one of two MiB")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_disk_that_fills_while_saving(place: Place, small_disk: Path) -> None:
    """The checkpoint before stays valid, and with some space training goes on from it."""
    del place.config["data"]["valid"]
    place.config["train"] |= {"max_steps": 12, "checkpoint_steps": 1}
    config, run = write_config(place.path / "config.yaml", place.config), small_disk / "run"
    full = tmt_here("train", config, "--output", run)
    last = last_checkpoint(run)
    step = int(last.name.removeprefix("step_"))
    assert 1 <= step < 12
    assert_refused(full, 1, run / "checkpoints" / f"step_{step + 1:08d}", "No space left", "free some space")
    assert checkpoints(run) == [f"step_{number:08d}" for number in range(1, step + 1)]
    assert not list((run / "checkpoints").glob(".step*")), "the half-written one has gone"
    assert len(tmt_here("translate", run, stdin="a b c\n").ok().lines) == 1

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    tmt_here("train", config, "--output", run, "--resume").ok()
    assert last_checkpoint(run).name == "step_00000012"
    tmt_here("train", config, "--output", place.path / "unhindered").ok()
    file = "model.safetensors"
    assert (last_checkpoint(run) / file).read_bytes() == (
        last_checkpoint(place.path / "unhindered") / file
    ).read_bytes()


def test_disk_that_fills_while_translating(place: Place, small_disk: Path) -> None:
    text = write(place.path / "text", ["a b c"])
    output = write(small_disk / "out", ["what stood there before"])
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    assert_refused(tmt_here("translate", place.model, "--input", text, "--output", output), 1, output, "No space left")
    assert output.read_text() == "what stood there before\n"


# A loss that is not finite.


def assert_stopped_at(done: Done, place: Place, step: int) -> None:
    assert_refused(done, 1, f"step {step}:", "not applied", "metrics.jsonl", "optim.lr", "clip_norm")
    record = metrics(place.path / "run")[-1]
    assert (record["kind"], record["step"]) == ("not_finite", step)
    src, tgt = place.training_file("src"), place.training_file("tgt")
    named = re.search(rf"(\d+) \({re.escape(f'{src} + {tgt}')}, line ([\d,]+)\)", done.refusal)
    assert named is not None
    assert int(named[1]) in record["pairs"]
    assert int(named[2]) == int(named[1]) + 1, "nothing was filtered, so pair i is line i + 1"


def test_learning_rate_beyond_reason_stops_the_run(place: Place) -> None:
    place.config["optim"] |= {"lr": 1e30, "warmup_steps": 1}
    place.config["train"] |= {"max_steps": 500, "checkpoint_steps": 1, "eval_steps": 1000}
    done = place.train()
    last = last_checkpoint(place.path / "run")
    step = int(last.name.removeprefix("step_"))
    assert 1 <= step < 5
    assert_stopped_at(done, place, step + 1)
    tensors = {**load_file(last / "model.safetensors"), **load_file(last / "optimizer.safetensors")}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_weight_that_is_not_finite_stops_the_run(place: Place) -> None:
    model = place.copy_of_model()
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.layers.0.ff.up.weight"][0, 0] = torch.inf
    save_file(tensors, model / "model.safetensors")
    rewrite_manifest(model)
    place.config["train"] |= {"init_from": str(model), "checkpoint_steps": 1, "max_steps": 50}
    assert_stopped_at(place.train(), place, 1)
    assert checkpoints(place.path / "run") == []
