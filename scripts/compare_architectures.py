"""Compare the Transformer with the recurrent models it argues against, with equally many parameters (within 2 %).

    python scripts/compare_architectures.py CONFIG.yaml --output DIR [--kinds transformer none additive dot]

CONFIG has the tiny shape and a vocabulary of 4,000: ``scripts/compare_architectures.yaml``. Each model is trained under
its name in DIR, on one thread, and exactly resumed where that has begun (``--report`` trains nothing and takes what is
there). Then all tables are printed, as Markdown:

- BLEU at equal updates: of the validations, which are at the same steps; and on the test text, with its signature.
- BLEU at equal time: updates take as long as measured here, in CPU time of one thread, side by side on the same batches
  of the training text, in turns; medians. So it does not matter what else a machine did while it trained.
- BLEU by the length of the source, and of one, two, three sentences joined with a space: long sources made of sentences
  that all models have learned to translate. They are translated as a whole (search.max_source_tokens).
- Target tokens a second in training by the length of sentences: batches of equally many tokens, drawn at random.
- Sequential steps: states of layers that wait for one another, on the longest way from the first source position to the
  last output, with known targets. A Transformer's layer is one, a recurrent layer as many as there are positions. In
  translating, both wait for each target position in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.checkpoints.run_directory import resolve_model
from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import MICRO_TOKENS, Config, ModelConfig
from transformer_mt.data import preparing
from transformer_mt.data.batching import cut_update
from transformer_mt.data.epochs import plan, source_weights
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.decoding.translator import Translator
from transformer_mt.evaluation.lengths import System, scores_by_length
from transformer_mt.evaluation.scores import evaluate
from transformer_mt.model.kinds import new_model
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate, collate_joined
from transformer_mt.model.transformer import count_parameters
from transformer_mt.system.device import processor, resolve_precision
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID, SPECIALS
from transformer_mt.training.update import Updater

# The learning rate is from short trials (docs/results.md); that of the Transformer is the configuration's.
RECURRENT = {"model.kind": "recurrent", "model.num_encoder_layers": 1, "model.num_decoder_layers": 2, "optim.lr": 0.006}
KINDS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "none": RECURRENT | {"model.recurrent_attention": "none", "model.d_model": 206},
    "additive": RECURRENT | {"model.recurrent_attention": "additive", "model.d_model": 200},
    "dot": RECURRENT | {"model.recurrent_attention": "dot", "model.d_model": 200},
}
LENGTHS = [8, 16, 32, 64, 128, 256]
TOKENS = 4096  # of a synthetic batch, on each side
ROUNDS, NUM_UPDATES = 3, 24
EDGES = [8, 12, 16, 20]  # words of the source
LONGEST_JOINED = 3
WHOLE = {"max_source_tokens": 4096}


def overrides(kind: str) -> list[str]:
    return [f"{key}={value}" for key, value in {**KINDS[kind], "train.threads": 1}.items()]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def resolved(config: Config) -> Config:
    """Return a configuration with the precision and the micro-batches that a run on a CPU gets."""
    precision = resolve_precision(config.train.precision, torch.device("cpu"))
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    return config.with_micro_tokens(config.batch.micro_tokens or MICRO_TOKENS)


def train(config: Path, output: Path, kinds: Sequence[str]) -> None:
    for kind in kinds:
        command = [sys.executable, "-m", "transformer_mt", "train", str(config), "--output", str(output / kind)]
        settings = [word for override in overrides(kind) for word in ("--set", override)]
        subprocess.run([*command, "--resume", *settings], check=True)


def validations(run: Path) -> dict[int, float]:
    """Return the BLEU of each validation of a run, by its step."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {record["step"]: record["bleu"] for record in records if record["kind"] == "valid"}


def bleu_at_time(curve: dict[int, float], seconds_an_update: float, seconds: float) -> tuple[int, float] | None:
    """Return the last validation (step, BLEU) that training has reached within a time, or None before the first."""
    reached = [step for step in curve if step * seconds_an_update <= seconds]
    return (max(reached), curve[max(reached)]) if reached else None


def sequential_steps(model: ModelConfig, length: int) -> int:
    """Return the number of steps that wait for one another, in training on sentences of ``length`` positions."""
    layers = model.num_encoder_layers + model.num_decoder_layers
    return layers if model.kind == "transformer" else layers * length


def synthetic(length: int, vocab_size: int, tokens: int = TOKENS) -> Batch:
    """Return a batch of sentences of one length, with about ``tokens`` ids on each side."""
    rng = np.random.default_rng(length)
    ids = rng.integers(len(SPECIALS), vocab_size, (2, max(1, tokens // length), length))
    ids[:, :, -1] = EOS_ID
    return collate(list(ids[0]), list(ids[1]), ROWS_MULTIPLE)


def of_text(config: Config, tokenizers: Tokenizers, count: int) -> list[list[Batch]]:
    """Return the micro-batches of some updates of an epoch, of sentences of all lengths, since what a recurrent model
    takes for a token depends on them."""
    store = preparing.prepare(config.data, config.batch, tokenizers)
    src, tgt, [weights, *_] = store.lengths("src"), store.lengths("tgt"), source_weights(config.data, store)
    updates = sorted(
        next(plan(src, tgt, store.parts(), weights, config, epoch=0)), key=lambda pairs: -src[pairs].mean()
    )
    updates = [updates[i * len(updates) // count] for i in range(count)]
    cut = [
        cut_update(pairs, src, tgt, num_ranks=1, micro_tokens=config.batch.micro_tokens or MICRO_TOKENS)[0]
        for pairs in updates
    ]
    return [
        [collate_joined(store.gather("src", micro), store.gather("tgt", micro), ROWS_MULTIPLE) for micro in update]
        for update in cut
    ]


def seconds_in_turns(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the CPU time of each, the median of some rounds in turns after one that is left out."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            found[name].append(time.process_time() - started)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def updating(updater: Updater, updates: list[list[Batch]]) -> Callable[[], None]:
    def work() -> None:
        for step, micro_batches in enumerate(updates, 1):
            updater.begin()
            for micro in micro_batches:
                updater.add(micro, sum(one.num_labels for one in micro_batches))
            updater.finish(step)

    return work


def print_speeds(configs: dict[str, Config], tokenizers: Tokenizers) -> dict[str, float]:
    """Print target tokens a second by length and sequential steps; return the seconds of an update on the text."""
    sizes = tokenizers.src.vocab_size, tokenizers.tgt.vocab_size
    updaters, parameters = {}, {}
    for kind, config in configs.items():
        model = new_model(config.model, *sizes).train()
        parameters[kind] = count_parameters(model)
        updaters[kind] = Updater(model, config, torch.device("cpu"), Ranks())
    text = of_text(next(iter(configs.values())), tokenizers, NUM_UPDATES)
    taken = seconds_in_turns({kind: updating(updater, text) for kind, updater in updaters.items()})
    seconds = {kind: all_of_them / NUM_UPDATES for kind, all_of_them in taken.items()}
    labels = sum(micro.num_labels for update in text for micro in update) / NUM_UPDATES
    table(
        ["", "parameters", "CPU seconds an update", "target tokens a CPU second"],
        [[kind, f"{parameters[kind]:,}", f"{seconds[kind]:.2f}", f"{labels / seconds[kind]:,.0f}"] for kind in configs],
    )
    rows = []
    for length in LENGTHS:
        batch = synthetic(length, sizes[1])
        taken = seconds_in_turns({kind: updating(updater, [[batch]]) for kind, updater in updaters.items()})
        steps = [f"{sequential_steps(config.model, length)}" for config in configs.values()]
        rows.append([length, *(f"{batch.num_labels / taken[kind]:,.0f}" for kind in configs), *steps])
    table(["positions", *(f"{k}, tokens/s" for k in configs), *(f"{k}, steps" for k in configs)], rows)
    return seconds


def print_curves(curves: dict[str, dict[int, float]], seconds: dict[str, float]) -> None:
    def cell(found: tuple[int, float] | None) -> str:
        return "–" if found is None else f"{found[1]:.2f} ({found[0]:,})"

    steps = sorted({step for curve in curves.values() for step in curve})
    rows = [[f"{step:,}", *(f"{c[step]:.2f}" if step in c else "–" for c in curves.values())] for step in steps]
    table(["updates: validation BLEU", *curves], rows)
    budgets = [step * seconds["transformer"] for step in steps] if "transformer" in seconds else []
    table(
        ["CPU minutes: validation BLEU (updates)", *curves],
        [[f"{s / 60:.1f}", *(cell(bleu_at_time(c, seconds[k], s)) for k, c in curves.items())] for s in budgets],
    )


def print_scores(runs: dict[str, Path], pairs: Sequence[tuple[str, str]]) -> None:
    """Print BLEU and chrF on the test text, by length, and of joined sentences."""
    translators = {kind: Translator.load(run, settings=WHOLE) for kind, run in runs.items()}

    def systems(sources: Sequence[str]) -> list[System]:
        return [
            System(kind, [one.text for one in translator.translate(sources)], translator.tokenize, translator.tgt_lang)
            for kind, translator in translators.items()
        ]

    sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    by_length = scores_by_length(sources, [references], systems(sources), EDGES)
    rows: list[list[object]] = [
        [kind, resolve_model(runs[kind]).name, *(f"{score.score:.2f}" for score in report.scores)]
        for kind, report in zip(runs, by_length.all.reports, strict=True)
    ]
    table(["test", "checkpoint", "BLEU", "chrF2"], rows)
    print("\n" + "\n".join(f"{score.label}|{score.signature}" for score in by_length.all.reports[0].scores))
    rows = [
        [group.label, group.num_sentences, *(_with_interval(report.scores[0]) for report in group.reports)]
        for group in by_length.groups
    ]
    table(["words of the source: BLEU", "sentences", *runs], rows)
    rows = []
    for count in range(1, LONGEST_JOINED + 1):
        whole = range(0, len(pairs) - count + 1, count)
        src, tgt = ([" ".join(side[i : i + count]) for i in whole] for side in (sources, references))
        reports = [
            evaluate(one.hypotheses, [tgt], ("bleu",), tokenize=one.tokenize, tgt_lang=one.tgt_lang)
            for one in systems(src)
        ]
        words = statistics.mean(len(line.split()) for line in src)
        rows.append([count, f"{words:.1f}", *(f"{report.scores[0].score:.2f}" for report in reports)])
    table(["sentences joined: BLEU", "words in the mean", *runs], rows)


def _with_interval(score: Any) -> str:
    return f"{score.score:.1f}" + ("" if score.interval is None else f" ± {score.interval.half_width:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="directory of the runs, each under its kind's name")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.report:
        train(args.config, args.output, args.kinds)
    runs = {kind: args.output / kind for kind in args.kinds}
    configs = {kind: resolved(load_config(args.config, overrides(kind))) for kind in args.kinds}
    tokenizers = load_model(runs[args.kinds[0]]).tokenizers
    own = configs[args.kinds[0]].train
    print(f"{processor()}, torch {torch.__version__}, one thread, {own.precision}; seed {own.seed}")
    seconds = print_speeds(configs, tokenizers)
    print_curves({kind: validations(run) for kind, run in runs.items()}, seconds)
    data = configs[args.kinds[0]].data
    pairs = [pair for source in data.test for pair in read_pairs(source, data.src_lang, data.tgt_lang)]
    print_scores(runs, [(src, tgt) for src, tgt in pairs if src.strip()])


if __name__ == "__main__":
    main()
