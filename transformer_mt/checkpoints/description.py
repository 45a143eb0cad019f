"""What is known of a model without loading it: from its manifest, its configuration, its tokenizer, the header of its
weights, its training state and the log of its run. PyTorch is not needed, nor are the weights read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from transformer_mt.checkpoints.manifest import CONFIG, MODEL, OPTIMIZER, STATE, verify
from transformer_mt.checkpoints.run_directory import (
    checked_name,
    is_run,
    list_checkpoints,
    resolve_model,
    run_of,
)
from transformer_mt.checkpoints.run_records import FILE_NAME, Record, read_records
from transformer_mt.checkpoints.tensor_shapes import tensor_shapes
from transformer_mt.checkpoints.training_state import read_state
from transformer_mt.config.loading import load_part
from transformer_mt.config.parts import DescribedConfig
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import is_language_tag

Facts = dict[str, Any]  # what JSON can hold


def describe(path: Path) -> Facts:
    """Return what a run, a checkpoint or an averaged model tells of itself, by topic.

    Raises:
        InputError: it is none of these, or a file of it is missing, cut short or damaged.
    """
    directory = resolve_model(path)
    manifest = verify(directory, only_sizes=True)
    config = load_part(directory / CONFIG, DescribedConfig)
    tokenizers = Tokenizers.load(directory, manifest.tags)
    shapes = tensor_shapes(directory / MODEL)
    is_checkpoint = STATE in manifest.files
    run = run_of(directory)
    facts: Facts = {
        "path": str(path),
        "kind": _kind(path, config, is_checkpoint=is_checkpoint),
        "model_directory": str(directory),
        "bytes": {name: manifest.files[name].bytes for name in (MODEL, OPTIMIZER) if name in manifest.files},
        "shape": config.model.model_dump(),
        "parameters": parameters(shapes),
        "languages": {
            "directions": [list(pair) for pair in config.data.directions()],
            "tags": [tag for tag in tokenizers.src.tags if is_language_tag(tag)],
            "domains": [tag for tag in tokenizers.src.tags if not is_language_tag(tag)],
        },
        "vocabulary": {
            "type": tokenizers.src.pieces()[0],
            "shared": tokenizers.is_shared,
            "source": tokenizers.src.vocab_size,
            "target": tokenizers.tgt.vocab_size,
        },
    }
    if config.train is not None:
        facts["training"] = training(directory if is_checkpoint else None, config, manifest.longest_src_tokens)
    if run is not None:
        facts["run"] = described_run(run)
    if is_checkpoint:
        facts["scores"] = scores(directory, run, config)
    return facts


def _kind(path: Path, config: DescribedConfig, *, is_checkpoint: bool) -> str:
    if is_run(path):
        return "run"
    return "checkpoint" if is_checkpoint else "averaged model" if config.train is not None else "imported model"


_PLACES = ("embeddings", "positions", "encoder", "decoder", "generator")
_USES = ("embeddings and output", "attention", "feed-forward", "norms", "recurrence")


def parameters(shapes: Mapping[str, list[int]]) -> Facts:
    """Return how many numbers a model's tensors have, by where they are and by what they do (shared ones once)."""
    by_place, by_use = dict.fromkeys(_PLACES, 0), dict.fromkeys(_USES, 0)
    for name, shape in shapes.items():
        by_place[_place(name)] += prod(shape)
        by_use[_use(name)] += prod(shape)
    found = {"by_place": by_place, "by_use": by_use}
    return {"total": sum(by_place.values())} | {
        key: {name: count for name, count in counts.items() if count} for key, counts in found.items()
    }


def _place(name: str) -> str:
    root = name.split(".")[0]
    if root in ("src_embed", "tgt_embed"):
        return "embeddings"
    if root in ("src_positions", "tgt_positions"):
        return "positions"
    return root if root in ("encoder", "generator") else "decoder"  # also what lies between a recurrent one's parts


def _use(name: str) -> str:
    if "attn" in name or name.startswith("attention."):
        return "attention"
    if ".ff." in name:
        return "feed-forward"
    if ".norm" in name:
        return "norms"
    if name.startswith(("src_embed", "tgt_embed", "generator", "src_positions", "tgt_positions")):
        return "embeddings and output"
    return "recurrence"


def training(checkpoint: Path | None, config: DescribedConfig, longest_src_tokens: int) -> Facts:
    """Return how a model was trained; of an averaged one only what its configuration says."""
    assert config.train is not None and config.batch is not None
    facts: Facts = {
        "sources": [str(source) for source in config.data.train],
        "licenses": [source.license for source in config.data.train],
        "max_steps": config.train.max_steps,
        "max_tokens": config.batch.max_tokens,  # target tokens of an update, at most
        "longest_src_tokens": longest_src_tokens,
        "init_from": config.train.init_from,
        "seed": config.train.seed,
    }
    if checkpoint is not None:
        state = read_state(checkpoint)
        facts |= {"step": state.step, "epoch": state.cursor.epoch + 1, "by_signal": state.by_signal}
        facts["environment"] = state.environment
    return facts


def described_run(run: Path) -> Facts:
    """Return what is in a run directory."""
    num_bytes = 0
    for at, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the run goes on, and has deleted it meanwhile
                num_bytes += os.lstat(os.path.join(at, name)).st_size
    return {
        "path": str(run),
        "checkpoints": [one.step for one in list_checkpoints(run)],
        **{name: checked_name(run, name) if os.path.lexists(run / name) else None for name in ("best", "last")},
        "bytes": num_bytes,
    }


def scores(checkpoint: Path, run: Path | None, config: DescribedConfig) -> Facts:
    """Return what validation has found of a checkpoint: in the log of its run or, without one, in its own state."""
    assert config.train is not None and config.eval is not None
    state = read_state(checkpoint)
    facts: Facts = {
        "step": state.step,
        "text": [str(source) for source in config.data.valid],
        "beam_size": config.eval.beam_size,
    }
    record: Record = {}
    if run is not None and (run / FILE_NAME).is_file():
        own = [one for one in read_records(run / FILE_NAME) if (one["kind"], one["step"]) == ("valid", state.step)]
        record = own[-1] if own else {}
    if record:
        facts["from"] = FILE_NAME
        numbers = ((key, value) for key, value in record.items() if isinstance(value, float))
        signatures = record.get("signatures")
        facts["values"], facts["signatures"] = dict(numbers), signatures if isinstance(signatures, dict) else {}
        facts["values"].pop("seconds", None)
    elif state.best_step == state.step:
        known = {"loss": state.best_loss, config.train.best_metric: state.best_score}
        facts["from"], facts["values"] = STATE, {name: value for name, value in known.items() if value is not None}
    return facts
