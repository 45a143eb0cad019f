"""Model directories and checkpoints: written aside, synced, checked by hash, renamed; retention and averaging.

A model directory holds ``model.safetensors``, ``config.yaml``, the tokenizer's files and ``manifest.json`` (size and
SHA-256 of each). A checkpoint adds ``optimizer.safetensors`` and ``state.json``. A run directory names its checkpoints
in the one-line files ``last`` and ``best``. Nothing here is a pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from transformer_mt.batching import Cursor
from transformer_mt.config import Config, load_config, to_yaml
from transformer_mt.errors import InputError
from transformer_mt.model import Transformer
from transformer_mt.textio import replaced_file, write_error
from transformer_mt.tokenizer import Tokenizers

FORMAT = 1
_MODEL, _OPTIMIZER, _STATE, _MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass
class TrainState:
    """All that training continues from, weights and optimizer moments apart."""

    step: int = 0
    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    best_score: float | None = None
    best_step: int = 0
    evals_without_improvement: int = 0
    corpus: str = ""  # fingerprints of what the run was trained on
    tokenizer: str = ""
    by_signal: bool = False  # such a checkpoint counts neither for averaging nor for retention
    environment: dict[str, str | int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Self:
        tree = json.loads(text)
        tree["cursor"] = Cursor(**tree["cursor"])
        return cls(**tree)


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


def save_model(
    target: Path,
    weights: Mapping[str, Tensor],
    config: Config,
    tokenizers: Tokenizers,
    longest_src_tokens: int,
    training: tuple[torch.optim.Optimizer, Transformer, TrainState] | None = None,
) -> None:
    """Write a model directory, or with ``training`` a checkpoint, whole or not at all.

    Raises:
        RunError: the place cannot be written or is full; whatever stood elsewhere is untouched.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _save_tensors(temporary / _MODEL, weights)
        _save_bytes(temporary / "config.yaml", to_yaml(config).encode())
        for name, content in tokenizers.files().items():
            _save_bytes(temporary / name, content)
        if training is not None:
            optimizer, model, state = training
            _save_tensors(temporary / _OPTIMIZER, _optimizer_tensors(optimizer, model))
            _save_bytes(temporary / _STATE, json.dumps(dataclasses.asdict(state), indent=1).encode())
        facts = {"format": FORMAT, "longest_src_tokens": longest_src_tokens, "files": _hashes(temporary)}
        _save_bytes(temporary / _MANIFEST, json.dumps(facts, indent=1).encode())
        _sync_directory(temporary)
        _replace_directory(temporary, target)
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError):
            error = OSError(*_errno_of(error))
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _errno_of(error: SafetensorError) -> tuple[int, str]:
    """safetensors reports a failed write as text that ends in "(os error 28)"."""
    text = str(error)
    number = int(text.rpartition("os error ")[2].split(")")[0]) if "os error " in text else 5
    return number, os.strerror(number)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _save_bytes(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _hashes(directory: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(directory.iterdir())
        if path.name != _MANIFEST
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_directory(temporary: Path, target: Path) -> None:
    if target.exists():
        _remove_directory(target)
    os.rename(temporary, target)
    _sync_directory(target.parent)


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
    try:
        manifest: dict[str, Any] = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        version, _ = manifest["format"], manifest["longest_src_tokens"]
        files = {name: (facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()}
    except OSError:
        lacking = _MANIFEST if (directory / _MODEL).exists() else _MODEL
        raise InputError(
            f"{directory}: not a model (no {lacking}); name a run, a checkpoint or an averaged model"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{directory / _MANIFEST}: damaged; use another checkpoint") from None
    if version != FORMAT:
        raise InputError(f"{directory}: format {version}, this version reads {FORMAT}; use the version that wrote it")
    for name, (num_bytes, sha256) in files.items():
        path = directory / name
        if not path.exists():
            raise InputError(f"{path}: missing, the model is not complete; use another checkpoint")
        size = path.stat().st_size
        if size != num_bytes:
            raise InputError(
                f"{path}: cut short or changed ({size:,} bytes, expected {num_bytes:,}); use another checkpoint"
            )
        if _sha256(path) != sha256:
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
            return path / "checkpoints" / (path / pointer).read_text(encoding="utf-8").strip()
    raise InputError(f"{path}: the run has no checkpoint yet; train it first (tmt train … --output {path})")


def is_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


def load_model(path: str | Path) -> LoadedModel:
    """Load MODEL on the CPU in float32, after checking every file.

    Raises:
        InputError: not a model, damaged, or its weights do not fit its configuration or its tokenizer.
    """
    directory = resolve_model(Path(path))
    manifest = verify(directory)
    config = load_config(directory / "config.yaml")
    tokenizers = Tokenizers.load(directory)
    model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    copy_weights(model, load_file(directory / _MODEL), directory / _MODEL)
    return LoadedModel(directory, model.eval(), config, tokenizers, manifest["longest_src_tokens"])


def copy_weights(model: Transformer, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Fill a model's parameters; names and shapes must be exactly its own."""
    parameters = dict(model.named_parameters())
    if problem := sorted(parameters.keys() ^ tensors.keys()):
        side = "lacks" if problem[0] in parameters else "has an unexpected"
        raise InputError(
            f"{where}: {side} tensor {problem[0]} ({len(problem)} in all); its config.yaml describes another model"
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise InputError(
                f"{where}: {name} is {list(tensors[name].shape)}, the configuration and the vocabulary ask for "
                f"{list(parameter.shape)}; model, config.yaml and tokenizer must come from the same run"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }


def load_training(directory: Path, model: Transformer, optimizer: torch.optim.Optimizer) -> TrainState:
    """Continue from a checkpoint that `verify` has passed: weights, moments and state."""
    state = read_state(directory)
    copy_weights(model, load_file(directory / _MODEL), directory / _MODEL)
    with safe_open(directory / _OPTIMIZER, framework="pt") as tensors:
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                key: tensors.get_tensor(f"{key}.{name}").to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return state


def read_state(directory: Path) -> TrainState:
    try:
        return TrainState.from_json((directory / _STATE).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{directory}: not a checkpoint (no {_STATE}); averaged models cannot be resumed") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{directory / _STATE}: damaged ({error}); use another checkpoint") from None


def remove_leftovers(run: Path) -> None:
    """Delete what a crash left behind: half-written checkpoints and half-deleted ones, all under hidden names."""
    for path in (run / "checkpoints").glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)


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


def repoint(run: Path, latest: Path, best_step: int) -> None:
    """Let ``last`` and ``best`` agree with the state that a run continues from: a crash may have come between."""
    point(run, "last", latest)
    best = checkpoint_path(run, best_step) if best_step else latest
    if best.exists():
        point(run, "best", best)


def retain(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, the one to resume from and the best."""
    checkpoints = list_checkpoints(run)
    kept = {info.path.name for info in [info for info in checkpoints if not info.by_signal][-keep:]}
    kept.update((run / p).read_text(encoding="utf-8").strip() for p in ("last", "best") if (run / p).exists())
    for info in checkpoints:
        if info.path.name not in kept:
            _remove_directory(info.path)


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
