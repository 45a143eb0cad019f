"""Checkpoints: bit-exact round trips, every kind of damage, full disks, retention, averaging, pointers."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from harness import piped
from safetensors.torch import load_file, save_file

from transformer_mt.checkpoints import model_directory, run_directory, training_state
from transformer_mt.checkpoints import saver as saver_module
from transformer_mt.checkpoints.manifest import sealed, verify
from transformer_mt.checkpoints.model_directory import load_model, save_model
from transformer_mt.checkpoints.run_directory import remove_leftovers
from transformer_mt.checkpoints.saver import Saver, load_training, training_tensors
from transformer_mt.checkpoints.training_state import Sums, TrainState
from transformer_mt.config.loading import load_config, validate
from transformer_mt.config.sections import Config, TokenizerConfig
from transformer_mt.data.batching import Cursor
from transformer_mt.errors import InputError, RunError
from transformer_mt.model.transformer import Transformer
from transformer_mt.system import directories
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.training import averaging
from transformer_mt.training.averaging import average
from transformer_mt.training.optim import adam, new_optimizer

MODEL_FILES = ["config.yaml", "manifest.json", "model.safetensors", "tokenizer.model", "vocab.json"]
CHECKPOINT_FILES = sorted([*MODEL_FILES, "optimizer.safetensors", "state.json"])
LONGEST = 17

Damage = Callable[[Path], object]


def build_config(optimizer: str = "adam", **model: Any) -> Config:
    shape = dict(d_model=8, d_ff=12, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0)
    data = {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "train.en", "tgt": "train.de"}]}
    return validate({"data": data, "model": shape | model, "optim": {"optimizer": optimizer}}, "test")


def build_tokenizers(lines: list[str], vocab_size: int = 40) -> Tokenizers:
    settings = TokenizerConfig(vocab_size=vocab_size, normalization="identity", byte_fallback=False)
    tokenizer, _ = train_tokenizer(lines, settings)
    return Tokenizers(tokenizer, tokenizer)


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return build_tokenizers(["a dog runs", "two dogs run across a field", "a man talks to two women"] * 3)


class Training:
    """A model in training, without any data: its gradients are random numbers keyed by the step."""

    def __init__(self, tokenizers: Tokenizers, config: Config | None = None, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.config, self.tokenizers = config or build_config(), tokenizers
        self.model = Transformer(self.config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        self.optimizer = new_optimizer(self.model, self.config.optim, torch.float32)
        self.state = TrainState(corpus="c", tokenizer=tokenizers.fingerprint)

    def step(self) -> None:
        self.state.step += 1
        generator = torch.Generator().manual_seed(self.state.step)
        for p in self.model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01
        self.optimizer.step()

    def save(self, run: Path, by_signal: bool = False) -> Path:
        """As the trainer does it, at the present step."""
        self.state.by_signal = by_signal
        saver = Saver(run, self.config, self.tokenizers, LONGEST)
        try:
            self.save_with(saver)
            saver.wait()
        finally:
            saver.close()
        return run_directory.checkpoint_path(run, self.state.step)

    def save_with(self, saver: Saver, is_best: bool = False) -> None:
        weights = dict(self.model.named_parameters())
        saver.save(weights, training_tensors(self.optimizer, self.model), self.state, is_best=is_best)

    def save_weights(self, target: Path, longest: int = LONGEST) -> Path:
        """A model directory without the optimizer."""
        save_model(target, dict(self.model.named_parameters()), self.config, self.tokenizers, longest)
        return target


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def all_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def saved_run(tokenizers: Tokenizers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2."""
    run: Path = tmp_path_factory.mktemp("saved") / "run"
    training = Training(tokenizers)
    for _ in range(2):
        training.step()
        training.save(run)
    return run


@pytest.fixture
def run(saved_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_run, tmp_path / "run"))


# Round trips


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_training_continues_bit_for_bit(optimizer: str, tokenizers: Tokenizers, tmp_path: Path) -> None:
    config = build_config(optimizer)
    training = Training(tokenizers, config)
    for _ in range(3):
        training.step()
    training.state = TrainState(
        step=3,
        cursor=Cursor(2, 5),
        best_score=31.234567890123456,
        best_step=2,
        evals_without_improvement=1,
        since_report=Sums(loss=0.1 + 0.2, nll=1 / 3, norm=1e-17, labels=7, steps=2),
        corpus="0123",
        tokenizer="4567",
        environment={"torch": torch.__version__, "ranks": 2},
    )
    path = training.save(tmp_path)
    assert names_in(path) == CHECKPOINT_FILES

    restored = Training(tokenizers, config, seed=99)
    assert not all_equal(weights_of(restored.model), weights_of(training.model))
    verify(path)
    restored.state = load_training(path, restored.model, restored.optimizer)
    assert restored.state == training.state
    for _ in range(2):
        assert all_equal(weights_of(restored.model), weights_of(training.model))
        for name, p in restored.model.named_parameters():
            found = restored.optimizer.state[p]
            assert all_equal(found, training.optimizer.state[dict(training.model.named_parameters())[name]])
            is_matrix = ".layers." in name and p.dim() == 2
            if optimizer == "muon" and is_matrix:
                assert found.keys() == {"momentum"} and found["momentum"].any()
            else:
                assert float(found["step"]) == training.state.step
        training.step()
        restored.step()


def test_a_state_of_version_0_1_0_is_read() -> None:
    """It did not keep the best step's loss, nor that a validation is to be made up for."""
    fields = dataclasses.asdict(TrainState(step=3, best_score=1.5))
    del fields["best_loss"], fields["awaits_validation"]
    assert TrainState.from_json(json.dumps(fields)) == TrainState(step=3, best_score=1.5)


def restate_tags(path: Path, tags: list[str] | None) -> None:
    """Let the manifest state other tags, and be whole."""
    manifest = verify(path).model_dump(exclude={"tags"})
    (path / "manifest.json").write_bytes(sealed(manifest if tags is None else {**manifest, "tags": tags}))


def test_the_manifest_states_the_tags(tokenizers: Tokenizers, tmp_path: Path) -> None:
    training = Training(tokenizers.with_tags(["<law>", "<2de>"]))
    training.step()
    for path in training.save(tmp_path / "run"), training.save_weights(tmp_path / "mean"):
        assert verify(path).tags == load_model(path).tokenizers.src.tags == ["<2de>", "<law>"]
        restate_tags(path, ["<law>"])
        assert load_model(path).tokenizers.src.tags == ["<law>"]
        restate_tags(path, None)  # as 0.1.0 wrote it: what SentencePiece lacks
        assert load_model(path).tokenizers.src.tags == ["<2de>", "<law>"]
        restate_tags(path, ["<law>", "<web>"])
        with pytest.raises(InputError, match=r"the tag <web> is not in vocab\.json.*copy the model again$"):
            load_model(path)
    restate_tags(tmp_path / "mean", None)
    for _ in "without", "with":  # it is known to be ours and replaced
        assert verify(training.save_weights(tmp_path / "mean")).tags == ["<2de>", "<law>"]


def test_a_model_is_loaded_as_it_was_saved(run: Path, tokenizers: Tokenizers) -> None:
    training = Training(tokenizers)
    training.step()
    loaded = load_model(run / "checkpoints" / "step_00000001")
    assert all_equal(weights_of(loaded.model), weights_of(training.model))
    for section in "model", "search":
        assert getattr(loaded.config, section) == getattr(training.config, section)
    assert loaded.config.data.directions() == [("en", "de")]
    assert load_config(loaded.path / "config.yaml", of_model=True) == training.config
    assert loaded.tokenizers.fingerprint == tokenizers.fingerprint
    assert loaded.longest_src_tokens == LONGEST
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("tie", "stored"),
    [
        ("all", {"src_embed.weight"}),
        ("target", {"src_embed.weight", "tgt_embed.weight"}),
        ("none", {"src_embed.weight", "tgt_embed.weight", "generator.weight"}),
    ],
)
def test_tied_weights_are_stored_once_and_stay_tied(
    tie: str, stored: set[str], tokenizers: Tokenizers, tmp_path: Path
) -> None:
    training = Training(tokenizers, build_config(tie_embeddings=tie))
    training.step()
    path = training.save(tmp_path)
    big = {"src_embed.weight", "tgt_embed.weight", "generator.weight"}
    assert load_file(path / "model.safetensors").keys() & big == stored
    model = load_model(path).model
    assert (model.src_embed.weight is model.tgt_embed.weight) == (tie == "all")
    assert (model.tgt_embed.weight is model.generator.weight) == (tie != "none")


def test_nothing_is_unpickled(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(AssertionError):
        torch.load(run)
    path = run_directory.newest_usable(run, refuse)
    assert path is not None
    restored = load_model(run)
    load_training(path, restored.model, adam(restored.model.parameters(), build_config().optim))
    average([run], tmp_path / "mean")
    load_model(tmp_path / "mean")


# Damage


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


# Which bit of the manifest is flipped decides what is named; that has a test of its own.
DAMAGES = [
    (name, damage)
    for name in CHECKPOINT_FILES
    for damage in (os.remove, cut_short, empty, flip_a_bit)
    if not (name == "manifest.json" and damage is flip_a_bit)
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damage_is_named_and_passed_over_on_resuming_only(name: str, damage: Damage, run: Path) -> None:
    newest, previous = run / "checkpoints" / "step_00000002", run / "checkpoints" / "step_00000001"
    damage(newest / name)
    for refusing in (newest, run):  # the run's `last` names it
        with pytest.raises(InputError, match=str(newest)) as refused:
            load_model(refusing)
        assert name in str(refused.value) and "\n" not in str(refused.value)
    warnings: list[str] = []
    assert run_directory.newest_usable(run, warnings.append) == previous
    assert len(warnings) == 1 and str(newest) in warnings[0] and name in warnings[0]
    load_model(previous)
    # It still counts as a checkpoint: the run is not taken for a new one, averaging refuses it instead of skipping it.
    assert [info.path for info in run_directory.list_checkpoints(run)] == [previous, newest]
    with pytest.raises(InputError, match=name):
        average([run], run / "mean")
    assert not (run / "mean").exists()


def test_no_checkpoint_is_intact(run: Path) -> None:
    for step in (1, 2):
        flip_a_bit(run / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
    warnings: list[str] = []
    assert run_directory.newest_usable(run, warnings.append) is None
    assert ["step_00000002" in warnings[0], "step_00000001" in warnings[1]] == [True, True]


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_any_flipped_byte_is_refused_in_one_line(name: str, run: Path) -> None:
    """Each byte of a small file, two hundred at random of a large one; each becomes another one at random."""
    path = run / "checkpoints" / "step_00000002"
    content, draw = (path / name).read_bytes(), random.Random(name)
    places = range(len(content)) if len(content) <= 2000 else [0, *draw.sample(range(len(content)), 200)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= draw.randint(1, 255)
        (path / name).write_bytes(damaged)
        with pytest.raises(InputError) as refused:
            verify(path)
        assert name in str(refused.value) and "\n" not in str(refused.value)
    (path / name).write_bytes(content)
    verify(path)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_any_cut_is_refused_in_one_line(name: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    content, draw = (path / name).read_bytes(), random.Random(name)
    for size in {0, 1, len(content) - 1, *draw.sample(range(len(content)), 50)}:
        (path / name).write_bytes(content[:size])
        with pytest.raises(InputError, match=name):
            verify(path)
    (path / name).write_bytes(content + b"\n")
    with pytest.raises(InputError, match=name):
        verify(path)


def test_the_writer_of_tensors_writes_what_the_library_does(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4), "a.weight": torch.randn(5).requires_grad_(), "step": torch.tensor(7.0)}
    tensors["not contiguous"] = torch.randn(4, 3).T
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert b"".join(model_directory._safetensors(tensors)) == (tmp_path / "theirs").read_bytes()


def test_the_directories_that_are_no_models(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"not a model \(no model\.safetensors\)"):
        load_model(tmp_path / "empty")
    with pytest.raises(InputError, match="no such model directory"):
        load_model(tmp_path / "absent")
    with pytest.raises(InputError, match="is a file; name a run, a checkpoint or another directory with a model"):
        load_model(run / "checkpoints" / "step_00000001" / "model.safetensors")
    (tmp_path / "fresh" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="no checkpoint yet"):
        load_model(tmp_path / "fresh")


def test_another_format_is_refused(run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(InputError, match="format 1, this version reads 2"):
        load_model(path)


def test_weights_of_another_vocabulary_or_model_are_refused(tokenizers: Tokenizers, tmp_path: Path) -> None:
    training = Training(tokenizers)
    size = tokenizers.src.vocab_size
    training.tokenizers = build_tokenizers(["one two three four five six"], vocab_size=30)
    other = training.tokenizers.src.vocab_size
    assert other != size
    with pytest.raises(InputError, match=rf"model\.safetensors: src_embed\.weight is \[{size}, 8\].*\[{other}, 8\]"):
        load_model(training.save_weights(tmp_path / "vocabulary"))

    training = Training(tokenizers)
    training.config = build_config(num_encoder_layers=2)
    with pytest.raises(InputError, match=r"model\.safetensors: lacks tensor encoder\.layers\.1"):
        load_model(training.save_weights(tmp_path / "lacking"))
    training = Training(tokenizers, build_config(num_encoder_layers=2))
    training.config = build_config()
    with pytest.raises(InputError, match=r"model\.safetensors: has an unexpected tensor encoder\.layers\.1"):
        load_model(training.save_weights(tmp_path / "unexpected"))


# Full disks and crashes


def no_space(*args: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_previous_is_untouched(run: Path, before: Path) -> None:
    """Nothing hidden, nothing half-written, and the pointer still names what it named."""
    for path in (run / "checkpoints").iterdir():
        assert path.name.startswith("step_")
        verify(path)
    assert (run / "last").read_text() == f"{before.name}\n"
    assert run_directory.newest_usable(run, pytest.fail) is not None
    load_model(before)


def test_a_full_disk_while_writing_tensors(run: Path, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch) -> None:
    previous = run / "checkpoints" / "step_00000002"
    training = Training(tokenizers)
    for _ in range(3):
        training.step()
    with monkeypatch.context() as patch:
        patch.setattr(model_directory, "_safetensors", no_space)
        with pytest.raises(RunError, match=r"step_00000003: cannot be written \(No space left on device\); free some"):
            training.save(run)
    assert names_in(run / "checkpoints") == ["step_00000001", "step_00000002"]
    assert_previous_is_untouched(run, previous)
    assert load_model(training.save(run)).path.name == "step_00000003"  # once there is space again


def test_a_full_disk_at_any_sync(
    run: Path, tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    fail_at = 0
    fsync = os.fsync

    def counting(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            no_space()
        fsync(descriptor)

    previous = run / "checkpoints" / "step_00000002"
    training = Training(tokenizers)
    for _ in range(3):
        training.step()
    monkeypatch.setattr(os, "fsync", counting)
    training.save(tmp_path / "other")
    # Each file, the directories before and after the rename, the pointer and the directory that it is in.
    assert calls == len(CHECKPOINT_FILES) + 4
    for fail_at in range(1, calls + 1):
        calls = 0
        with pytest.raises(RunError, match="No space left on device"):
            training.save(run)
        newest = run / "checkpoints" / "step_00000003"
        is_renamed, is_pointed_at = fail_at > len(CHECKPOINT_FILES) + 1, fail_at == len(CHECKPOINT_FILES) + 4
        assert newest.exists() == is_renamed
        assert_previous_is_untouched(run, newest if is_pointed_at else previous)
        shutil.rmtree(newest, ignore_errors=True)


def test_a_model_is_replaced_whole_or_not_at_all(
    tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Training(tokenizers, seed=1), Training(tokenizers, seed=2)
    target = old.save_weights(tmp_path / "model")
    assert names_in(target) == MODEL_FILES
    with monkeypatch.context() as patch:
        patch.setattr(model_directory, "_safetensors", no_space)
        with pytest.raises(RunError):
            new.save_weights(target)
    assert all_equal(weights_of(load_model(target).model), weights_of(old.model))
    new.save_weights(target)
    assert all_equal(weights_of(load_model(target).model), weights_of(new.model))
    assert names_in(tmp_path) == ["model"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many bytes; skips the test where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(num_bytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmt-test", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small file system can be mounted here: {getattr(error, 'stderr', error)}")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("room", [0.05, 0.3, 0.6, 0.9])
def test_a_disk_that_is_really_full(
    room: float, small_disk: Callable[[int], Path], tokenizers: Tokenizers, tmp_path: Path
) -> None:
    """There is space for one checkpoint and a part of the next."""
    training = Training(tokenizers, build_config(d_model=32, d_ff=64))
    training.step()
    page = os.sysconf("SC_PAGESIZE")
    files = [file.stat().st_size for file in training.save(tmp_path / "elsewhere").iterdir()]
    num_pages = sum(-(-size // page) for size in files)
    run = small_disk((int((1 + room) * num_pages) + 1) * page) / "run"
    first = training.save(run)
    training.step()
    with pytest.raises(RunError, match=r"step_00000002: cannot be written \(No space left on device\)"):
        training.save(run)
    assert names_in(run / "checkpoints") == ["step_00000001"]
    assert_previous_is_untouched(run, first)


def test_a_place_that_cannot_be_written(tokenizers: Tokenizers, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        Training(tokenizers).save_weights(tmp_path / "file" / "model")


def test_a_model_replaces_only_a_model_without_training_state(tokenizers: Tokenizers, run: Path) -> None:
    training, own = Training(tokenizers), run.parent / "model"
    for _ in range(2):
        training.save_weights(own)
    (own / "notes").touch()
    for target in (own, run, run / "checkpoints" / "step_00000002"):
        before = names_in(target)
        with pytest.raises(InputError, match="holds something else than an averaged model"):
            training.save_weights(target)
        assert names_in(target) == before


def test_what_a_crash_left_behind_is_passed_over_and_removed(run: Path) -> None:
    checkpoints = run / "checkpoints"
    for name in (".step_00000003.77.tmp", ".step_00000001.77.deleted", ".step_00000001.78.old"):
        shutil.copytree(checkpoints / "step_00000002", checkpoints / name)
    for name in ("last", "best", "metrics.jsonl", "config.yaml", "tokenizer.model", "vocab.json"):
        (run / f".{name}.77.tmp").touch()
    shutil.copytree(checkpoints / "step_00000002", checkpoints / "step_00000002.copy")
    assert [info.step for info in run_directory.list_checkpoints(run)] == [1, 2]
    os.rename(checkpoints / "step_00000002", checkpoints / ".step_00000002.79.old")  # put aside, to be replaced
    (run / ".notes.model.77.tmp").touch()
    remove_leftovers(run)
    assert names_in(checkpoints) == ["step_00000001", "step_00000002", "step_00000002.copy"]
    assert names_in(run) == [".notes.model.77.tmp", "checkpoints", "last"]


def test_nothing_is_written_into_the_run_of_another(run: Path, tokenizers: Tokenizers) -> None:
    """Its directory was replaced while the thread wrote; it looks before it renames, and at the end."""
    training = Training(tokenizers)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    saver = Saver(run, training.config, tokenizers, LONGEST, is_ours=lambda: False)
    training.step()
    training.save_with(saver)
    with pytest.raises(RunError, match=r"it or its \.lock was removed while training; step_00000001 is not saved"):
        saver.wait()
    saver.finish()
    saver.close()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# Writing while training goes on


class Gate:
    """Holds the writing thread before it renames a checkpoint, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        replace = directories.exchange

        def wait_and_replace(temporary: Path, target: Path) -> None:
            self.reached.set()
            assert self.opened.wait(60)
            replace(temporary, target)

        monkeypatch.setattr(saver_module, "exchange", wait_and_replace)


@pytest.fixture
def saver(run: Path, tokenizers: Tokenizers) -> Iterator[Saver]:
    saver = Saver(run, build_config(), tokenizers, LONGEST)
    yield saver
    saver.close()


def test_what_is_saved_is_what_was_there_when_saving_began(
    run: Path, saver: Saver, tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tokenizers)
    for _ in range(3):
        training.step()
    expected = training.save(tmp_path / "other")
    gate = Gate(monkeypatch)
    training.save_with(saver, is_best=True)
    assert gate.reached.wait(60)
    for _ in range(2):
        training.step()
    training.state.best_score = 1.0
    saver.check()  # does not wait
    assert steps_of(run) == [1, 2]
    assert (run / "last").read_text() == "step_00000002\n" and not (run / "best").exists()
    gate.opened.set()
    saver.wait()
    assert (run / "last").read_text() == (run / "best").read_text() == "step_00000003\n"
    for name in CHECKPOINT_FILES:
        assert (run / "checkpoints" / "step_00000003" / name).read_bytes() == (expected / name).read_bytes()


def test_the_next_checkpoint_waits_for_the_one_before(
    run: Path, saver: Saver, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    training = Training(tokenizers)
    for _ in range(8):
        training.step()
        training.save_with(saver)
        training.save(tmp_path / "other")
    saver.wait()
    assert steps_of(run) == list(range(1, 9))
    for info in run_directory.list_checkpoints(run):
        verify(info.path)
        weights = info.path / "model.safetensors"
        assert weights.read_bytes() == (tmp_path / "other" / "checkpoints" / info.path.name / weights.name).read_bytes()


@pytest.mark.parametrize("then", ["check", "wait", "save"])
def test_a_write_that_failed_is_told_by_the_next_call(
    then: str, run: Path, saver: Saver, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tokenizers)
    for _ in range(3):
        training.step()
    monkeypatch.setattr(model_directory, "_safetensors", no_space)
    training.save_with(saver)
    with pytest.raises(RunError, match=r"step_00000003: cannot be written \(No space left on device\); free some"):
        for _ in range(1000):  # the first call may come before the failure
            saver.check() if then == "check" else saver.wait() if then == "wait" else training.save_with(saver)
            time.sleep(0.01)
    saver.wait()  # it is told once
    assert_previous_is_untouched(run, run / "checkpoints" / "step_00000002")


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_the_writing_thread_steps_back_and_training_does_not(saver: Saver) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert saver._pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == min(own + 10, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_closing_completes_what_is_being_written(
    run: Path, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when training ends by an error of its own."""
    training, gate = Training(tokenizers), Gate(monkeypatch)
    for _ in range(3):
        training.step()
    saver = Saver(run, build_config(), tokenizers, LONGEST)
    training.save_with(saver)
    assert gate.reached.wait(60)
    threading.Timer(0.1, gate.opened.set).start()
    saver.close()
    assert run_directory.newest_usable(run, pytest.fail) == run / "checkpoints" / "step_00000003"


# Retention


def steps_of(run: Path) -> list[int]:
    return [info.step for info in run_directory.list_checkpoints(run)]


@pytest.fixture
def long_run(tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints of steps 1 to 6, of which 3 and 5 were made by a signal, and none deleted yet; `last` is 6."""
    training = Training(tokenizers)
    with monkeypatch.context() as patch:
        patch.setattr(saver_module, "retain", lambda run, keep: None)
        for step in range(1, 7):
            training.step()
            training.save(tmp_path / "run", by_signal=step in (3, 5))
    return tmp_path / "run"


def test_checkpoints_of_a_signal_do_not_count(long_run: Path, tmp_path: Path) -> None:
    assert [info.by_signal for info in run_directory.list_checkpoints(long_run)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    told: list[str] = []
    average([long_run], tmp_path / "mean", told.append, last=2)
    path = {step: str(run_directory.checkpoint_path(long_run, step)) for step in range(1, 7)}
    assert told == [
        f"left out: {path[1]} (older), {path[2]} (older), {path[3]} (made by a signal), {path[5]} (made by a signal)",
        f"averaging {path[4]}, {path[6]}",
    ]
    with pytest.raises(InputError, match="has 4 checkpoints to average, --last asks for 5"):
        average([long_run], tmp_path / "mean", last=5)


@pytest.mark.parametrize(
    ("keep", "last", "best", "kept"),
    [
        (2, 6, None, [4, 6]),
        (3, 6, None, [2, 4, 6]),
        (9, 6, None, [1, 2, 4, 6]),
        (1, 6, 1, [1, 6]),
        (2, 5, 3, [3, 4, 5, 6]),  # what a pointer names stays, even if a signal made it
        (1, 6, 6, [6]),
    ],
)
def test_the_newest_the_last_and_the_best_are_kept(
    keep: int, last: int, best: int | None, kept: list[int], long_run: Path
) -> None:
    run_directory.point(long_run, "last", run_directory.checkpoint_path(long_run, last))
    if best is not None:
        run_directory.point(long_run, "best", run_directory.checkpoint_path(long_run, best))
    run_directory.retain(long_run, keep)
    assert steps_of(long_run) == kept
    assert names_in(long_run / "checkpoints") == [f"step_{step:08d}" for step in kept]


def test_a_checkpoint_that_is_being_read_is_not_deleted(long_run: Path) -> None:
    """By another process, which says when it holds it and lets it go when its input ends."""
    program = (
        "import sys; from pathlib import Path; from transformer_mt.checkpoints.model_directory import held\n"
        "with held([Path(p) for p in sys.argv[1:]]): print('held', flush=True); sys.stdin.read()"
    )
    held = [run_directory.checkpoint_path(long_run, step) for step in (1, 2)]
    with piped(*held, launcher=(sys.executable, "-c", program)) as (reader, stdin, stdout):
        assert stdout.readline() == b"held\n"
        run_directory.retain(long_run, 1)
        assert steps_of(long_run) == [1, 2, 6]
        stdin.close()
        reader.end().ok()
    run_directory.retain(long_run, 1)
    assert steps_of(long_run) == [6]


def test_averaging_holds_all_its_checkpoints_while_it_reads_each(
    long_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_after_retention(path: Path) -> model_directory.LoadedModel:
        run_directory.retain(long_run, 1)
        return load_model(path)

    monkeypatch.setattr(averaging, "load_model", load_after_retention)
    average([long_run], tmp_path / "mean", last=3)
    assert steps_of(long_run) == [2, 4, 6]
    verify(tmp_path / "mean")


# Which model is meant


def test_the_model_of_a_run_is_its_best_and_without_one_its_last(run: Path, tmp_path: Path) -> None:
    first, second = (run_directory.checkpoint_path(run, step) for step in (1, 2))
    assert first == run / "checkpoints" / "step_00000001"
    assert run_directory.resolve_model(run) == second
    run_directory.point(run, "best", first)
    assert (run / "best").read_bytes() == b"step_00000001\n"
    assert run_directory.resolve_model(run) == first
    assert load_model(run).path == first
    assert names_in(run) == ["best", "checkpoints", "last"]
    assert run_directory.is_run(run) and not run_directory.is_run(second)
    assert run_directory.resolve_model(second) == second
    average([first, second], tmp_path / "mean")
    assert run_directory.resolve_model(tmp_path / "mean") == tmp_path / "mean"


def test_a_pointer_to_a_checkpoint_that_is_gone_is_named(run: Path) -> None:
    run_directory.point(run, "best", run / "checkpoints" / "step_00000009")
    with pytest.raises(InputError, match=r"step_00000009: not a model"):
        load_model(run)


# Averaging


def save_filled(tokenizers: Tokenizers, target: Path, value: float, longest: int) -> Path:
    training = Training(tokenizers)
    with torch.no_grad():
        for p in training.model.parameters():
            p.fill_(value)
    return training.save_weights(target, longest)


def test_the_average_is_the_mean_by_hand(tokenizers: Tokenizers, tmp_path: Path) -> None:
    """(2^25 + 1 - 2^25) / 3 = 1/3: a sum in float32 would lose the 1."""
    values = [2.0**25, 1.0, -(2.0**25)]
    paths = [save_filled(tokenizers, tmp_path / str(i), v, longest=9 - i) for i, v in enumerate(values)]
    average(paths, tmp_path / "mean")
    assert names_in(tmp_path / "mean") == MODEL_FILES
    mean = load_model(tmp_path / "mean")
    assert mean.longest_src_tokens == 9
    for p in mean.model.parameters():
        torch.testing.assert_close(p.detach(), torch.full_like(p, 1 / 3), rtol=1e-7, atol=0)
    with pytest.raises(InputError, match="averaged models cannot be resumed"):
        load_training(tmp_path / "mean", mean.model, adam(mean.model.parameters(), build_config().optim))


def test_the_average_of_a_run_element_by_element(run: Path, tmp_path: Path) -> None:
    paths = [run_directory.checkpoint_path(run, step) for step in (1, 2)]
    average([run], tmp_path / "mean")
    first, second = (load_file(path / "model.safetensors") for path in paths)
    assert not all_equal(first, second)
    found = load_file(tmp_path / "mean" / "model.safetensors")
    assert all_equal(found, {name: ((first[name].double() + second[name].double()) / 2).float() for name in first})


def test_other_tokenizers_are_refused(run: Path, tokenizers: Tokenizers, tmp_path: Path) -> None:
    """Even where the vocabulary has the same size: ids would mean other words."""
    same_size = build_tokenizers(["the cat sits on the mat", "some cats sit on some mats and hum"] * 3)
    assert same_size.src.vocab_size == tokenizers.src.vocab_size
    other = Training(same_size).save_weights(tmp_path / "other")
    with pytest.raises(InputError, match="have different tokenizers"):
        average([run / "checkpoints" / "step_00000001", other], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"num_encoder_layers": 2}, "model.num_encoder_layers"),
        ({"d_ff": 16}, "model.d_ff"),
        ({"num_heads": 4}, "model.num_heads"),  # every tensor has the same shape
        ({"activation": "gelu"}, "model.activation"),
    ],
)
def test_other_models_are_refused(
    model: dict[str, Any], key: str, turn: int, run: Path, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    other = Training(tokenizers, build_config(**model)).save_weights(tmp_path / "other")
    with pytest.raises(InputError, match=f"differ in {key}"):
        average([run / "checkpoints" / "step_00000001", other][::turn], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b"..", b"step_1\0", b"step_1" * 2, b"x" * 5000])
def test_a_pointer_that_names_no_checkpoint_is_refused(content: bytes, run: Path) -> None:
    (run / "best").write_bytes(content)
    with pytest.raises(InputError, match=r"best: damaged; write the name of one of .*checkpoints into it"):
        load_model(run)


def seal(directory: Path, **facts: Any) -> None:
    """Let the manifest say what the files are now, so that damage gets to those who read them."""
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        content = (directory / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_bytes(sealed(manifest | facts))


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"garbage, and no header"])
def test_what_is_no_safetensors_file_is_refused(content: bytes, run: Path, tokenizers: Tokenizers) -> None:
    path = run / "checkpoints" / "step_00000002"
    training = Training(tokenizers)
    for name in ("optimizer.safetensors", "model.safetensors"):
        (path / name).write_bytes(content)
        seal(path)
        with pytest.raises(InputError, match=f"{name}: damaged, or no safetensors file"):
            load_training(path, training.model, training.optimizer)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged, or no safetensors file"):
        load_model(path)


def test_tensors_of_another_kind_are_refused(run: Path, tokenizers: Tokenizers) -> None:
    path = run / "checkpoints" / "step_00000002"
    training = Training(tokenizers)
    moments = load_file(path / "optimizer.safetensors")
    name = next(name for name in moments if name.startswith("exp_avg."))
    save_file(moments | {name: moments[name][None].clone()}, path / "optimizer.safetensors")
    with pytest.raises(InputError, match=r"optimizer\.safetensors: .*another shape"):
        load_training(path, training.model, training.optimizer)
    weights = load_file(path / "model.safetensors")
    save_file({name: weight.to(torch.int64) for name, weight in weights.items()}, path / "model.safetensors")
    seal(path)
    with pytest.raises(InputError, match=r"is torch\.int64, not float32"):
        load_model(path)


@pytest.mark.parametrize(
    "facts",
    [{"files": []}, {"files": {"x": 1}}, {"files": {"a\0": {"bytes": 1, "sha256": ""}}}, {"longest_src_tokens": "9"}],
)
def test_a_manifest_of_another_form_is_refused(facts: dict[str, Any], run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    seal(path, **facts)
    with pytest.raises(InputError, match="use another checkpoint"):
        verify(path)


# What a stranger may have put into a directory: a test that fails here may hang, or end for want of memory.


def be_a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def be_endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def lead_elsewhere(path: Path) -> None:
    path.rename(path.parent.parent / f"real.{path.name}")
    path.symlink_to(path.parent.parent / f"real.{path.name}")


def be_a_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("change", [be_a_pipe, be_endless, lead_elsewhere, be_a_directory])
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_what_is_no_plain_file_is_refused(change: Damage, name: str, run: Path, tokenizers: Tokenizers) -> None:
    path = run / "checkpoints" / "step_00000002"
    change(path / name)
    with pytest.raises(InputError, match=rf"{name}: cannot be read"):
        load_model(path)
    with pytest.raises(InputError, match=r"step_00000002"):
        average([run], run / "mean")
    run_directory.point(run, "last", path)
    run_directory.retain(run, 2)
    assert run_directory.newest_usable(run, lambda line: None) == run / "checkpoints" / "step_00000001"


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.model", "state.json"])
def test_a_pipe_that_the_manifest_does_not_list_is_not_waited_for(name: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    be_a_pipe(path / name)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"], manifest["files"][name]
    (path / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(InputError, match=rf"{name}: cannot be read"):
        training_state.read_state(path) if name == "state.json" else load_model(path)


@pytest.mark.parametrize("change", [be_a_pipe, be_endless, be_a_directory])
def test_a_pointer_that_is_no_plain_file_is_refused(change: Damage, run: Path) -> None:
    change(run / "best")
    with pytest.raises(InputError, match="best: damaged"):
        load_model(run)


@pytest.mark.parametrize("name", ["/etc/passwd", "../last", "a/b", "..", "", "9" * 5000, "a\nb", "\x1b[2J", "é"])
def test_a_manifest_names_plain_names(name: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    manifest = json.loads((path / "manifest.json").read_text())
    seal(path)
    (path / "manifest.json").write_bytes(
        sealed({k: v for k, v in manifest.items() if k != "sha256"} | {"files": {**manifest["files"], name: {}}})
    )
    with pytest.raises(InputError, match=r"manifest\.json: damaged") as refused:
        load_model(path)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [
        ("model.safetensors", 1 << 43),
        ("optimizer.safetensors", 1 << 40),
        ("vocab.json", 1 << 33),
        ("config.yaml", 1 << 23),
    ],
)
def test_files_of_absurd_size_are_refused_unread(name: str, num_bytes: int, run: Path) -> None:
    """They have holes: the disk has no such space."""
    path = run / "checkpoints" / "step_00000002"
    os.truncate(path / name, num_bytes)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][name]["bytes"] = num_bytes
    (path / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(InputError, match=rf"{name}: {num_bytes:,} bytes, more than"):
        load_model(path)


@pytest.mark.parametrize(
    "facts",
    [{"longest_src_tokens": 10**4000}, {"longest_src_tokens": 1 << 31}, {"format": "9" * 5000}, {"format": [2]}],
)
def test_a_manifest_of_absurd_numbers_is_refused_in_a_short_line(facts: dict[str, Any], run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    seal(path, **facts)
    with pytest.raises(InputError, match=r"manifest\.json") as refused:
        verify(path)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 10**9},
        {"d_model": 10**30},
        {"d_ff": 10**13},
        {"num_heads": 10**6, "d_k": 10**12},
        {"num_encoder_layers": 10**9},
        {"num_decoder_layers": 10**30},
        {"positions": "learned", "max_positions": 10**12},
    ],
    ids=str,
)
def test_sizes_are_compared_before_there_is_memory_for_them(sizes: dict[str, Any], run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    lines = (path / "config.yaml").read_text().splitlines()
    for key, value in sizes.items():
        lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in lines]
    (path / "config.yaml").write_text("\n".join(lines) + "\n")
    seal(path)
    with pytest.raises(InputError, match=r"model\.safetensors|config\.yaml|model\.") as refused:
        load_model(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_a_model_that_memory_is_too_small_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_file(path: Path) -> NoReturn:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(model_directory, "load_file", load_file)
    with pytest.raises(InputError, match=r"step_00000002: the model does not fit into memory"):
        load_model(run)


@pytest.mark.parametrize("name", ["manifest.json", "vocab.json", "state.json"])
def test_json_nested_too_deeply_is_refused(name: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    (path / name).write_text("[" * 100_000)
    if name != "manifest.json":
        seal(path)
    with pytest.raises(InputError, match="damaged"):
        training_state.read_state(path) if name == "state.json" else load_model(path)


@pytest.mark.parametrize(
    "change", [{"step": "2"}, {"cursor": []}, {"cursor": {"epoch": None}}, {"unknown": 1}], ids=str
)
def test_a_state_of_another_form_is_refused(change: dict[str, Any], run: Path) -> None:
    path = run / "checkpoints" / "step_00000002"
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(
        InputError, match=rf"state\.json: damaged \({next(iter(change))}.*: .*\); use another checkpoint"
    ):
        training_state.read_state(path)


def test_repoint_mends_pointers_that_a_crash_left_behind(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        run_directory.checkpoint_path(tmp_path, step).mkdir(parents=True)
    run_directory.point(tmp_path, "last", run_directory.checkpoint_path(tmp_path, 200))
    run_directory.point(tmp_path, "best", run_directory.checkpoint_path(tmp_path, 100))
    latest = run_directory.checkpoint_path(tmp_path, 300)
    run_directory.repoint(tmp_path, latest, best_step=200, is_validated=True)
    assert (tmp_path / "last").read_text() == "step_00000300\n"
    assert (tmp_path / "best").read_text() == "step_00000200\n"
    run_directory.repoint(tmp_path, latest, best_step=200, is_validated=False)  # it was, before it was continued
    assert (tmp_path / "best").read_text() == "step_00000300\n"
    run_directory.repoint(tmp_path, latest, best_step=0, is_validated=False)
    assert (tmp_path / "best").read_text() == "step_00000300\n"
    (tmp_path / "best").unlink()  # killed between the two
    run_directory.repoint(tmp_path, latest, best_step=0, is_validated=True)
    assert not (tmp_path / "best").exists()
    run_directory.repoint(tmp_path, latest, best_step=0, is_validated=False)
    assert (tmp_path / "best").read_text() == "step_00000300\n"
