"""Our own training speed, as a user gets it: runs `tmt train` and reads its metrics.jsonl.

Prints one JSON line like the runners under scripts/peers; scripts/bench_peers.py runs both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import transformer_mt
from transformer_mt.config.loading import load_config
from transformer_mt.data.batching import Part, plan_windows

UPDATE_TOKENS = 4096
SEED = 1


def configuration(model: str, precision: str, data: Path, work: Path, num_steps: int) -> dict[str, Any]:
    """Nothing but training: no validation, and the only checkpoint after the last update."""
    train = {"src": f"{data}/raw.en.gz", "tgt": f"{data}/raw.de.gz"}
    return {
        "data": {"src_lang": "en", "tgt_lang": "de", "train": [train], "cache_dir": f"{work}/cache"},
        "tokenizer": {"model": f"{data}/tok.model"},
        "model": {"preset": model},
        "batch": {"max_tokens": UPDATE_TOKENS},
        "train": {
            "label_smoothing": 0.1,
            "max_steps": num_steps,
            "checkpoint_steps": num_steps,
            "log_steps": 1,
            "seed": SEED,
            "precision": precision,
        },
    }


def labels_of_updates(data: Path, num_steps: int) -> list[int]:
    """Labels of the first updates, from the pieces: the log has rates, which need them as weights."""
    src, tgt = (
        np.array([line.count(" ") + 2 for line in text.split("\n")[:-1]], dtype=np.int32)
        for text in ((data / f"train.{lang}").read_text(encoding="utf-8") for lang in ("en", "de"))
    )
    budget = {"max_tokens": UPDATE_TOKENS, "max_source_tokens": UPDATE_TOKENS}
    windows = (
        window
        for epoch in itertools.count()
        for window in plan_windows(src, tgt, [Part(0, 0, len(src))], [1.0], seed=SEED, epoch=epoch, **budget)
    )
    return [int(tgt[pairs].sum()) for pairs in itertools.islice(itertools.chain.from_iterable(windows), num_steps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["tiny", "base"])
    parser.add_argument("precision", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--data", type=Path, required=True, help="made by scripts/bench_peers.py")
    parser.add_argument("--work", type=Path, required=True, help="an empty directory that the run may fill")
    parser.add_argument("--warmup", type=int, required=True, help="updates that are left out")
    parser.add_argument("--steps", type=int, required=True, help="updates that are measured")
    args = parser.parse_args()
    num_steps = args.warmup + args.steps

    config, run = args.work / "config.yaml", args.work / "run"
    tree = configuration(args.model, args.precision, args.data, args.work, num_steps)
    config.write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, "-m", "transformer_mt", "train", str(config), "--output", str(run)]
    with open(args.work / "stderr", "w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(0)
        said = log.read()
    print(said, file=sys.stderr)
    if status:
        sys.exit(f"{' '.join(command)}: failed, see above")

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [record for record in records if record["kind"] == "train"]
    labels = labels_of_updates(args.data, num_steps)[args.warmup :]
    rates = [record["tokens_per_second"] for record in records[args.warmup :]]
    seconds = [count / rate for count, rate in zip(labels, rates, strict=True)]
    threads = re.search(r"(\d+) threads", said)
    result = {
        "system": "tmt",
        "version": transformer_mt.__version__,
        "model": args.model,
        "precision": load_config(run / "config.yaml").train.precision,  # what auto came to
        "target_tokens_per_second": round(sum(labels) / sum(seconds), 1),
        "median_step_seconds": round(statistics.median(seconds), 4),
        "steps": args.steps,
        "target_tokens_per_step": round(sum(labels) / args.steps, 1),
        "first_loss": round(records[0]["loss"], 3),
        "last_loss": round(records[-1]["loss"], 3),
        "peak_rss_gib": round(usage.ru_maxrss / 2**20, 2),  # kibibytes on Linux
        "torch": version("torch"),
        "threads": int(threads[1]) if threads else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
