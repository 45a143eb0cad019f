"""What the exports of a model translate, and how fast, beside the model itself: the figures of docs/exchange.md.

    python scripts/compare_exports.py runs/my --src test.en --rounds 5

Each export is written anew into a temporary folder; one that cannot express the model is left out, with its refusal.
The model and CTranslate2's engine translate through `Translator.stream` with all cores; `transformers` and onnxruntime
get the lines sorted by length in batches of 64, with as many threads. All search with the model's beam, the power form
of the length penalty and `search.stop: beam_finished`; ONNX models greedily, since that is what transformers.js does,
beside the model's own greedy search. Systems take turns, round after round, after one that is not counted; the ratio is
that of a round, its median and range are told. A line differs when its text does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformer_mt.checkpoints.model_directory import LoadedModel, load_model
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError
from transformer_mt.exchange.card import marian_card
from transformer_mt.exchange.ctranslate2 import QUANTIZATIONS, export_ctranslate2
from transformer_mt.exchange.marian import export_marian
from transformer_mt.exchange.onnx import export_onnx
from transformer_mt.system.device import processor
from transformer_mt.system.lines import read_lines
from transformer_mt.system.processes import num_cores

BATCH_SIZE = 64

Translate = Callable[[Sequence[str]], list[str]]


def by_tmt(model: Path, **settings: Any) -> Translate:
    translator = Translator.load(model, settings=settings)
    return lambda lines: [translation.text for translation in translator.stream(lines)]


def by_transformers(directory: Path, beam_size: int, length_penalty: float) -> Translate:
    """As its users do: raw text in, `generate`."""
    from transformers import MarianMTModel, MarianTokenizer

    model, tokenizer = MarianMTModel.from_pretrained(directory), MarianTokenizer.from_pretrained(directory)
    options = dict(num_beams=beam_size, length_penalty=length_penalty, early_stopping=True)

    def translate(lines: Sequence[str]) -> list[str]:
        batch = tokenizer(list(lines), return_tensors="pt", padding=True)
        texts: list[str] = tokenizer.batch_decode(model.generate(**batch, **options), skip_special_tokens=True)
        return texts

    return translate


def by_onnxruntime(directory: Path, suffix: str = "", num_threads: int = 1) -> Translate:
    """Greedily, with onnxruntime and tokenizers only, as transformers.js does.

    Args:
        suffix: ``_quantized`` for the graphs with int8 matrices.
    """
    import onnxruntime
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0)
    settings = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    encoder, decoder = (
        onnxruntime.InferenceSession(
            str(directory / "onnx" / f"{name}{suffix}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for name in ("encoder_model", "decoder_model_merged")
    )
    eos = settings["eos_token_id"]

    def translate(lines: Sequence[str]) -> list[str]:
        encoded = tokenizer.encode_batch(list(lines))
        mask = np.array([one.attention_mask for one in encoded])
        (memory,) = encoder.run(None, {"input_ids": np.array([one.ids for one in encoded]), "attention_mask": mask})
        given = {"encoder_attention_mask": mask, "encoder_hidden_states": memory}
        for one in decoder.get_inputs():
            if one.name.startswith("past_key_values."):
                given[one.name] = np.zeros((len(lines), one.shape[1], 0, one.shape[3]), np.float32)
        ids = np.full((len(lines), 1), settings["decoder_start_token_id"])
        while not (ids == eos).any(axis=1).all() and ids.shape[1] <= settings["max_new_tokens"]:
            given |= {"input_ids": ids[:, -1:], "use_cache_branch": np.array([ids.shape[1] > 1])}
            logits, *present = decoder.run(None, given)
            given |= zip((one.name for one in decoder.get_inputs() if "past" in one.name), present, strict=True)
            logits[..., settings["suppress_tokens"]] = -np.inf
            ids = np.concatenate([ids, logits[:, -1:].argmax(-1)], axis=1)
        rows = [row[: row.index(eos)] if eos in row else row for row in ids.tolist()]
        texts: list[str] = tokenizer.decode_batch(rows)
        return texts

    return translate


def in_batches(translate: Translate) -> Translate:
    """Lines of about the same length together, in the order of the input again."""

    def all_of(lines: Sequence[str]) -> list[str]:
        order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
        texts = [""] * len(lines)
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            for i, text in zip(batch, translate([lines[i] for i in batch]), strict=True):
                texts[i] = text
        return texts

    return all_of


def systems(loaded: LoadedModel, folder: Path, threads: int) -> Iterator[tuple[str, str, Translate]]:
    """Yield the name of each, that of the one that it is compared with, and what it translates with."""
    search = loaded.config.search
    common = {"length_penalty_form": "power", "stop": "beam_finished"}
    for precision in ("float32", "int8"):
        yield f"tmt, {precision}", "tmt, float32", by_tmt(loaded.path, precision=precision, **common)
    for name in QUANTIZATIONS:
        export_ctranslate2(loaded, folder / name, name)
        yield f"ctranslate2, {name}, by tmt", "tmt, float32", by_tmt(folder / name)
    try:
        export_marian(loaded, marian_card(loaded.path, loaded), folder / "marian")
    except InputError as error:
        print(f"not compared: marian ({error})")
    else:
        marian = by_transformers(folder / "marian", search.beam_size, search.length_penalty)
        yield "marian, by transformers", "tmt, float32", in_batches(marian)
    export_onnx(loaded.model, loaded.tokenizers, folder / "onnx")
    yield "tmt, greedy, float32", "tmt, greedy, float32", by_tmt(loaded.path, beam_size=1, n_best=1, **common)
    for suffix, name in (("", "float32"), ("_quantized", "int8")):
        onnx = by_onnxruntime(folder / "onnx", suffix, threads)
        yield f"onnx, greedy, {name}, by onnxruntime", "tmt, greedy, float32", in_batches(onnx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--src", required=True, help="text to translate")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines, threads = list(read_lines(options.src)), num_cores()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        found = list(systems(load_model(options.model), Path(folder), threads))
        texts = {name: translate(lines) for name, _, translate in found}
        speeds: dict[str, list[float]] = {name: [] for name in texts}
        for _ in range(options.rounds):
            for name, _, translate in found:
                start = time.perf_counter()
                translate(lines)
                speeds[name].append(len(lines) / (time.perf_counter() - start))
    print(f"{len(lines):,} lines, {options.rounds} rounds, {threads} cores of {processor()}\n")
    print("| system | lines that differ | sentences/s: median (range) | ÷ tmt |\n| --- | --- | --- | --- |")
    for name, other, _ in found:
        differ = sum(one != two for one, two in zip(texts[name], texts[other], strict=True))
        ratios = [one / two for one, two in zip(speeds[name], speeds[other], strict=True)]
        print(f"| {name} | {differ} | {_spread(speeds[name], '.0f')} | {_spread(ratios, '.2f')} |")


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


if __name__ == "__main__":
    main()
