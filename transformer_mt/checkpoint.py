"""Model directories and checkpoints: written aside, synced, checked by hash, renamed; retention and averaging.

A model directory holds ``model.safetensors``, ``config.yaml``, the tokenizer's files and ``manifest.json`` (size and
SHA-256 of each, and its own). A checkpoint adds ``optimizer.safetensors`` and ``state.json``. A run directory names its
checkpoints in the one-line files ``last`` and ``best``, which are written after what they name. Nothing here is a
pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from transformer_mt.batching import Cursor
from transformer_mt.config import Config, Count, PositiveInt
from transformer_mt.config_file import load_config, to_yaml
from transformer_mt.directories import exchange, listed_files, replaced_directory, sync
from transformer_mt.errors import InputError
from transformer_mt.model import Transformer
from transformer_mt.textio import replaced_file, write_error
from transformer_mt.tokenizer import Tokenizers

FORMAT = 2
_MODEL, _OPTIMIZER, _STATE, _MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass
class Sums:
    """Over the updates since the last log record; the next one shows their means."""

    loss: float = 0.0
    nll: float = 0.0
    norm: float = 0.0
    labels: int = 0
    steps: int = 0


@dataclass
class TrainState:
    """All that training continues from, weights and optimizer moments apart."""

    step: int = 0
    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    best_score: float | None = None
    best_step: int = 0
    best_loss: float | None = None  # on the validation text, of the best step: of equal scores it decides
    evals_without_improvement: int = 0
    since_report: Sums = dataclasses.field(default_factory=Sums)
    corpus: str = ""  # fingerprints of what the run was trained on
    tokenizer: str = ""
    validation: str = ""  # fingerprint of its pairs
    training_files: dict[str, str] = dataclasses.field(default_factory=dict)  # SHA-256 by path
    by_signal: bool = False  # such a checkpoint counts neither for averaging nor for retention
    awaits_validation: bool = False  # that of this step has failed, which ended the run
    environment: dict[str, str | int] = dataclasses.field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises: ValueError."""
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


@dataclass(frozen=True)
class CheckpointInfo:
    """One complete checkpoint of a run."""

    path: Path
    step: int
    by_signal: bool


@dataclass
class LoadedModel:
    """A model directory in memory."""

    path: Path
    model: Transformer
    config: Config
    tokenizers: Tokenizers
    longest_src_tokens: int  # the longest source that training saw, with </s>


class _File(BaseModel, strict=True):
    bytes: Count
    sha256: str


class _Manifest(BaseModel, strict=True):
    """What ``manifest.json`` holds besides the format and its own hash."""

    longest_src_tokens: PositiveInt
    files: dict[str, _File]


class Saver:
    """Saves the checkpoints of a run: copies everything at once, and writes it in a thread while training goes on.

    One is written at a time. When a write has failed (full disk), the next call raises its RunError. Whenever the
    process is killed, a checkpoint is there whole or not at all, and what the pointers name is whole.
    """

    def __init__(self, run: Path, config: Config, tokenizers: Tokenizers, longest_src_tokens: int) -> None:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._run, self._keep, self._longest_src_tokens = run, config.train.keep_checkpoints, longest_src_tokens
        self._files = _small_files(config, tokenizers)
        self._copies: dict[str, dict[str, Tensor]] = {_MODEL: {}, _OPTIMIZER: {}}
        self._pool = ThreadPoolExecutor(max_workers=1, initializer=_step_back)
        self._pending: Future[None] | None = None

    def save(
        self, weights: Mapping[str, Tensor], training: Mapping[str, Tensor], state: TrainState, *, is_best: bool
    ) -> None:
        """Save the checkpoint of ``state.step``, once the one before is written.

        Args:
            weights: what is translated with, by parameter name.
            training: what else training continues from, see `training_tensors`.
            is_best: whether ``best`` shall name it, as ``last`` will.
        """
        self.wait()
        tensors = {_MODEL: self._copy(_MODEL, weights), _OPTIMIZER: self._copy(_OPTIMIZER, training)}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        files = self._files | {_STATE: state.to_json().encode()}
        self._pending = self._pool.submit(self._write, checkpoint_path(self._run, state.step), files, tensors, is_best)

    def check(self) -> None:
        """Raise the error of a write that has failed by now, without waiting for one that goes on."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is complete.

        Raises:
            RunError: it could not be written; the ones before are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Complete what is being written, whatever ends the run, and end the thread."""
        self._pool.shutdown()

    def _copy(self, name: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Into the same memory each time; from a GPU into pinned memory, one after the other without waiting."""
        copies = self._copies[name]
        for key, tensor in tensors.items():
            if key not in copies:
                copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copies[key].copy_(tensor.detach(), non_blocking=True)
        return copies

    def _write(
        self, path: Path, files: Mapping[str, bytes], tensors: Mapping[str, Mapping[str, Tensor]], is_best: bool
    ) -> None:
        try:
            metrics = self._run / "metrics.jsonl"
            if metrics.exists():
                sync(metrics)  # a resumed run does not write again what was logged before its checkpoint
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir()  # its parent is there: a run whose directory was removed must not make it again
                _fill_directory(temporary, files, tensors, self._longest_src_tokens)
                sync(temporary)
                exchange(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            point(self._run, "last", path)
            if is_best:
                point(self._run, "best", path)
            retain(self._run, self._keep)
        except OSError as error:
            raise write_error(path, error) from error


def _step_back() -> None:
    """Lower the priority of this thread (elsewhere than on Linux it would be the whole process's).

    The threads of a training step wait for each other: one that shares its core with the writing thread holds up all.
    """
    if sys.platform == "linux":
        os.nice(10)


def save_model(
    target: Path, weights: Mapping[str, Tensor], config: Config, tokenizers: Tokenizers, longest_src_tokens: int
) -> None:
    """Write a model directory, whole or not at all.

    Raises:
        InputError: something stands there that is not a model without training state.
        RunError: the place cannot be written or is full; whatever stood there or elsewhere is untouched.
    """
    with replaced_directory(target, model_files, "an averaged model") as directory:
        _fill_directory(directory, _small_files(config, tokenizers), {_MODEL: weights}, longest_src_tokens)


def model_files(directory: Path) -> set[str] | None:
    """The files of a model directory that is ours and no checkpoint, by its manifest; else None."""
    keys = {"format", "longest_src_tokens", "files", "sha256"}
    return listed_files(directory, _MANIFEST, lambda facts: facts.keys() == keys and _STATE not in facts["files"])


def _small_files(config: Config, tokenizers: Tokenizers) -> dict[str, bytes]:
    return {"config.yaml": to_yaml(config).encode(), **tokenizers.files()}


def _fill_directory(
    directory: Path,
    files: Mapping[str, bytes],
    tensors: Mapping[str, Mapping[str, Tensor]],
    longest_src_tokens: int,
) -> None:
    facts = {name: _write_file(directory / name, [content]) for name, content in files.items()}
    facts |= {name: _write_file(directory / name, _safetensors(content)) for name, content in tensors.items()}
    manifest = {"format": FORMAT, "longest_src_tokens": longest_src_tokens, "files": facts}
    _write_file(directory / _MANIFEST, [_sealed(manifest)])


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file: the header's length, the header, the tensors.

    The library's own writer holds the interpreter's lock (in its version 0.4 for all of the file), so that training
    would stand still while the thread of `Saver` writes; writes and hashes of large buffers here do not.
    """
    header, end = {}, 0
    for name, tensor in sorted(tensors.items()):
        assert tensor.dtype == torch.float32, name
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for _, tensor in sorted(tensors.items()):
        yield tensor.detach().cpu().flatten().numpy().data


def _write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, int | str]:
    """Write and sync a file; its size and hash, of what was meant to be written."""
    digest, num_bytes = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            num_bytes += memoryview(piece).nbytes
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": num_bytes, "sha256": digest.hexdigest()}


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, which end in the hash of the rest."""
    seal = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": seal}, indent=1).encode()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_directory(path: Path) -> None:
    """Take a directory out of sight in one step before deleting it, so that no half of it is ever found."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.deleted")
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def verify(directory: Path) -> dict[str, Any]:
    """Check every file of a model directory against its manifest, which is returned.

    Raises:
        InputError: no manifest, or a file that is missing, cut short or changed.
    """
    damaged = InputError(f"{directory / _MANIFEST}: damaged; use another checkpoint")
    try:
        content = (directory / _MANIFEST).read_bytes()
        manifest: dict[str, Any] = json.loads(content)
        version, _ = manifest["format"], manifest.pop("sha256", None)
    except OSError:
        lacking = _MANIFEST if (directory / _MODEL).exists() else _MODEL
        raise InputError(
            f"{directory}: not a model (no {lacking}); name a run, a checkpoint or an averaged model"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if version != FORMAT:
        raise InputError(
            f"{directory / _MANIFEST}: format {version}, this version reads {FORMAT}; use the version that wrote it"
        )
    if content != _sealed(manifest):
        raise damaged
    try:
        files = _Manifest.model_validate(manifest).files
    except ValidationError:
        raise damaged from None
    for name, facts in files.items():
        path, num_bytes = directory / name, facts.bytes
        try:
            size = path.stat().st_size
            sha256 = _sha256(path) if size == num_bytes else ""
        except FileNotFoundError:
            raise InputError(f"{path}: missing, the model is not complete; use another checkpoint") from None
        except (OSError, ValueError) as error:  # the latter: what is no path at all
            raise InputError(f"{path}: cannot be read ({error}); use another checkpoint") from None
        if size != num_bytes:
            raise InputError(
                f"{path}: cut short or changed ({size:,} bytes, expected {num_bytes:,}); use another checkpoint"
            )
        if sha256 != facts.sha256:
            raise InputError(
                f"{path}: damaged (its SHA-256 is not the one it was written with); use another checkpoint"
            )
    return manifest


def resolve_model(path: Path) -> Path:
    """The model directory that MODEL names: a run's best checkpoint, or the directory itself."""
    if not path.is_dir():
        raise InputError(f"{path}: no such model directory; name a run, a checkpoint or an averaged model")
    if not is_run(path):
        return path
    for pointer in ("best", "last"):
        if (path / pointer).exists():
            try:
                name = (path / pointer).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                name = ""
            if not name.removeprefix("step_").isdecimal():
                raise InputError(f"{path / pointer}: damaged; write the name of one of {path}/checkpoints into it")
            return path / "checkpoints" / name
    raise InputError(f"{path}: the run has no checkpoint yet; train it first (tmt train … --output {path})")


def is_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


def load_model(path: str | Path) -> LoadedModel:
    """Load MODEL on the CPU in float32, after checking every file.

    Raises:
        InputError: not a model, damaged, or its weights do not fit its configuration or its tokenizer.
    """
    directory = resolve_model(Path(path))
    with _held([directory]):
        manifest = verify(directory)
        config = load_config(directory / "config.yaml", of_model=True)
        tokenizers = Tokenizers.load(directory)
        model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        copy_weights(model, _load_tensors(directory / _MODEL), directory / _MODEL)
    return LoadedModel(directory, model.eval(), config, tokenizers, manifest["longest_src_tokens"])


@contextlib.contextmanager
def _held(directories: Sequence[Path]) -> Iterator[None]:
    """Keep a training run from deleting checkpoints while they are read."""
    with contextlib.ExitStack() as files:
        for directory in directories:
            with contextlib.suppress(OSError):  # no manifest, which `verify` tells; or a file system without locks
                fcntl.flock(files.enter_context(open(directory / _MANIFEST, "rb")), fcntl.LOCK_SH)
        yield


def copy_weights(model: Transformer, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Fill a model's parameters; names and shapes must be exactly its own."""
    parameters = dict(model.named_parameters())
    if problem := sorted(parameters.keys() ^ tensors.keys()):
        side = "lacks" if problem[0] in parameters else "has an unexpected"
        raise InputError(
            f"{where}: {side} tensor {problem[0]} ({len(problem)} in all); its config.yaml describes another model"
        )
    for name, parameter in parameters.items():
        if tensors[name].dtype != torch.float32:
            raise InputError(f"{where}: {name} is {tensors[name].dtype}, not float32; use another checkpoint")
        if parameter.shape != tensors[name].shape:
            raise InputError(
                f"{where}: {name} is {list(tensors[name].shape)}, the configuration and the vocabulary ask for "
                f"{list(parameter.shape)}; model, config.yaml and tokenizer must come from the same run"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def training_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, is_averaged: bool = False
) -> dict[str, Tensor]:
    """What training continues from besides the weights that are translated with: Adam's moments and step numbers, by
    parameter name, and the weights themselves where an average of them is translated with."""
    tensors = {
        f"{key}.{name}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    if is_averaged:
        tensors |= {f"weight.{name}": parameter for name, parameter in model.named_parameters()}
    return tensors


def load_training(
    directory: Path, model: Transformer, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor] | None = None
) -> TrainState:
    """Continue from a checkpoint that `verify` has passed: weights, moments and state.

    Args:
        average: to be filled as well, where the run averages its weights; ``model.safetensors`` holds the average then.
    """
    state = read_state(directory)
    copy_weights(model, _load_tensors(directory / _MODEL), directory / _MODEL)
    try:
        with safe_open(directory / _OPTIMIZER, framework="pt") as tensors, torch.no_grad():
            for name, parameter in model.named_parameters():
                if average is not None:
                    average[name].copy_(parameter)
                    parameter.copy_(tensors.get_tensor(f"weight.{name}"))
                moments = {key: tensors.get_tensor(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
                if any(moments[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
                    raise SafetensorError(f"the moments of {name} have another shape than it")
                optimizer.state[parameter] = {key: moment.to(parameter.device) for key, moment in moments.items()}
    except (OSError, SafetensorError) as error:
        raise _damaged_tensors(directory / _OPTIMIZER, error) from None
    return state


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged_tensors(path, error) from None


def _damaged_tensors(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged, or no safetensors file ({error}); use another checkpoint")


def read_state(directory: Path) -> TrainState:
    try:
        return TrainState.from_json((directory / _STATE).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{directory}: not a checkpoint (no {_STATE}); averaged models cannot be resumed") from None
    except ValueError as error:
        raise InputError(f"{directory / _STATE}: damaged ({error}); use another checkpoint") from None


def remove_leftovers(run: Path) -> None:
    """Delete what a crash left behind: half-written checkpoints, half-deleted ones and half-written files of the run,
    all under hidden names."""
    for path in (run / "checkpoints").glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("last", "best", "metrics.jsonl", "config.yaml", "*vocab.json", "*.model"):
        for path in run.glob(f".{name}.*.tmp"):
            if path.is_file():  # not the directory of a model that `tmt average` writes here
                path.unlink()


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def list_checkpoints(run: Path) -> list[CheckpointInfo]:
    """The checkpoints of a run, oldest first. Hidden names are unfinished writes and are passed over."""
    found = []
    for path in sorted((run / "checkpoints").glob("step_*")):
        number = path.name.removeprefix("step_")
        if not number.isdecimal():
            continue  # a copy that someone made
        try:
            by_signal = read_state(path).by_signal
        except InputError:
            by_signal = False  # damaged: it stays in the list, so that whoever uses it refuses it by name
        found.append(CheckpointInfo(path, int(number), by_signal))
    return found


def point(run: Path, pointer: str, checkpoint: Path) -> None:
    """Let ``last`` or ``best`` name a checkpoint."""
    with replaced_file(run / pointer) as file:
        file.write(f"{checkpoint.name}\n".encode())
    sync(run)  # before `retain` deletes what it named until now


def repoint(run: Path, latest: Path, best_step: int) -> None:
    """Let ``last`` and ``best`` agree with the state that a run continues from: a crash may have come between."""
    point(run, "last", latest)
    best = checkpoint_path(run, best_step) if best_step else latest
    if best.exists() and (best_step or (run / "best").exists()):
        point(run, "best", best)


def retain(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, the one to resume from, the best, and those being read."""
    checkpoints = list_checkpoints(run)
    kept = {info.path.name for info in [info for info in checkpoints if not info.by_signal][-keep:]}
    kept.update((run / p).read_text(encoding="utf-8").strip() for p in ("last", "best") if (run / p).exists())
    for info in checkpoints:
        if info.path.name not in kept:
            _remove_unless_held(info.path)


def _remove_unless_held(path: Path) -> None:
    with contextlib.ExitStack() as files:
        try:
            # Network file systems ask for a writable file before they lock it exclusively.
            fcntl.flock(files.enter_context(open(path / _MANIFEST, "r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the next time
        except OSError:
            pass  # no manifest, or a file system without locks
        _remove_directory(path)


def newest_usable(run: Path, warn: Any) -> Path | None:
    """The newest checkpoint whose files are all intact; a damaged one is reported and passed over."""
    for info in reversed(list_checkpoints(run)):
        try:
            verify(info.path)
        except InputError as error:
            warn(f"warning: {error}")
            continue
        return info.path
    return None


def average(paths: Sequence[Path], output: Path) -> None:
    """Write the model whose weights are the mean of several checkpoints' (paper, section 6.1), summed in float64.

    Raises:
        InputError: checkpoints of different shape or tokenizer, or damaged ones.
    """
    with _held([resolve_model(path) for path in paths]):
        models = [load_model(path) for path in paths]
    first = models[0]
    for loaded in models[1:]:
        if loaded.tokenizers.fingerprint != first.tokenizers.fingerprint:
            raise InputError(
                f"{loaded.path} and {first.path} have different tokenizers; average checkpoints of one run"
            )
        if loaded.config.model != first.config.model:
            keys = [key for key, value in first.config.model if getattr(loaded.config.model, key) != value]
            raise InputError(
                f"{loaded.path} and {first.path} differ in model.{', model.'.join(keys)}; average those of one run"
            )
    weights = [dict(loaded.model.named_parameters()) for loaded in models]
    mean = {name: torch.stack([w[name].detach().double() for w in weights]).mean(0).float() for name in weights[0]}
    save_model(output, mean, first.config, first.tokenizers, max(m.longest_src_tokens for m in models))


def last_checkpoints(run: Path, count: int | None = None) -> list[Path]:
    """The newest ``count`` checkpoints of a run that count for averaging; up to five where no number is given.

    Raises:
        InputError: the run has fewer than ``count``, or none.
    """
    found = [info.path for info in list_checkpoints(run) if not info.by_signal]
    count = max(1, min(5, len(found))) if count is None else count
    if len(found) < count:
        raise InputError(f"{run}: has {len(found)} checkpoints to average, --last asks for {count}; lower it")
    return found[-count:]
