"""Model directories and checkpoints: written aside, synced, checked by hash, renamed.

A model directory holds ``model.safetensors``, ``config.yaml``, the tokenizer's files and ``manifest.json`` (size and
SHA-256 of each, its own, and the vocabulary's tags). A checkpoint adds ``optimizer.safetensors`` and ``state.json``. A
run directory names its checkpoints in the one-line files ``last`` and ``best``, which are written after what they name.
Nothing here is a pickle.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from transformer_mt.checkpoints.manifest import CONFIG, FORMAT, MANIFEST, MODEL, STATE, sealed, verify
from transformer_mt.checkpoints.run_directory import resolve_model
from transformer_mt.checkpoints.tensor_shapes import damaged_tensors, tensor_shapes
from transformer_mt.config.loading import load_part, to_yaml
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import Config, ModelConfig
from transformer_mt.errors import InputError, is_out_of_memory
from transformer_mt.model.kinds import new_model
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.directories import listed_files, replaced_directory
from transformer_mt.system.whole_files import open_plain
from transformer_mt.text.tokenizer import Tokenizers

_MOST_TENSORS = 10_000  # far above what any model has


@dataclass
class LoadedModel:
    """A model directory in memory."""

    path: Path
    model: EncoderDecoder
    config: DecodingConfig
    tokenizers: Tokenizers
    longest_src_tokens: int  # the longest source that training saw, with </s>


def save_model(
    target: Path, weights: Mapping[str, Tensor], config: Config, tokenizers: Tokenizers, longest_src_tokens: int
) -> None:
    """Write a model directory, whole or not at all.

    Raises:
        InputError: something stands there that is not a model without training state.
        RunError: the place cannot be written or is full; whatever stood there or elsewhere is untouched.
    """
    with replaced_directory(target, model_files, "an averaged model") as directory:
        files = small_files(config, tokenizers)
        fill_directory(directory, files, {MODEL: weights}, longest_src_tokens, tokenizers.src.tags)


def model_files(directory: Path) -> set[str] | None:
    """The files of a model directory that is ours and no checkpoint, by its manifest; else None."""
    keys = {"format", "longest_src_tokens", "files", "sha256"}
    return listed_files(
        directory, MANIFEST, lambda facts: facts.keys() - {"tags"} == keys and STATE not in facts["files"]
    )


def small_files(config: Config, tokenizers: Tokenizers) -> dict[str, bytes]:
    return {"config.yaml": to_yaml(config).encode(), **tokenizers.files()}


def fill_directory(
    directory: Path,
    files: Mapping[str, bytes],
    tensors: Mapping[str, Mapping[str, Tensor]],
    longest_src_tokens: int,
    tags: Sequence[str],
) -> None:
    facts = {name: _write_file(directory / name, [content]) for name, content in files.items()}
    facts |= {name: _write_file(directory / name, _safetensors(content)) for name, content in tensors.items()}
    manifest = {"format": FORMAT, "longest_src_tokens": longest_src_tokens, "tags": tags, "files": facts}
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


def load_model(path: str | Path) -> LoadedModel:
    """Load MODEL on the CPU in float32, after checking every file.

    Raises:
        InputError: not a model, damaged, or its weights do not fit its configuration or its tokenizer.
    """
    directory = resolve_model(Path(path))
    with held([directory]):
        manifest = verify(directory)
        config = load_part(directory / CONFIG, DecodingConfig)
        tokenizers = Tokenizers.load(directory, manifest.tags)
        try:
            model = _build_model(directory / MODEL, config.model, tokenizers)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"{directory}: the model does not fit into memory; end other programs, or use a machine with more"
            ) from None
    return LoadedModel(directory, model.eval(), config, tokenizers, manifest.longest_src_tokens)


def _build_model(path: Path, config: ModelConfig, tokenizers: Tokenizers) -> EncoderDecoder:
    """The model whose weights a file has. Sizes are compared before there is memory for them."""
    sizes = config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size
    shapes = tensor_shapes(path)
    num_layers = config.num_encoder_layers + config.num_decoder_layers
    if not num_layers < len(shapes) <= _MOST_TENSORS:
        raise InputError(
            f"{path}: has {len(shapes)} tensors, its config.yaml has {num_layers} layers; it describes another model"
        )
    try:
        with torch.device("meta"), _Unfilled():
            outline = new_model(*sizes)
    except (RuntimeError, OverflowError, TypeError):
        raise InputError(
            f"{path.with_name(CONFIG)}: no tensor can have the sizes in model; use another model"
        ) from None
    _check_shapes({name: list(p.shape) for name, p in outline.named_parameters()}, shapes, path)
    model = new_model(*sizes)
    copy_weights(model, load_tensors(path), path)
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


def copy_weights(model: EncoderDecoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill a model's parameters; names and shapes must be exactly its own."""
    parameters = dict(model.named_parameters())
    _check_shapes(
        {name: list(parameter.shape) for name, parameter in parameters.items()},
        {name: list(tensor.shape) for name, tensor in tensors.items()},
        path,
    )
    for name in parameters:
        if tensors[name].dtype != torch.float32:
            raise InputError(f"{path}: {name} is {tensors[name].dtype}, not float32; use another checkpoint")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _check_shapes(wanted: Mapping[str, list[int]], found: Mapping[str, list[int]], path: Path) -> None:
    if problem := sorted(wanted.keys() ^ found.keys()):
        side = "lacks" if problem[0] in wanted else "has an unexpected"
        name = repr(problem[0])[1:-1]  # a stranger's may hold anything
        raise InputError(
            f"{path}: {side} tensor {name:.100} ({len(problem)} in all); its config.yaml describes another model"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise InputError(
                f"{path}: {name} is {found[name]}, the configuration and the vocabulary ask for "
                f"{shape}; model, config.yaml and tokenizer must come from the same run"
            )


def load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged_tensors(path, error) from None
