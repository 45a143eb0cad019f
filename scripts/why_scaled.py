"""Why attention is scaled: what becomes of q·k, of softmax and of training without 1/sqrt(d_k) (section 3.2.1).

    python scripts/why_scaled.py random                          random vectors against d_k (the paper's footnote 4)
    python scripts/why_scaled.py model RUN --src F --tgt F       a model's own queries and keys on some text
    python scripts/why_scaled.py train --output DIR              short trainings, the same but for the scale

There is no configuration key for the scale: `unscaled` sets the attribute ``scale`` of each attention that is made or
loaded within it to 1. Everything else, the initial weights included, is the same.

A row is one query's softmax over its keys. It is saturated where its largest weight is above 0.99. Rows of a single key
(the first position of the decoder) say nothing and are left out.

Shapes: N rows, L queries, M keys, H heads, K head size, P rows of a batch, C columns.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from transformer_mt.checkpoints.model_directory import LoadedModel, load_model
from transformer_mt.checkpoints.run_records import FILE_NAME, read_records
from transformer_mt.config.loading import validate
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.heads import heads_of
from transformer_mt.model.layout import Batch, Layout, collate
from transformer_mt.model.transformer import EncoderDecoder, Transformer
from transformer_mt.system.lines import read_lines
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.loop import train

SATURATED = 0.99
HEAD_SIZES = (1, 4, 16, 32, 64, 128, 256, 512, 1024)
NUM_ROWS, NUM_KEYS = 2000, 32  # of random vectors

# Of the trainings. d_k is d_model / num_heads.
SHAPES = {
    "d_k 32": {"d_model": 128, "d_ff": 256, "num_heads": 4},
    "d_k 128": {"d_model": 128, "d_ff": 256, "num_heads": 1},
    "d_k 256": {"d_model": 256, "d_ff": 512, "num_heads": 1},
}


@dataclasses.dataclass
class Softmax:
    """What the rows of a softmax look like, in the mean over those seen."""

    num_rows: int = 0
    saturated: float = 0.0
    entropy: float = 0.0  # nats

    def see(self, scores_NM: Tensor) -> None:
        """Take in rows of scores; -inf where a query may not look."""
        log_weights_NM = scores_NM.double().log_softmax(dim=-1)
        weights_NM = log_weights_NM.exp()
        self.num_rows += len(scores_NM)
        self.saturated += float((weights_NM.max(dim=-1).values > SATURATED).sum())
        self.entropy -= float((weights_NM * log_weights_NM.masked_fill(weights_NM == 0, 0.0)).sum())

    def means(self) -> dict[str, float]:
        return {"saturated": self.saturated / self.num_rows, "entropy": self.entropy / self.num_rows}


@contextlib.contextmanager
def unscaled() -> Iterator[None]:
    """Let attention be softmax(Q K^T) V in every model that is made or loaded meanwhile."""
    build = MultiHeadAttention.__init__

    def build_unscaled(self: MultiHeadAttention, *args: Any) -> None:
        build(self, *args)
        self.scale = 1.0

    with patch.object(MultiHeadAttention, "__init__", build_unscaled):
        yield


# 1. Random vectors.


def random_vectors(d_k: int, seed: int) -> dict[str, Any]:
    """Return what becomes of vectors of d_k independent components of mean 0 and variance 1.

    Gradients are those of a loss whose gradient by each weight is N(0, 1): their length at the scores, which is what
    softmax lets through, and at q; medians over the rows.
    """
    generator = torch.Generator().manual_seed(seed)
    q_NK = torch.randn(NUM_ROWS, d_k, generator=generator)
    k_NMK = torch.randn(NUM_ROWS, NUM_KEYS, d_k, generator=generator)
    upstream_NM = torch.randn(NUM_ROWS, NUM_KEYS, generator=generator)
    products_NM = (k_NMK @ q_NK[:, :, None])[:, :, 0]
    found: dict[str, Any] = {"d_k": d_k, "variance": float(products_NM.var())}
    for name, scale in (("without", 1.0), ("with", d_k**-0.5)):
        softmax = Softmax()
        softmax.see(products_NM * scale)
        weights_NM = (products_NM * scale).double().softmax(dim=-1)
        at_scores_NM = weights_NM * (upstream_NM - (weights_NM * upstream_NM).sum(dim=-1, keepdim=True))
        at_q_NK = (at_scores_NM[:, None, :] @ k_NMK.double())[:, 0] * scale
        found[name] = softmax.means() | {
            "gradient_at_scores": float(at_scores_NM.norm(dim=-1).median()),
            "gradient_at_q": float(at_q_NK.norm(dim=-1).median()),
        }
    return found


def print_random(found: list[dict[str, Any]]) -> None:
    print(f"{NUM_ROWS:,} queries over {NUM_KEYS} keys each; of each pair of numbers the second is with 1/sqrt(d_k)\n")
    print("| d_k | variance of q·k | saturated rows | entropy, nats | gradient at the scores | gradient at q |")
    print("| ---: | ---: | --- | --- | --- | --- |")
    for row in found:
        one, other = row["without"], row["with"]
        print(
            f"| {row['d_k']} | {row['variance']:.1f} | {one['saturated']:.1%}, {other['saturated']:.1%} "
            f"| {one['entropy']:.2f}, {other['entropy']:.2f} "
            f"| {one['gradient_at_scores']:.2g}, {other['gradient_at_scores']:.2g} "
            f"| {one['gradient_at_q']:.2g}, {other['gradient_at_q']:.2g} |"
        )


# 2. A model's queries and keys.


@dataclasses.dataclass
class Seen:
    """What was seen of one use of attention, over its layers and heads."""

    num_products: int = 0
    total: float = 0.0
    squares: float = 0.0
    within: float = 0.0  # variance within a row, which alone decides how sharp softmax is: the sum over rows
    with_scale: Softmax = dataclasses.field(default_factory=Softmax)
    without_scale: Softmax = dataclasses.field(default_factory=Softmax)
    gradient_q: float = 0.0  # sums of squares of the loss's gradient by queries and by values
    gradient_v: float = 0.0

    def see(self, products_HLM: Tensor, causal: bool, scale: float) -> None:
        """Take in what all heads of a layer make of one pair of sentences."""
        length, keys = products_HLM.shape[1:]
        may_look_LM = torch.ones(length, keys, dtype=torch.bool)
        if causal:
            may_look_LM = may_look_LM.tril()
        real = products_HLM[:, may_look_LM].double()
        self.num_products += real.numel()
        self.total += float(real.sum())
        self.squares += float(real.square().sum())

        may_look_LM = may_look_LM[1:] if causal else may_look_LM
        numbers_L1 = may_look_LM.sum(dim=-1, keepdim=True)
        rows_HLM = products_HLM[:, -len(may_look_LM) :].double()
        means_HL1 = (rows_HLM * may_look_LM).sum(dim=-1, keepdim=True) / numbers_L1
        self.within += float(((rows_HLM - means_HL1).square() * may_look_LM / numbers_L1).sum())
        rows_NM = rows_HLM.masked_fill(~may_look_LM, float("-inf")).flatten(0, 1)
        self.with_scale.see(rows_NM * scale)
        self.without_scale.see(rows_NM)

    def means(self) -> dict[str, Any]:
        return {
            "variance": self.squares / self.num_products - (self.total / self.num_products) ** 2,
            "variance_within_rows": self.within / self.with_scale.num_rows,
            "without": self.without_scale.means(),
            "with": self.with_scale.means(),
            "gradient_q_by_v": math.sqrt(self.gradient_q / self.gradient_v),
        }


Hear = Callable[[str, MultiHeadAttention, Tensor, Tensor | None, bool], None]


@contextlib.contextmanager
def listening(model: EncoderDecoder, hear: Hear) -> Iterator[None]:
    """Tell what each attention of a model is given: its use, itself, ``q_PC``, ``kv_RC``, ``causal``."""
    attend = MultiHeadAttention._attend
    uses = {
        module: "encoder" if name.startswith("encoder") else "cross" if name.endswith("cross_attn") else "decoder"
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    }

    def attend_heard(
        self: MultiHeadAttention, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool
    ) -> Tensor:
        hear(uses[self], self, q_PC, kv_RC, causal)
        return attend(self, q_PC, layout, kv_RC, kv_layout, causal)

    with patch.object(MultiHeadAttention, "_attend", attend_heard):
        yield


def look_at(model: EncoderDecoder, batches: list[Batch]) -> dict[str, Any]:
    """Return what a model's queries and keys are like, for each use of attention; a batch is one pair of sentences."""
    seen = {use: Seen() for use in ("encoder", "decoder", "cross")}
    kept: list[tuple[str, Tensor, Tensor, int, int]] = []  # use, rows with queries, rows with values, their columns

    def hear(use: str, layer: MultiHeadAttention, q_PC: Tensor, kv_RC: Tensor | None, causal: bool) -> None:
        queries, values = layer.num_heads * layer.d_k, layer.num_heads * layer.d_v
        keys_from = q_PC[:, queries:] if kv_RC is None else kv_RC
        with torch.no_grad():
            [q] = heads_of(q_PC[None, :, :queries], layer.num_heads, [layer.d_k])
            [k] = heads_of(keys_from[None, :, :queries], layer.num_heads, [layer.d_k])
            seen[use].see((q @ k.mT)[0], causal, layer.d_k**-0.5)
        values_from = q_PC if kv_RC is None else kv_RC
        q_PC.retain_grad()
        values_from.retain_grad()
        kept.append((use, q_PC, values_from, queries, values))

    with listening(model, hear):
        for batch in batches:
            loss, *_ = model(batch, 0.0)
            loss.backward()
            for use, q_PC, values_from, queries, values in kept:
                assert q_PC.grad is not None and values_from.grad is not None
                seen[use].gradient_q += float(q_PC.grad[:, :queries].square().mean())
                seen[use].gradient_v += float(values_from.grad[:, -values:].square().mean())
            kept.clear()
    return {use: one.means() for use, one in seen.items()}


def sentence_pairs(loaded: LoadedModel, src: Path, tgt: Path, batch_size: int = 1) -> list[Batch]:
    """Return the sentence pairs of two files; each a batch of its own, without padding, or several of like length."""
    sides = zip((loaded.tokenizers.src, loaded.tokenizers.tgt), (src, tgt), strict=True)
    ids = [[[*one, EOS_ID] for one in tokenizer.encode(list(read_lines(path)))] for tokenizer, path in sides]
    pairs = sorted(zip(*ids, strict=True), key=lambda pair: (len(pair[1]), len(pair[0])))
    chunks = (pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size))
    return [collate([src for src, _ in chunk], [tgt for _, tgt in chunk]) for chunk in chunks]


def look_at_run(run: Path, src: Path, tgt: Path, is_unscaled: bool) -> dict[str, Any]:
    """Return what a run's model is like, and the same shape before its training, with and without the scale."""
    found = {}
    for name, without in (("at the start", False), ("at the start, without the scale", True)):
        with unscaled() if without else contextlib.nullcontext():
            loaded = load_model(run)
            assert isinstance(loaded.model, Transformer)  # others have no such attention
            torch.manual_seed(1)
            loaded.model.init_weights()
        found[name] = look_at(loaded.model, sentence_pairs(loaded, src, tgt))
    with unscaled() if is_unscaled else contextlib.nullcontext():
        loaded = load_model(run)
    name = f"{loaded.path.name}{', trained without the scale' if is_unscaled else ''}"
    found[name] = look_at(loaded.model, sentence_pairs(loaded, src, tgt))
    return {"d_k": loaded.config.model.d_k, "models": found}


def print_model(found: dict[str, Any]) -> None:
    print(f"d_k = {found['d_k']}; of each pair of numbers the second is with 1/sqrt(d_k)\n")
    print(
        "| model | attention | variance of q·k | within rows | saturated rows | entropy, nats | gradient at q / at v |"
    )
    print("| --- | --- | ---: | ---: | --- | --- | ---: |")
    for name, uses in found["models"].items():
        for use, row in uses.items():
            one, other = row["without"], row["with"]
            print(
                f"| {name} | {use} | {row['variance']:.1f} | {row['variance_within_rows']:.1f} "
                f"| {one['saturated']:.1%}, {other['saturated']:.1%} | {one['entropy']:.2f}, {other['entropy']:.2f} "
                f"| {row['gradient_q_by_v']:.3f} |"
            )


# 3. Trainings.


def configuration(data: Path, output: Path, shape: str, num_steps: int, seed: int) -> dict[str, Any]:
    """Return the configuration of one training: everyday sentences, two layers a side, a cosine of the given length."""
    return {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": [{"src": f"{data}/train.en.gz", "tgt": f"{data}/train.de.gz"}],
            "cache_dir": f"{output}/cache",
        },
        "tokenizer": {"model": f"{output}/tokenizer.model"},
        "model": {"preset": "tiny", "num_encoder_layers": 2, "num_decoder_layers": 2, **SHAPES[shape]},
        "batch": {"max_tokens": 2048},
        "optim": {"schedule": "cosine", "lr": 0.002, "warmup_steps": min(100, num_steps), "clip_norm": 1.0},
        "train": {
            "max_steps": num_steps,
            "checkpoint_steps": num_steps,
            "log_steps": 10,
            "seed": seed,
            "threads": 1,
            "precision": "float32",
        },
    }


def train_all(data: Path, output: Path, shapes: list[str], num_steps: int, seeds: list[int]) -> None:
    """Do all trainings, seed by seed; those of another call with the same options go on, or are done."""
    tokenizer = output / "tokenizer.model"
    if not tokenizer.exists():
        texts = [part for lang in ("en", "de") for part in ("--input", f"{data}/train.{lang}.gz")]
        make = [sys.executable, "-m", "transformer_mt", "tokenizer", "train", *texts]
        subprocess.run([*make, "--vocab-size", "2000", "--output", str(tokenizer)], check=True)
    for seed in seeds:
        for shape in shapes:
            for with_scale in (True, False):
                run = run_directory(output, shape, with_scale, seed)
                config = validate(configuration(data, output, shape, num_steps, seed), str(run))
                with contextlib.nullcontext() if with_scale else unscaled():
                    train(config, run, resume=True)  # from where it stands, if it does


def run_directory(output: Path, shape: str, with_scale: bool, seed: int) -> Path:
    return output / f"{shape.replace(' ', '')}_{'with' if with_scale else 'without'}_{seed}"


def outcomes(data: Path, output: Path, shapes: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """Return what the trainings have come to: the loss of each ten updates, and perplexity on the validation text."""
    found = []
    for shape, with_scale, seed in itertools.product(shapes, (True, False), seeds):
        run = run_directory(output, shape, with_scale, seed)
        with contextlib.nullcontext() if with_scale else unscaled():
            loaded = load_model(run)
        nll = num_labels = 0.0
        with torch.inference_mode():
            for batch in sentence_pairs(loaded, data / "valid.en.gz", data / "valid.de.gz", 50):
                nll += float(loaded.model(batch, 0.0)[1])
                num_labels += batch.num_labels
        losses = {record["step"]: record["loss"] for record in read_records(run / FILE_NAME)}
        result = {"loss": losses, "perplexity": math.exp(nll / num_labels)}
        found.append({"shape": shape, "with_scale": with_scale, "seed": seed} | result)
    return found


def print_trainings(found: list[dict[str, Any]]) -> None:
    steps = sorted(found[0]["loss"])
    steps = steps[:: -max(1, len(steps) // 4)][::-1]  # some five, the last among them
    losses = " | ".join(f"loss at {step}" for step in steps)
    print("Training loss (label-smoothed, nats a label, means over seeds) and validation perplexity (and its range)\n")
    print(f"| shape | scale | seeds | {losses} | perplexity |\n| --- | --- | ---: |{' ---: |' * len(steps)} --- |")
    for (shape, with_scale), group in itertools.groupby(found, lambda run: (run["shape"], run["with_scale"])):
        runs = list(group)
        means = " | ".join(f"{statistics.mean(run['loss'][step] for run in runs):.3f}" for step in steps)
        ends = [run["perplexity"] for run in runs]
        print(
            f"| {shape} | {'1/sqrt(d_k)' if with_scale else 'none'} | {len(runs)} | {means} "
            f"| {statistics.mean(ends):.2f} ({min(ends):.2f} to {max(ends):.2f}) |"
        )


def draw(found: list[dict[str, Any]], output: Path) -> None:
    """Draw the loss of each training over its updates, a panel for each shape."""
    from matplotlib.figure import Figure

    shapes = [*dict.fromkeys(run["shape"] for run in found)]
    figure = Figure(figsize=(3.4 * len(shapes) + 0.4, 3.0), layout="constrained")
    for axes, shape in zip(figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0], shapes, strict=True):
        for run in found:
            if run["shape"] == shape:
                # Blue and orange of Okabe and Ito, which the colour-blind tell apart; dashes besides.
                look = ("#0072B2", "solid", "with 1/√d_k") if run["with_scale"] else ("#D55E00", "dashed", "without")
                colour, dashes, label = look
                axes.plot(*zip(*run["loss"].items(), strict=True), color=colour, linestyle=dashes, lw=1.1, label=label)
        axes.set_title(shape.replace("d_k", "d_k ="), fontsize=10)
        axes.set_xlabel("updates")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("training loss, nats a label")
    handles = {label: line for line, label in zip(*figure.axes[0].get_legend_handles_labels(), strict=True)}
    figure.axes[0].legend(handles.values(), handles.keys(), frameon=False)
    figure.savefig(output, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all numbers there")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("random").add_argument("--seed", type=int, default=1)
    of_model = commands.add_parser("model")
    of_model.add_argument("run", type=Path)
    of_model.add_argument("--src", type=Path, required=True)
    of_model.add_argument("--tgt", type=Path, required=True)
    of_model.add_argument("--unscaled", action="store_true", help="the run was trained without the scale")
    of_training = commands.add_parser("train")
    of_training.add_argument("--data", type=Path, required=True, help="folder with train.en.gz, valid.de.gz, …")
    of_training.add_argument("--output", type=Path, required=True)
    of_training.add_argument("--figure", type=Path, help="draw the losses there (Matplotlib)")
    of_training.add_argument("--steps", type=int, default=300)
    of_training.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    of_training.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    args = parser.parse_args()

    torch.set_num_threads(1)
    found: Any
    if args.command == "random":
        print_random(found := [random_vectors(d_k, args.seed) for d_k in HEAD_SIZES])
    elif args.command == "model":
        print_model(found := look_at_run(args.run, args.src, args.tgt, args.unscaled))
    else:
        args.output.mkdir(parents=True, exist_ok=True)
        train_all(args.data, args.output, args.shapes, args.steps, args.seeds)
        print_trainings(found := outcomes(args.data, args.output, args.shapes, args.seeds))
        if args.figure:
            draw(found, args.figure)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
