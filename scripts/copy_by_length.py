"""What a fixed vector forgets: models learn to copy random sequences, and are asked for short and long ones.

    python scripts/copy_by_length.py --output DIR                               (some ten minutes of one core)

A Transformer and recurrent models of one size (within 2 % of parameters) see the same pairs in the same order, for
as many updates. Then: how many of the sequences of each length they copy without a mistake, and how many of the symbols
stand in their place (those beyond the shorter side count as wrong). Greedy search, on one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.decoding.translator import Translator
from transformer_mt.model.transformer import count_parameters
from transformer_mt.system.device import processor

ALPHABET = "abcdefghijklmnopqrst"
LONGEST, GROUP, NUM_TRAIN, NUM_TEST = 24, 4, 40_000, 60
SHARED = {"preset": "tiny", "dropout": 0.0}
RECURRENT = {**SHARED, "kind": "recurrent", "num_encoder_layers": 1, "num_decoder_layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "transformer": {**SHARED, "d_model": 64, "d_ff": 132, "num_encoder_layers": 2, "num_decoder_layers": 2},
    "none": {**RECURRENT, "recurrent_attention": "none", "d_model": 82},
    "additive": {**RECURRENT, "recurrent_attention": "additive", "d_model": 80},
}


def sequences(count: int, seed: int, shortest: int = 1, longest: int = LONGEST) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(ALPHABET, k=draw.randint(shortest, longest))) for _ in range(count)]


def in_place(found: str, wanted: str) -> tuple[int, int]:
    """Return how many symbols stand in their place, and of how many."""
    one, other = found.split(), wanted.split()
    return sum(a == b for a, b in zip(one, other, strict=False)), max(len(one), len(other))


def train(output: Path, steps: int, rate: float) -> None:
    output.mkdir(parents=True, exist_ok=True)
    text = output / "train.txt"
    text.write_text("".join(f"{line}\n" for line in sequences(NUM_TRAIN, seed=1)), encoding="utf-8")
    for name, model in MODELS.items():
        config = {
            "data": {"src_lang": "xx", "tgt_lang": "yy", "train": [{"src": str(text), "tgt": str(text)}]},
            "tokenizer": {"vocab_size": 300},
            "model": model,
            "batch": {"max_tokens": 2000},
            "optim": {"schedule": "cosine", "lr": rate, "warmup_steps": steps // 5, "clip_norm": 1.0},
            "train": {"max_steps": steps, "checkpoint_steps": steps, "log_steps": steps // 10, "threads": 1},
        }
        path = output / f"{name}.yaml"
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        command = [sys.executable, "-m", "transformer_mt", "train", str(path), "--output", str(output / name)]
        started = time.monotonic()
        subprocess.run([*command, "--resume"], check=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=0.006)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.output, args.steps, args.rate)
    print(f"{processor()}, torch {torch.__version__}, one thread, {args.steps} updates, learning rate {args.rate}\n")
    sizes = [f"{name} ({count_parameters(load_model(args.output / name).model):,})" for name in MODELS]
    print(f"| symbols: right lines, symbols in place | {' | '.join(sizes)} |\n|{' --- |' * (1 + len(MODELS))}")
    translators = [Translator.load(args.output / name, settings={"beam_size": 1}) for name in MODELS]
    for longest in range(GROUP, LONGEST + 1, GROUP):
        lines = sequences(NUM_TEST, seed=1000 + longest, shortest=longest - GROUP + 1, longest=longest)
        cells = []
        for translator in translators:
            texts = [one.text for one in translator.translate(lines)]
            counts = [in_place(*pair) for pair in zip(texts, lines, strict=True)]
            right = sum(text == line for text, line in zip(texts, lines, strict=True)) / len(lines)
            cells.append(f"{right:.0%}, {sum(n for n, _ in counts) / sum(of for _, of in counts):.0%}")
        print(f"| {longest - GROUP + 1}–{longest} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
