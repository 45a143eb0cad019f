"""What the exports of a model translate, and how fast, beside the model itself: the figures of docs/exchange.md.

    python scripts/compare_exports.py runs/my --src test.en --rounds 5

Each export is written anew into a temporary folder; one that cannot express the model is left out, with its refusal.
Argos Translate takes part with `--argos PYTHON`, the interpreter of an environment that has argostranslate 1.11: with
its own search, a line a call, as it is used. The model and CTranslate2's engine translate through `Translator.stream`
with all cores; `transformers` and onnxruntime get the lines sorted by length in batches of 64, with as many threads.
All but Argos search with the model's beam, the power form of the length penalty and `search.stop: beam_finished`; ONNX
models greedily, since that is what transformers.js does, beside the model's own greedy search. Systems take turns,
round after round, after one that is not counted; the ratio is that of a round, its median and range are told. A line
differs when its text does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
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
from transformer_mt.exchange.argos import export_argos
from transformer_mt.exchange.card import marian_card
from transformer_mt.exchange.ctranslate2 import QUANTIZATIONS, export_ctranslate2
from transformer_mt.exchange.marian import CLASSES, export_marian
from transformer_mt.exchange.onnx import export_onnx
from transformer_mt.system.device import processor
from transformer_mt.system.lines import read_lines
from transformer_mt.system.processes import num_cores

BATCH_SIZE = 64
# What all of them have.
POWER = {"length_penalty_form": "power", "stop": "beam_finished"}

Translate = Callable[[Sequence[str]], list[str]]


def by_tmt(model: Path, **settings: Any) -> Translate:
    translator = Translator.load(model, settings=settings)
    return lambda lines: [translation.text for translation in translator.stream(lines)]


def by_transformers(model_class: str, directory: Path, beam_size: int, length_penalty: float) -> Translate:
    """As its users do: raw text in, `generate`."""
    import transformers

    model = getattr(transformers, model_class).from_pretrained(directory)
    tokenizer = transformers.MarianTokenizer.from_pretrained(directory)
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


# For the environment of argostranslate: it installs the package, and answers a line, which is a list of texts, by one.
_ARGOS = """
import json, sys
import argostranslate.package, argostranslate.translate

package, source, target = sys.argv[1:]
argostranslate.package.install_from_path(package)
for line in sys.stdin:
    texts = [argostranslate.translate.translate(text, source, target) for text in json.loads(line)]
    print(json.dumps(texts), flush=True)
"""


@contextlib.contextmanager
def by_argos(python: Path, package: Path, languages: Sequence[str], threads: int) -> Iterator[Translate]:
    """Argos Translate in a process of its own, which has nothing installed but the package."""
    places = dict.fromkeys(("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(package.parent / "argos"))
    env = {**os.environ, **places, "ARGOS_COMPUTE_TYPE": "float32", "ARGOS_INTRA_THREADS": str(threads)}
    command = [str(python), "-c", _ARGOS, str(package), *languages]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        def translate(lines: Sequence[str]) -> list[str]:
            stdin.write(json.dumps(list(lines)) + "\n")
            stdin.flush()
            texts: list[str] = json.loads(stdout.readline())
            return texts

        try:
            yield translate
        finally:
            process.terminate()  # closing its stdin is not enough: the translators' processes have that open, too


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
    for precision in ("float32", "int8"):
        yield f"tmt, {precision}", "tmt, float32", by_tmt(loaded.path, precision=precision, **POWER)
    for name in QUANTIZATIONS:
        export_ctranslate2(loaded, folder / name, name)
        yield f"ctranslate2, {name}, by tmt", "tmt, float32", by_tmt(folder / name)
    family = "pegasus" if loaded.config.model.norm == "pre" else "marian"
    try:
        export_marian(loaded, marian_card(loaded.path, loaded, CLASSES[family]), folder / family, family)
    except InputError as error:
        print(f"not compared: {family} ({error})")
    else:
        marian = by_transformers(CLASSES[family], folder / family, search.beam_size, search.length_penalty)
        yield f"{family}, by transformers", "tmt, float32", in_batches(marian)
    export_onnx(loaded.model, loaded.tokenizers, folder / "onnx")
    yield "tmt, greedy, float32", "tmt, greedy, float32", by_tmt(loaded.path, beam_size=1, n_best=1, **POWER)
    for suffix, name in (("", "float32"), ("_quantized", "int8")):
        onnx = by_onnxruntime(folder / "onnx", suffix, threads)
        yield f"onnx, greedy, {name}, by onnxruntime", "tmt, greedy, float32", in_batches(onnx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--src", required=True, help="text to translate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--argos", type=Path, help="the Python of an environment with argostranslate")
    options = parser.parse_args()
    lines, threads = list(read_lines(options.src)), num_cores()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        loaded = load_model(options.model)
        found = list(systems(loaded, Path(folder), threads))
        if options.argos is not None:
            package, data = Path(folder) / "package.argosmodel", loaded.config.data
            export_argos(loaded, package, "float32")
            argos = by_argos(options.argos, package, (data.src_lang, data.tgt_lang), threads)
            its_search = {"beam_size": 4, "length_penalty": 0.2, "min_tokens": 1}
            ours = "tmt, search as Argos', float32"
            found.append((ours, ours, by_tmt(loaded.path, n_best=1, **its_search, **POWER)))
            found.append(("argos, float32, line by line", ours, running.enter_context(argos)))
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
