"""Decoding speed on a CPU, ours beside CTranslate2 and Hugging Face's Marian, with the same weights in one run.

    python scripts/bench_decode.py --model runs/multi30k/averaged     # a trained model, its own lengths
    python scripts/bench_decode.py --preset tiny base --forced 14     # random weights, a fixed length

A trained model translates --src (default: Multi30k's test set in $TMT_DATA, or in data/; lines without pieces are left
out) until its stop rule says so. Random weights (seed 1; 10,000 pieces, of `student` 32,000) translate sentences of N
ids into N, each with its </s>: the test set's, cut or repeated to that length (without the data: the built-in
grammar's). That is N decoding steps for everybody: we spend the last on </s>, the others, that could not end before, on
another id.

- **batch**: all sentences at once, each system as it is fastest on the cores (--threads): tmt with that many
  `search.workers`, CTranslate2 with inter_threads, Hugging Face with threads of torch and batches sorted by length. The
  first round tries several batch sizes, each once after a pass that is not counted, and names the best; that is
  measured, after such a pass, for --seconds and at least three times: the median.
- **latency**: the first 200 sentences one by one, after a pass over them that is not counted: median and 95th
  percentile.

Ids go in and ids come out (CTranslate2: pieces); segmentation, loading and exporting are in none of the times. Target
tokens count </s>. Every configuration is a process of its own; they run in turn, round after round. Ratios are of
speeds (sentences/s; 1 / median latency), taken within a round: above 1 is faster than the best CTranslate2. Tables have
the median and the range of the rounds.

Search is the same: beam or greedy, score / |Y|^alpha with </s> in |Y|, done when as many hypotheses as the beam has
rows have ended (`stop: beam_finished`; CTranslate2's patience 1; Hugging Face's early_stopping=True), no <pad>, <unk>
or <s>, no least length. What is left: CTranslate2 takes those three ids out before its softmax, the others after it; a
source of n ids gets at most n + 50 from us, in Hugging Face and CTranslate2 as many as the longest of its batch or
call. bfloat16 of Hugging Face is model.to(bfloat16). Its process has the allocator tuned as in scripts/bench_peers.py;
tmt tunes its own from inside; to CTranslate2, as installed, it makes no difference.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from transformer_mt.checkpoints.model_directory import load_model, save_model
from transformer_mt.checkpoints.run_directory import resolve_model
from transformer_mt.config.loading import validate
from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError, TmtError
from transformer_mt.evaluation.scores import evaluate
from transformer_mt.exchange.ctranslate2 import export_ctranslate2
from transformer_mt.model.transformer import EncoderDecoder, Transformer, sinusoids
from transformer_mt.system.device import processor
from transformer_mt.system.lines import read_lines
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID
from transformer_mt.toy_corpus import grammar

Ids = list[list[int]]

PRECISIONS = {"tmt": ("float32", "bfloat16", "int8"), "ct2": ("float32", "int8"), "hf": ("float32", "bfloat16")}
# tmt: padded source positions × hypotheses; the others: sentences.
BATCH_SIZES = {"tmt": (2048, 4096, 8192, 16384), "ct2": (16, 32, 64, 128), "hf": (16, 32, 64, 128)}
MAX_EXTRA_TOKENS = 50
NUM_LATENCIES = 200
# With random weights.
SENTENCES = {"tiny": 1000, "student": 512, "base": 256}
VOCAB_SIZES = {"tiny": 10_000, "student": 32_000, "base": 10_000}
# Whatever of these is set outside would change what is measured.
SETTINGS = ("OMP_", "KMP_", "MKL_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "CT2_")
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}  # scripts/bench_peers.py


class Case(NamedTuple):
    """What one process measures of a workload."""

    system: str
    precision: str
    mode: str
    threads: int
    beam: int


class Workload(NamedTuple):
    name: str
    model: str  # a model directory
    exports: str  # a directory with those of CTranslate2, by precision
    forced: int | None  # ids of every translation, </s> included; None: the stop rule's
    alpha: float  # length penalty
    sources: Ids  # with </s>
    references: list[str] | None

    def limit(self, sources: Ids) -> int:
        """Ids of a translation at most."""
        return self.forced or max(map(len, sources)) + MAX_EXTRA_TOKENS


# The systems.


class System:
    """Translates by `translate`, which is what is measured; `prepare` and `ids` give it and make of it plain ids."""

    def __init__(self, workload: Workload, case: Case, batch_size: int | None) -> None:
        raise NotImplementedError

    def prepare(self, sources: Ids) -> Any:
        return sources

    def translate(self, prepared: Any) -> Any:
        raise NotImplementedError

    def ids(self, found: Any) -> Ids:
        ids: Ids = found
        return ids


class Tmt(System):
    def __init__(self, workload: Workload, case: Case, batch_size: int | None) -> None:
        from transformer_mt.decoding.translator import Translator

        torch.set_num_threads(case.threads)
        settings = {
            "beam_size": case.beam,
            "length_penalty": workload.alpha,
            "length_penalty_form": "power",
            "stop": "beam_finished",
            "n_best": 1,
            "sampling": False,
            "min_tokens": workload.forced - 1 if workload.forced else 0,
            "max_extra_tokens": 0 if workload.forced else MAX_EXTRA_TOKENS,
            "no_repeat_ngram": 0,
            "precision": case.precision,
            "workers": case.threads if case.mode == "batch" else 1,
            "batch_tokens": batch_size or 8192,
        }
        self._translator = Translator.load(workload.model, settings=settings)

    def translate(self, sources: Ids) -> Any:
        return self._translator.translate_ids(sources)

    def ids(self, found: Any) -> Ids:
        return [hypotheses[0].ids for hypotheses in found]


class CTranslate2(System):
    def __init__(self, workload: Workload, case: Case, batch_size: int | None) -> None:
        import ctranslate2

        inter, intra = (case.threads, 1) if case.mode == "batch" else (1, case.threads)
        self._translator = ctranslate2.Translator(
            f"{workload.exports}/{case.precision}",
            device="cpu",
            compute_type=case.precision,
            inter_threads=inter,
            intra_threads=intra,
        )
        tokenizers = load_model(workload.model).tokenizers
        self._pieces = {i: piece for piece, i in tokenizers.src.table.items()}
        self._table = tokenizers.tgt.table
        self._workload = workload
        self._options: dict[str, Any] = dict(
            max_batch_size=batch_size or 0,
            batch_type="examples",
            beam_size=case.beam,
            patience=1,
            length_penalty=workload.alpha,
            min_decoding_length=workload.forced or 0,  # without </s>
            max_input_length=0,
            disable_unk=True,
            suppress_sequences=[[SPECIALS[PAD_ID]], [SPECIALS[BOS_ID]]],
        )

    def prepare(self, sources: Ids) -> tuple[list[list[str]], int]:
        return [[self._pieces[i] for i in ids[:-1]] for ids in sources], self._workload.limit(sources)

    def translate(self, prepared: tuple[list[list[str]], int]) -> Any:
        pieces, limit = prepared
        return self._translator.translate_batch(pieces, max_decoding_length=limit, **self._options)

    def ids(self, found: Any) -> Ids:
        return [[self._table[piece] for piece in result.hypotheses[0]] for result in found]


class HuggingFace(System):
    def __init__(self, workload: Workload, case: Case, batch_size: int | None) -> None:
        import transformers

        torch.set_num_threads(case.threads)
        transformers.logging.set_verbosity_error()
        longest = workload.limit(workload.sources)
        self._model = marian_of(load_model(workload.model).model, longest + 1).to(getattr(torch, case.precision))
        self._workload, self._batch_size = workload, batch_size or 1
        self._options: dict[str, Any] = dict(
            num_beams=case.beam,
            do_sample=False,
            use_cache=True,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=BOS_ID,
            suppress_tokens=[PAD_ID, UNK_ID, BOS_ID],
        )
        if case.beam > 1:
            self._options |= dict(early_stopping=True, length_penalty=workload.alpha)
        if workload.forced:
            self._options["min_new_tokens"] = workload.forced  # without </s>

    @torch.inference_mode()
    def translate(self, sources: Ids) -> Ids:
        from transformers import GenerationConfig

        found: Ids = [[]] * len(sources)
        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            batch = [sources[i] for i in rows]
            src = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in batch], True, PAD_ID)
            config = GenerationConfig(max_new_tokens=self._workload.limit(batch), **self._options)
            out = self._model.generate(input_ids=src, attention_mask=(src != PAD_ID).long(), generation_config=config)
            for i, ids in zip(rows, out[:, 1:].tolist(), strict=True):
                found[i] = list(itertools.takewhile(lambda i: i not in (EOS_ID, PAD_ID), ids))
        return found


def marian_of(model: EncoderDecoder, num_positions: int) -> Any:
    """Hugging Face's Marian with our weights; its biases in attention, which ours may not have, are zero."""
    import transformers

    config = model.config
    required: dict[str, Any] = dict(norm="post", activation="relu", positions="sinusoidal", tie_embeddings="all")
    required |= dict(d_k=config.d_model // config.num_heads, d_v=config.d_model // config.num_heads)
    for key, value in required.items():
        if getattr(config, key) != value:
            raise InputError(
                f"hf: Marian has model.{key} {value}, not {getattr(config, key)}; leave hf out (--systems)"
            )
    assert isinstance(model, Transformer)  # no other kind has d_k
    marian = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=model.src_embed.num_embeddings,
            d_model=config.d_model,
            encoder_layers=config.num_encoder_layers,
            decoder_layers=config.num_decoder_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=num_positions,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            forced_eos_token_id=None,
            decoder_start_token_id=BOS_ID,
        )
    ).eval()
    names = {"cross_attn": "encoder_attn", "norm1": "self_attn_layer_norm", "ff.up": "fc1", "ff.down": "fc2"}
    state = {name: torch.zeros_like(x) for name, x in marian.state_dict().items() if name.endswith("bias")}
    state |= {"model.shared.weight": model.src_embed.weight, "lm_head.weight": model.src_embed.weight}
    for side, stack, norm2 in (
        ("encoder", model.encoder, "final_layer_norm"),
        ("decoder", model.decoder, "encoder_attn_layer_norm"),
    ):
        for name, parameter in stack.layers.named_parameters():
            for ours, theirs in {**names, "norm2": norm2, "norm3": "final_layer_norm"}.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            state[f"model.{side}.layers.{name}"] = parameter
        state[f"model.{side}.embed_tokens.weight"] = model.src_embed.weight
        state[f"model.{side}.embed_positions.weight"] = sinusoids(num_positions, config.d_model).float()
    marian.load_state_dict(state)
    return marian


SYSTEMS: dict[str, type[System]] = {"tmt": Tmt, "ct2": CTranslate2, "hf": HuggingFace}
LABELS = {"tmt": ("tmt", "transformer-mt"), "ct2": ("CTranslate2", "ctranslate2"), "hf": ("HF Marian", "transformers")}


# One measurement, in a process of its own.


def measure(path: str, case: Case, batch_sizes: Sequence[int], seconds: float) -> dict[str, Any]:
    workload = Workload(**json.loads(Path(path).read_text(encoding="utf-8")))
    if case.mode == "latency":
        return measure_latency(SYSTEMS[case.system](workload, case, None), workload.sources[:NUM_LATENCIES])
    tried = {}
    if len(batch_sizes) > 1:
        for size in batch_sizes:
            *_, tried[size], _ = measure_batch(workload, case, size, 0, 1)
    best = min(tried, key=tried.__getitem__) if tried else batch_sizes[0]
    passes, middle, ids = measure_batch(workload, case, best, seconds, 3 if seconds else 1)
    num_tokens = sum(len(own) + 1 for own in ids)
    if workload.forced:
        num_tokens = workload.forced * len(ids)
        expected = workload.forced - (case.system == "tmt")  # ours is without its </s>, the others have none
        if lengths := {len(own) for own in ids} - {expected}:
            raise InputError(
                f"translations of {sorted(lengths)} ids, {expected} wanted; the comparison would be unfair"
            )
    return {
        "batch_size": best,
        "sentences_per_second": round(len(ids) / middle, 3),
        "target_tokens_per_second": round(num_tokens / middle, 1),
        "passes": passes,
        "tried": {size: round(len(ids) / value, 2) for size, value in tried.items()},
        "ids": ids,
    }


def measure_batch(
    workload: Workload, case: Case, batch_size: int, seconds: float, least: int
) -> tuple[int, float, Ids]:
    """All sentences, after one pass that is not counted: how many passes, the median of their seconds, translations."""
    system = SYSTEMS[case.system](workload, case, batch_size)
    prepared = system.prepare(workload.sources)
    system.translate(prepared)
    times: list[float] = []
    while sum(times) < seconds or len(times) < least:
        taken, found = timed(system.translate, prepared)
        times.append(taken)
    return len(times), statistics.median(times), system.ids(found)


def measure_latency(system: System, sources: Ids) -> dict[str, Any]:
    """Milliseconds of one sentence at a time."""
    prepared = [system.prepare([source]) for source in sources]
    for one in prepared:
        system.translate(one)
    times = sorted(timed(system.translate, one)[0] * 1000 for one in prepared)
    p95 = times[-(-95 * len(times) // 100) - 1]
    return {"p50_ms": round(statistics.median(times), 3), "p95_ms": round(p95, 3), "sentences": len(times)}


def timed(translate: Callable[[Any], Any], prepared: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    found = translate(prepared)
    return time.perf_counter() - started, found


def measure_apart(path: Path, case: Case, batch_sizes: Sequence[int], seconds: float) -> dict[str, Any]:
    """`measure` in a process; the result, or what went wrong."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    environment |= {"OMP_NUM_THREADS": str(case.threads), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    environment |= TUNED if case.system == "hf" else {}
    job = json.dumps([str(path), case, batch_sizes, seconds])
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(
            [sys.executable, __file__, "--measure", job], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        if done.returncode or not done.stdout:
            log.seek(0)
            return {"error": (log.read().strip().splitlines() or [f"no output, status {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# What is translated.


def workloads(args: argparse.Namespace) -> Iterator[Workload]:
    data = Path(os.environ.get("TMT_DATA", "data")) / "multi30k"
    src, ref = args.src or data / "test_2016_flickr.en.gz", args.ref
    if not args.src and not ref:
        ref = data / "test_2016_flickr.de.gz"
    for path in args.model:
        yield trained(path, src, ref, args)
    for preset in args.preset:
        yield untrained(preset, data, src, args)


def trained(path: Path, src: Path, ref: Path | None, args: argparse.Namespace) -> Workload:
    directory = resolve_model(path)
    tokenizer = load_model(directory).tokenizers.src
    encoded = tokenizer.encode([line.strip() for line in read_lines(src)])
    references = list(read_lines(ref)) if ref else [""] * len(encoded)
    if len(references) != len(encoded):
        raise InputError(f"{ref}: {len(references)} lines, {src} has {len(encoded)}; give files of the same sentences")
    chosen = [i for i, ids in enumerate(encoded) if ids][: args.sentences]
    if not chosen:
        raise InputError(f"{src}: nothing to translate; give a file with text")
    where = path.resolve()
    name = f"{where.parent.name if directory == path else where.name}-{directory.name}"
    sources = [[*encoded[i], EOS_ID] for i in chosen]
    return Workload(
        name, str(directory), "", None, args.length_penalty, sources, [references[i] for i in chosen] if ref else None
    )


def untrained(preset: str, data: Path, src: Path, args: argparse.Namespace) -> Workload:
    """Random weights, saved as a model, and sentences of one length."""
    pairs = grammar.generate("train", 10_000)
    if (data / "train.en.gz").exists() and (data / "train.de.gz").exists():
        pairs = zip(read_lines(data / "train.en.gz"), read_lines(data / "train.de.gz"), strict=True)
    vocab_size = VOCAB_SIZES[preset]
    tokenizer, _ = train_tokenizer(itertools.chain.from_iterable(pairs), TokenizerConfig(vocab_size=vocab_size))
    unused = {f"<unused{i}>": i for i in range(tokenizer.vocab_size, vocab_size)}  # the text may support fewer pieces
    tokenizer = Tokenizer(tokenizer.model, tokenizer.table | unused)
    is_there = args.src or src.exists()
    texts = list(read_lines(src)) if is_there else [english for english, _ in grammar.generate("test", 1000)]
    encoded = [ids for ids in tokenizer.encode(texts) if ids]
    if not encoded:
        raise InputError(f"{src}: nothing to translate; give a file with text")
    chosen = itertools.islice(itertools.cycle(encoded), args.sentences or SENTENCES[preset])
    length = args.forced
    sources = [[*itertools.islice(itertools.cycle(ids), length - 1), EOS_ID] for ids in chosen]

    torch.manual_seed(1)
    corpus = {"builtin": "grammar", "split": "train", "num_pairs": 1}  # a configuration must have one
    data_section = {"src_lang": "en", "tgt_lang": "de", "train": [corpus]}
    config = validate({"data": data_section, "model": {"preset": preset}}, "bench_decode")
    model = Transformer(config.model, vocab_size, vocab_size)
    directory = args.output / "work" / preset / "model"
    directory.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_model(directory, weights, config, Tokenizers(tokenizer, tokenizer), length)
    return Workload(f"{preset}, {length} tokens", str(directory), "", length, args.length_penalty, sources, None)


def written(number: int, workload: Workload, cases: Sequence[Case], output: Path) -> Path:
    """The workload as a file for the processes that measure, with the exports that they need beside it."""
    directory = output / "work" / str(number)
    directory.mkdir(parents=True, exist_ok=True)
    for precision in {case.precision for case in cases if case.system == "ct2"}:
        loaded = load_model(workload.model)
        export_ctranslate2(loaded, directory / precision, precision)
    path = directory / "workload.json"
    path.write_text(json.dumps(workload._replace(exports=str(directory))._asdict()), encoding="utf-8")
    return path


# Tables.

Row = tuple[str, str]  # system, precision
Place = tuple[Any, ...]  # what a table is about: workload, mode, threads, beam


def table(results: list[dict[str, Any]], texts: dict[Place, dict[Row, list[str]]]) -> str:
    """Markdown: a table for each workload, mode and beam."""
    lines = []
    good = [result for result in results if "error" not in result]
    for place in dict.fromkeys((r["workload"], r["mode"], r["threads"], r["beam"]) for r in good):
        rows: dict[Row, list[dict[str, Any]]] = {}
        for result in good:
            if (result["workload"], result["mode"], result["threads"], result["beam"]) == place:
                rows.setdefault((result["system"], result["precision"]), []).append(result)
        workload, mode, threads, beam = place
        kind = "greedy" if beam == 1 else f"beam {beam}"
        lines += [f"### {workload}: {mode}, {kind}, {threads} thread{'s' * (threads > 1)}", ""]
        lines += _batch_table(place, rows, texts) if mode == "batch" else _latency_table(rows)
    lines += [f"- failed: {json.dumps(result)}" for result in results if "error" in result]
    return "\n".join(lines) + "\n"


def _batch_table(
    place: Place, rows: dict[Row, list[dict[str, Any]]], texts: dict[Place, dict[Row, list[str]]]
) -> list[str]:
    heads = ["system", "precision", "best batch size", "sentences/s: median (range)", "target tokens/s"]
    heads += ["÷ best CTranslate2"]
    translations = texts.get(place, {})
    signature = next((runs[0]["signature"] for runs in rows.values() if "signature" in runs[0]), None)
    ours = translations.get(("tmt", "float32"))
    heads += ["BLEU"] * (signature is not None) + ["lines other than tmt float32"] * (ours is not None)
    cells = []
    for row, speeds, ratio in _ranked(rows, lambda result: result["sentences_per_second"]):
        runs = rows[row]
        tokens = statistics.median(result["target_tokens_per_second"] for result in runs)
        cells.append([*_names(runs), str(runs[0]["batch_size"]), _spread(speeds, ".1f"), f"{tokens:,.0f}", ratio])
        if signature is not None:
            cells[-1].append(f"{runs[0]['bleu']:.2f}")
        if ours is not None:
            cells[-1].append(str(sum(a != b for a, b in zip(ours, translations[row], strict=True))))
    return [*_markdown(heads, cells), *([signature, ""] if signature else [])]


def _latency_table(rows: dict[Row, list[dict[str, Any]]]) -> list[str]:
    heads = ["system", "precision", "p50, ms: median (range)", "p95, ms: median (range)", "÷ best CTranslate2"]
    cells = []
    for row, _, ratio in _ranked(rows, lambda result: 1 / result["p50_ms"]):
        times = [[result[key] for result in rows[row]] for key in ("p50_ms", "p95_ms")]
        cells.append([*_names(rows[row]), *(_spread(values, ".2f") for values in times), ratio])
    return _markdown(heads, cells)


def _ranked(
    rows: dict[Row, list[dict[str, Any]]], speed: Callable[[dict[str, Any]], float]
) -> Iterator[tuple[Row, list[float], str]]:
    """Rows, fastest first, with their speeds and the ratios to the best CTranslate2 of the same rounds."""
    speeds: dict[Row, dict[int, float]] = {
        row: {run["round"]: speed(run) for run in runs} for row, runs in rows.items()
    }
    ranked = sorted(speeds, key=lambda row: -statistics.median(speeds[row].values()))
    best = next((speeds[row] for row in ranked if row[0] == "ct2"), {})
    for row in ranked:
        ratios = [value / best[number] for number, value in speeds[row].items() if number in best]
        yield row, list(speeds[row].values()), _spread(ratios, ".2f") if ratios else ""


def _names(runs: list[dict[str, Any]]) -> list[str]:
    label, package = LABELS[runs[0]["system"]]
    return [f"{label} {_version(package)}", runs[0]["precision"]]


def _spread(values: Sequence[float], form: str) -> str:
    text = f"{statistics.median(values):{form}}"
    return text if len(values) == 1 else f"{text} ({min(values):{form}}–{max(values):{form}})"


def _markdown(heads: list[str], cells: list[list[str]]) -> list[str]:
    return [*(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)), ""]


def environment_facts() -> dict[str, Any]:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        commit = ""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": f"{processor()}, {os.cpu_count()} cores",
        "load_at_start": round(os.getloadavg()[0], 2),
        "versions": {package: _version(package) for package in ("torch", *(name for _, name in LABELS.values()))},
        "commit": commit or "unknown",
        "command": shlex.join(["python", *sys.argv]),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# The run.


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    precisions = list(dict.fromkeys(itertools.chain(*PRECISIONS.values())))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, nargs="+", default=[], help="trained models: runs, checkpoints, averages")
    add("--preset", nargs="+", default=[], choices=list(SENTENCES), help="shapes with random weights")
    add("--forced", type=int, default=14, help="tokens of each sentence and translation with --preset (%(default)s)")
    add("--src", type=Path, help="sentences, plain or .gz (default: $TMT_DATA/multi30k/test_2016_flickr.en.gz)")
    add("--ref", type=Path, help="their translations, for BLEU (default with the default --src: its .de.gz)")
    add("--sentences", type=int, help=f"the first so many (default: all; with --preset {SENTENCES})")
    add("--systems", type=words, default=list(SYSTEMS), help=f"of {','.join(SYSTEMS)}")
    add("--precisions", type=words, default=precisions, help=f"of {','.join(precisions)}")
    add("--modes", type=words, default=["batch", "latency"], help="of batch,latency")
    add("--beams", type=numbers, default=[4, 1], help="sizes; 1 is greedy (4,1)")
    add("--threads", type=int, default=2, help="processes or threads in batch mode (%(default)s)")
    add("--latency-threads", type=numbers, default=[1], help="for instance 1,2 (1)")
    add("--length-penalty", type=float, default=1.0, help="alpha of score / |Y|^alpha (%(default)s)")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    add("--seconds", type=float, default=3.0, help="of repeating in batch mode (%(default)s)")
    add("--output", type=Path, default=Path("~/.cache/tmt_bench_decode"), help="a directory (%(default)s)")
    add("--quick", action="store_true", help="16 sentences, once, one batch size: does everything run?")
    add("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for name, known in (("systems", SYSTEMS), ("precisions", precisions), ("modes", ("batch", "latency"))):
        if unknown := [word for word in getattr(args, name) if word not in known]:
            parser.error(f"--{name} {','.join(unknown)}: choose from {','.join(known)}")
    sentences = 1 if args.sentences is None else args.sentences
    least = min(args.rounds, args.threads, sentences, *args.beams, *args.latency_threads)
    if least < 1 or args.forced < 2:
        parser.error(
            "--rounds, --threads, --sentences, --beams and --latency-threads are 1 or more, --forced 2 or more"
        )
    if not args.measure and not args.model and not args.preset:
        parser.error("nothing to translate with: give --model RUN_OR_MODEL_DIR or --preset tiny base")
    args.output = args.output.expanduser()
    if args.quick:
        args.sentences, args.rounds, args.seconds = 16, 1, 0.0
    return args


def cases_of(args: argparse.Namespace) -> list[Case]:
    cases = [
        Case(system, precision, mode, threads, beam)
        for beam in args.beams
        for mode in args.modes
        for threads in ([args.threads] if mode == "batch" else args.latency_threads)
        for system in args.systems
        for precision in PRECISIONS[system]
        if precision in args.precisions
    ]
    if not cases:
        raise InputError(f"nothing to run: {','.join(args.systems)} have no {','.join(args.precisions)}")
    return cases


class Recorder:
    """Results as they come: results.jsonl, results.md and the translations."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.results: list[dict[str, Any]] = []
        self._texts: dict[Place, dict[Row, list[str]]] = {}
        self._facts = environment_facts()
        (output / "results.jsonl").write_text(json.dumps(self._facts) + "\n", encoding="utf-8")

    def add(self, workload: Workload, case: Case, number: int, result: dict[str, Any]) -> None:
        ids = result.pop("ids", None)
        if ids is not None and workload.forced is None:
            result |= self._judge(workload, case, ids)
        result = {"round": number, "workload": workload.name, **case._asdict(), **result}
        self.results.append(result)
        with open(self._output / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        (self._output / "results.md").write_text(self.markdown(), encoding="utf-8")

    def _judge(self, workload: Workload, case: Case, ids: Ids) -> dict[str, Any]:
        """Write the translations of a model; their BLEU where there are references."""
        tokenizer = load_model(workload.model).tokenizers.tgt
        texts = [tokenizer.decode(own) for own in ids]
        place = (workload.name, case.mode, case.threads, case.beam)
        self._texts.setdefault(place, {})[case.system, case.precision] = texts
        name = f"{workload.name}.{case.system}.{case.precision}.beam{case.beam}.txt"
        (self._output / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        if workload.references is None:
            return {}
        [score] = evaluate(texts, [workload.references], ["bleu"]).scores
        return {"bleu": round(score.score, 3), "signature": f"{score.label}|{score.signature}"}

    def markdown(self) -> str:
        facts = [f"- {key.replace('_', ' ')}: {value}" for key, value in self._facts.items() if key != "versions"]
        versions = ", ".join(f"{name} {number}" for name, number in self._facts["versions"].items())
        return "\n".join([*facts, f"- versions: {versions}", "", table(self.results, self._texts)])


def run(args: argparse.Namespace) -> bool:
    """All configurations in turn, round after round; whether all of them worked."""
    cases = cases_of(args)
    args.output.mkdir(parents=True, exist_ok=True)
    chosen = list(workloads(args))
    if len({workload.name for workload in chosen}) < len(chosen):
        raise InputError("two models of the same name; measure them in runs of their own, with different --output")
    paths = [written(number, workload, cases, args.output) for number, workload in enumerate(chosen)]
    recorder = Recorder(args.output)
    best: dict[tuple[int, Case], int] = {}  # batch sizes
    for number in range(args.rounds):
        for (at, workload), case in itertools.product(enumerate(chosen), cases):
            sizes = BATCH_SIZES[case.system][-2:-1] if args.quick else BATCH_SIZES[case.system]
            started = time.monotonic()
            result = measure_apart(paths[at], case, [best[at, case]] if (at, case) in best else sizes, args.seconds)
            if "batch_size" in result:
                best[at, case] = result["batch_size"]
            recorder.add(workload, case, number, result)
            print(
                f"{time.monotonic() - started:.0f} s: {json.dumps(recorder.results[-1])}", file=sys.stderr, flush=True
            )
    print(recorder.markdown(), end="")
    return not any("error" in result for result in recorder.results)


def main() -> None:
    args = parse()
    try:
        if args.measure:
            path, case, batch_sizes, seconds = json.loads(args.measure)
            print(json.dumps(measure(path, Case(*case), batch_sizes, seconds)))
            return
        sys.exit(not run(args))
    except TmtError as error:
        sys.exit(f"bench_decode: {error}")
    except OSError as error:
        sys.exit(f"bench_decode: {error.filename}: {error.strerror}; check --output")


if __name__ == "__main__":
    main()
