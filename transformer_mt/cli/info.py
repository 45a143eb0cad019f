"""``tmt info``: what a model is, how it was made and what it is worth, without loading it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

_Lines = Iterator[tuple[str, str]]  # a topic, or "" where it goes on, and a line of it


def info(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A run, a checkpoint, an averaged or an imported model, or an export."),
    ],
    json_output: Annotated[bool, typer.Option("--json", help="Print all that is known, as one JSON object.")] = False,
) -> None:
    """Tell a model's shape, parameters, languages, vocabulary, training and scores."""
    from transformer_mt.checkpoints.description import describe
    from transformer_mt.checkpoints.exports import describe_export, is_export

    is_exported = is_export(model)
    facts = describe_export(model) if is_exported else describe(model)
    if json_output:
        print(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    for topic, line in _export_lines(facts) if is_exported else _model_lines(facts):
        shown = "".join(one if one.isprintable() else "?" for one in line)  # a stranger's may hold anything
        print(f"{topic:<12}{shown}")


def _export_lines(facts: Mapping[str, Any]) -> _Lines:
    yield "export", f"{facts['path']}: {facts['format']}, by transformer_mt {facts['transformer_mt']}"
    if "model.bin" in facts["files"]:  # CTranslate2's
        yield "weights", f"{facts.get('quantization', 'not known')}, {_bytes(facts['files']['model.bin'])}"
        yield "vocabulary", ", ".join(f"{side} {count:,} pieces" for side, count in facts["vocabulary"].items())
    yield "files", f"{', '.join(facts['files'])}; {_bytes(sum(facts['files'].values()))} in all"
    yield "more", "tmt info of the model that it was made of"


def _model_lines(facts: Mapping[str, Any]) -> _Lines:
    yield facts["kind"].split()[-1], facts["path"]
    if run := facts.get("run"):
        best = run["best"] or "none"
        own, steps = Path(facts["model_directory"]).name, ", ".join(f"{step:,}" for step in run["checkpoints"])
        if facts["kind"] == "run":
            yield "", f"used as a model it is {own}, its {'best' if run['best'] else 'last'} checkpoint"
        yield "", f"has the checkpoints {steps} (best: {best}, last: {run['last']}), {_bytes(run['bytes'])} in all"
    elif facts["kind"] == "imported model":
        yield "", "made of another program's, by tmt import"
    elif facts["kind"] == "averaged model":
        yield "", "a mean of checkpoints, by tmt average; of which ones it does not say"
    weights, *others = facts["bytes"].values()
    yield "size", f"weights {_bytes(weights)}" + "".join(f", for continuing {_bytes(size)}" for size in others)
    yield from _shape_lines(facts["shape"])
    yield from _parameter_lines(facts["parameters"], facts["shape"]["tie_embeddings"])
    yield from _text_lines(facts)
    if "training" in facts:
        yield from _training_lines(facts["training"])
    yield from _score_lines(facts.get("scores"))


def _shape_lines(shape: Mapping[str, Any]) -> _Lines:
    layers = f"{shape['num_encoder_layers']} + {shape['num_decoder_layers']} layers, d_model {shape['d_model']}"
    if shape.get("kind") == "recurrent":
        yield "shape", f"recurrent, {layers}, attention: {shape['recurrent_attention']}"
        return
    yield (
        "shape",
        (
            f"Transformer, {layers}, d_ff {shape['d_ff']}, {shape['num_heads']} heads (d_k {shape['d_k']}, "
            f"d_v {shape['d_v']})"
        ),
    )
    yield "", f"{shape['norm']}-norm, {shape['activation']}, {shape['positions']} positions"


def _parameter_lines(parameters: Mapping[str, Any], tie: str) -> _Lines:
    shared = {"all": "source, target and output share one matrix", "target": "target and output share one matrix"}
    yield "parameters", f"{parameters['total']:,}; {shared.get(tie, 'no matrix is shared')}"
    for key in ("by_place", "by_use"):
        yield "", ", ".join(f"{name} {count:,}" for name, count in parameters[key].items())


def _text_lines(facts: Mapping[str, Any]) -> _Lines:
    languages, vocabulary = facts["languages"], facts["vocabulary"]
    yield "languages", ", ".join(f"{src} → {tgt}" for src, tgt in languages["directions"])
    if tags := [*languages["tags"], *languages["domains"]]:
        yield "", f"tags before a source: {' '.join(tags)}"
    sizes = f"{vocabulary['source']:,} pieces, shared"
    if not vocabulary["shared"]:
        sizes = f"{vocabulary['source']:,} source and {vocabulary['target']:,} target pieces"
    yield "vocabulary", f"{vocabulary['type']}, {sizes}"


def _training_lines(training: Mapping[str, Any]) -> _Lines:
    updates = f"up to {training['max_steps']:,} updates"
    if "step" in training:
        updates = f"{training['step']:,} of {training['max_steps']:,} updates, in epoch {training['epoch']}"
    yield "training", f"{updates}, each of at most {training['max_tokens']:,} target tokens; seed {training['seed']}"
    for source in training["sources"]:
        yield "", f"text: {source}"
    if training["init_from"] is not None:
        yield "", f"from {training['init_from']}"
    if environment := training.get("environment"):
        yield "", ", ".join(f"{key} {value}" for key, value in environment.items())


def _score_lines(scores: Mapping[str, Any] | None) -> _Lines:
    if scores is None or "values" not in scores:
        yield "scores", "none recorded" if scores is None else f"step {scores['step']:,} was not validated"
        return
    values = ", ".join(f"{name} {value:.{4 if name == 'loss' else 2}f}" for name, value in scores["values"].items())
    yield "scores", f"{values} ({scores['from']}, step {scores['step']:,})"
    for name, signature in scores.get("signatures", {}).items():
        yield "", f"{name}: {signature}"
    yield "", f"on {', '.join(scores['text'])}; beam {scores['beam_size']}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
