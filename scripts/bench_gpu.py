"""Training speed on one GPU with the paper's batches: 25,000 source and 25,000 target tokens (section 5.1).

    python scripts/bench_gpu.py [--preset base|big] [--compile] [--steps 300] [--mean-length 27] [--peak-tflops 790]

Random ids in place of text (37,000 pieces), lengths log-normal around the mean; planning, collation, transfer, forward,
backward and update are those of `tmt train`. Prints one JSON line: updates and target tokens a second of the steady
state, and the share of the chip's rate that the model's arithmetic reaches. Without CUDA it says so and ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time

import numpy as np
import torch

from transformer_mt.config.sections import ModelConfig, OptimConfig
from transformer_mt.data import batching
from transformer_mt.model.layout import ROWS_MULTIPLE, collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.system import device
from transformer_mt.training.optim import FlatGradients, adam, learning_rate

NUM_PIECES = 37_000
NUM_PAIRS = 200_000


def training_flops(config: ModelConfig, src: np.ndarray, tgt: np.ndarray) -> float:
    """Multiplications and additions of one update: forward once, backward twice; norms and softmax not counted.

    Two for each weight of a matrix and each row it meets, and in attention two for each score and each of its uses
    (scores, weighted sum) and column; the causal half counts half.
    """
    assert config.d_k is not None and config.d_v is not None
    wide_k, wide_v = config.num_heads * config.d_k, config.num_heads * config.d_v
    attention = config.d_model * 2 * (wide_k + wide_v)
    feed_forward = 2 * config.d_model * config.d_ff
    src_rows, tgt_rows = float(src.sum()), float(tgt.sum())
    encoder = config.num_encoder_layers * (
        src_rows * (attention + feed_forward) + float((src.astype(float) ** 2).sum()) * (wide_k + wide_v)
    )
    own_and_out = tgt_rows * (attention + config.d_model * (wide_k + wide_v) + feed_forward)
    memory = src_rows * config.d_model * (wide_k + wide_v)
    scores = float((tgt.astype(float) ** 2).sum()) / 2 + float((src.astype(float) * tgt).sum())
    decoder = config.num_decoder_layers * (own_and_out + memory + scores * (wide_k + wide_v))
    return 3 * 2 * (encoder + decoder + tgt_rows * config.d_model * NUM_PIECES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=("base", "big"), default="base")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=25_000)
    parser.add_argument("--micro-tokens", type=int, default=65_536)
    parser.add_argument("--mean-length", type=float, default=27)
    parser.add_argument("--peak-tflops", type=float, default=790, help="of the chip in bfloat16")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing measured")
    where = device.local_device()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(1)
    config, optim = ModelConfig(preset=args.preset), OptimConfig()
    model = Transformer(config, NUM_PIECES, NUM_PIECES).to(where).train()
    if args.compile:
        device.compile_layers(model.layers, where)
    optimizer, gradients = adam(model, optim), FlatGradients(model)

    rng = np.random.default_rng(1)
    src_lengths, tgt_lengths = (
        np.clip(rng.lognormal(np.log(args.mean_length) - 0.125, 0.5, NUM_PAIRS), 2, 256).astype(np.int32) for _ in "st"
    )
    parts, budget = [batching.Part(0, 0, NUM_PAIRS)], {"max_tokens": args.tokens, "max_source_tokens": args.tokens}
    windows = (
        window
        for epoch in itertools.count()
        for window in batching.plan_windows(src_lengths, tgt_lengths, parts, [1.0], seed=1, epoch=epoch, **budget)
    )
    plan = itertools.chain.from_iterable(windows)
    seconds, labels, flops = 0.0, 0, 0.0
    for step, pairs in zip(range(1, args.warmup + args.steps + 1), plan, strict=False):
        if step == args.warmup + 1:
            torch.cuda.synchronize()
            seconds = -time.perf_counter()
        gradients.zero()
        num_labels = int(tgt_lengths[pairs].sum())
        [micro_batches] = batching.cut_update(
            pairs, src_lengths, tgt_lengths, num_ranks=1, micro_tokens=args.micro_tokens
        )
        for micro in micro_batches:
            src, tgt = (
                [rng.integers(4, NUM_PIECES, n) for n in lengths[micro]] for lengths in (src_lengths, tgt_lengths)
            )
            with device.autocast(where, "bfloat16"):
                loss, _ = model(collate(src, tgt, ROWS_MULTIPLE).to(where), 0.1)
            (loss / num_labels).backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, optim, config.d_model, 100_000)
        optimizer.step()
        if step > args.warmup:
            labels, flops = labels + num_labels, flops + training_flops(config, src_lengths[pairs], tgt_lengths[pairs])
    torch.cuda.synchronize()
    seconds += time.perf_counter()
    result = {
        "device": device.describe(where),
        "torch": torch.__version__,
        "preset": args.preset,
        "compile": args.compile,
        "updates_per_second": round(args.steps / seconds, 2),
        "target_tokens_per_second": round(labels / seconds),
        "mean_source_length": round(float(src_lengths.mean()), 1),
        "mean_target_length": round(float(tgt_lengths.mean()), 1),
        "share_of_peak": round(flops / seconds / args.peak_tflops / 1e12, 3),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
