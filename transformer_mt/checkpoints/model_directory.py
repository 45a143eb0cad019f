"""Model directories and checkpoints: written aside, synced, checked by hash, renamed; retention.

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
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transformer_mt.checkpoints.manifest import (
    CONFIG,
    FORMAT,
    MANIFEST,
    MODEL,
    MOST_BYTES,
    OPTIMIZER,
    STATE,
    sealed,
    unreadable,
    verify,
)
from transformer_mt.config.loading import load_config, to_yaml
from transformer_mt.config.sections import Config
from transformer_mt.data.batching import Cursor
from transformer_mt.errors import InputError, RunError, is_out_of_memory
from transformer_mt.model.transformer import Transformer
from transformer_mt.system.directories import (
    exchange,
    listed_files,
    remove_directory,
    replaced_directory,
    scratch_directory,
    sync,
)
from transformer_mt.system.lines import open_plain, read_plain, replaced_file, write_error
from transformer_mt.text.tokenizer import Tokenizers

_MOST_TENSORS = 10_000  # far above what any model has


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


class Saver:
    """Saves the checkpoints of a run: copies everything at once, and writes it in a thread while training goes on.

    One is written at a time. When a write has failed (full disk), the next call raises its RunError. Whenever the
    process is killed, a checkpoint is there whole or not at all, and what the pointers name is whole.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        tokenizers: Tokenizers,
        longest_src_tokens: int,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        """Make the place for checkpoints.

        Args:
            is_ours: whether the directory still is the run's, see `only_process_in`.
        """
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._run, self._keep, self._longest_src_tokens = run, config.train.keep_checkpoints, longest_src_tokens
        self._files, self._is_ours = _small_files(config, tokenizers), is_ours
        self._copies: dict[str, dict[str, Tensor]] = {MODEL: {}, OPTIMIZER: {}}
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
        tensors = {MODEL: self._copy(MODEL, weights), OPTIMIZER: self._copy(OPTIMIZER, training)}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        files = self._files | {STATE: state.to_json().encode()}
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

    def finish(self) -> None:
        """Return when the last checkpoint is complete and none is kept that should not be: a kill of an earlier process
        may have come before that.

        Raises:
            RunError: as `wait`.
        """
        self.wait()
        if self._is_ours():
            retain(self._run, self._keep)

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

    def _check_place(self, path: Path) -> None:
        if not self._is_ours():  # whoever has put another run in its place must not find our files there
            raise RunError(f"{self._run}: it or its .lock was removed while training; {path.name} is not saved")

    def _write(
        self, path: Path, files: Mapping[str, bytes], tensors: Mapping[str, Mapping[str, Tensor]], is_best: bool
    ) -> None:
        try:
            metrics = self._run / "metrics.jsonl"
            if metrics.exists():
                sync(metrics)  # a resumed run does not write again what was logged before its checkpoint
            with scratch_directory(path) as temporary:
                _fill_directory(temporary, files, tensors, self._longest_src_tokens)
                sync(temporary)
                self._check_place(path)
                exchange(temporary, path)
            self._check_place(path)
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
        _fill_directory(directory, _small_files(config, tokenizers), {MODEL: weights}, longest_src_tokens)


def model_files(directory: Path) -> set[str] | None:
    """The files of a model directory that is ours and no checkpoint, by its manifest; else None."""
    keys = {"format", "longest_src_tokens", "files", "sha256"}
    return listed_files(directory, MANIFEST, lambda facts: facts.keys() == keys and STATE not in facts["files"])


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
    _write_file(directory / MANIFEST, [sealed(manifest)])


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


def resolve_model(path: Path) -> Path:
    """The model directory that MODEL names: a run's best checkpoint, or the directory itself."""
    if not os.path.isdir(path):
        raise InputError(f"{path}: no such model directory; name a run, a checkpoint or an averaged model")
    if not is_run(path):
        return path
    for pointer in ("best", "last"):
        if os.path.lexists(path / pointer):
            try:
                name = _pointed(path / pointer)
            except (OSError, ValueError):
                name = ""
            if not _CHECKPOINT_NAME.fullmatch(name):
                raise InputError(f"{path / pointer}: damaged; write the name of one of {path}/checkpoints into it")
            return path / "checkpoints" / name
    raise InputError(f"{path}: the run has no checkpoint yet; train it first (tmt train … --output {path})")


_CHECKPOINT_NAME = re.compile("step_[0-9]{1,18}")


def _pointed(pointer: Path) -> str:
    """The name in ``last`` or ``best``."""
    return read_plain(pointer, 1 << 10).decode("utf-8").strip()


def is_run(path: Path) -> bool:
    return os.path.isdir(path / "checkpoints")


def load_model(path: str | Path) -> LoadedModel:
    """Load MODEL on the CPU in float32, after checking every file.

    Raises:
        InputError: not a model, damaged, or its weights do not fit its configuration or its tokenizer.
    """
    directory = resolve_model(Path(path))
    with held([directory]):
        manifest = verify(directory)
        config = load_config(directory / CONFIG, of_model=True)
        tokenizers = Tokenizers.load(directory)
        try:
            model = _build_model(directory / MODEL, config, tokenizers)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"{directory}: the model does not fit into memory; end other programs, or use a machine with more"
            ) from None
    return LoadedModel(directory, model.eval(), config, tokenizers, manifest["longest_src_tokens"])


def _build_model(path: Path, config: Config, tokenizers: Tokenizers) -> Transformer:
    """The model whose weights a file has. Sizes are compared before there is memory for them."""
    sizes = config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size
    shapes = _shapes(path)
    num_layers = config.model.num_encoder_layers + config.model.num_decoder_layers
    if not num_layers < len(shapes) <= _MOST_TENSORS:
        raise InputError(
            f"{path}: has {len(shapes)} tensors, its config.yaml has {num_layers} layers; it describes another model"
        )
    try:
        with torch.device("meta"), _Unfilled():
            outline = Transformer(*sizes)
    except (RuntimeError, OverflowError, TypeError):
        raise InputError(
            f"{path.with_name(CONFIG)}: no tensor can have the sizes in model; use another model"
        ) from None
    _check_shapes({name: list(p.shape) for name, p in outline.named_parameters()}, shapes, path)
    model = Transformer(*sizes)
    copy_weights(model, _load_tensors(path), path)
    return model


class _Unfilled(TorchFunctionMode):
    """Inside, what would fill a tensor in place does nothing: without memory to fill, PyTorch imports its compiler for
    that, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.endswith("_") and not func.__name__.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def held(directories: Sequence[Path]) -> Iterator[None]:
    """Keep a training run from deleting checkpoints while they are read."""
    with contextlib.ExitStack() as files:
        for directory in directories:
            with contextlib.suppress(OSError):  # no manifest, which `verify` tells; or a file system without locks
                fcntl.flock(files.enter_context(open_plain(directory / MANIFEST)), fcntl.LOCK_SH)
        yield


def copy_weights(model: Transformer, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Fill a model's parameters; names and shapes must be exactly its own."""
    parameters = dict(model.named_parameters())
    _check_shapes(
        {name: list(parameter.shape) for name, parameter in parameters.items()},
        {name: list(tensor.shape) for name, tensor in tensors.items()},
        where,
    )
    for name in parameters:
        if tensors[name].dtype != torch.float32:
            raise InputError(f"{where}: {name} is {tensors[name].dtype}, not float32; use another checkpoint")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _check_shapes(wanted: Mapping[str, list[int]], found: Mapping[str, list[int]], where: Path) -> None:
    if problem := sorted(wanted.keys() ^ found.keys()):
        side = "lacks" if problem[0] in wanted else "has an unexpected"
        name = repr(problem[0])[1:-1]  # a stranger's may hold anything
        raise InputError(
            f"{where}: {side} tensor {name:.100} ({len(problem)} in all); its config.yaml describes another model"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise InputError(
                f"{where}: {name} is {found[name]}, the configuration and the vocabulary ask for "
                f"{shape}; model, config.yaml and tokenizer must come from the same run"
            )


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
    copy_weights(model, _load_tensors(directory / MODEL), directory / MODEL)
    try:
        with safe_open(directory / OPTIMIZER, framework="pt") as tensors, torch.no_grad():
            for name, parameter in model.named_parameters():
                if average is not None:
                    average[name].copy_(parameter)
                    parameter.copy_(tensors.get_tensor(f"weight.{name}"))
                moments = {key: tensors.get_tensor(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
                if any(moments[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
                    raise SafetensorError(f"the moments of {name} have another shape than it")
                optimizer.state[parameter] = {key: moment.to(parameter.device) for key, moment in moments.items()}
    except (OSError, SafetensorError) as error:
        raise _damaged_tensors(directory / OPTIMIZER, error) from None
    return state


def _shapes(path: Path) -> dict[str, list[int]]:
    """Of the tensors in a file, by its header."""
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise _damaged_tensors(path, error) from None


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged_tensors(path, error) from None


def _damaged_tensors(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path}: damaged, or no safetensors file ({reason:.200}); use another checkpoint")


def read_state(directory: Path) -> TrainState:
    try:
        return TrainState.from_json(read_plain(directory / STATE, MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: not a checkpoint (no {STATE}); averaged models cannot be resumed") from None
    except OSError as error:
        raise unreadable(directory / STATE, error) from None
    except ValueError as error:
        raise InputError(f"{directory / STATE}: damaged ({error}); use another checkpoint") from None


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


def repoint(run: Path, latest: Path, best_step: int, *, is_validated: bool) -> None:
    """Let ``last`` and ``best`` agree with the state that a run continues from: a crash may have come between."""
    point(run, "last", latest)
    best = checkpoint_path(run, best_step) if best_step else latest
    if best.exists() and (best_step or not is_validated or (run / "best").exists()):
        point(run, "best", best)


def retain(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, the one to resume from, the best, and those being read."""
    checkpoints = list_checkpoints(run)
    kept = {info.path.name for info in [info for info in checkpoints if not info.by_signal][-keep:]}
    kept.update(_pointed(run / p) for p in ("last", "best") if (run / p).exists())
    for info in checkpoints:
        if info.path.name not in kept:
            _remove_unless_held(info.path)


def _remove_unless_held(path: Path) -> None:
    with contextlib.ExitStack() as files:
        try:
            # Network file systems ask for a writable file before they lock it exclusively.
            fcntl.flock(files.enter_context(open(path / MANIFEST, "r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the next time
        except OSError:
            pass  # no manifest, or a file system without locks
        remove_directory(path)


def newest_usable(run: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are all intact; a damaged one is reported and passed over."""
    for info in reversed(list_checkpoints(run)):
        try:
            verify(info.path)
        except InputError as error:
            warn(f"warning: {error}")
            continue
        return info.path
    return None
