"""What feeding an update takes on the host, in milliseconds: cutting it, reading its ids, collating, packing for a GPU.

    python scripts/bench_feeding.py [--tokens 25000 4096] [--updates 300]

A store of random ids, 800,000 pairs with lengths log-normal around 27, is made and deleted. One JSON line for each
number of tokens a side, medians over updates. Packing is measured with a copy in memory in place of the one to a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformer_mt.data.batching import cut_update, plan_windows
from transformer_mt.data.checksums import Checksums
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.store import SIDES, IdStore, finish_store, write_places, write_side
from transformer_mt.model.layout import ROWS_MULTIPLE, collate_joined

NUM_PIECES, NUM_PAIRS, SHARD_PAIRS = 37_000, 800_000, 1 << 18


def make_store(directory: Path) -> IdStore:
    rng = np.random.default_rng(1)
    files: Checksums = {}
    shards = [min(SHARD_PAIRS, NUM_PAIRS - begin) for begin in range(0, NUM_PAIRS, SHARD_PAIRS)]
    tokens = dict.fromkeys(SIDES, 0)
    for shard, size in enumerate(shards):
        for side in SIDES:
            lengths = np.clip(rng.lognormal(np.log(27) - 0.125, 0.5, size), 2, 257).astype(np.int64)
            offsets = np.cumsum([0, *lengths], dtype=np.int64)
            ids = rng.integers(4, NUM_PIECES, offsets[-1]).astype(np.uint16)
            files |= write_side(directory, shard, side, ids, offsets)
            tokens[side] += int(offsets[-1])
        files |= write_places(directory, shard, np.arange(size, dtype=np.int64) + shard * SHARD_PAIRS)
    meta = {
        **{"format": 2, "dtype": "uint16", "shards": shards, "sources": [("random", NUM_PAIRS, NUM_PAIRS)]},
        **{"longest": {"src": 257, "tgt": 257}, "tokens": tokens, "fingerprint": "random"},
        "report": dataclasses.asdict(CleanReport(kept=NUM_PAIRS)),
    }
    finish_store(directory, meta, files)
    return IdStore(directory)


def measure(store: IdStore, tokens: int, num_updates: int) -> dict[str, float]:
    src_lengths, tgt_lengths = store.lengths("src"), store.lengths("tgt")
    budget = {"max_tokens": tokens, "max_source_tokens": tokens}
    windows = plan_windows(src_lengths, tgt_lengths, store.parts(), [1.0], seed=1, epoch=0, **budget)
    cut = functools.partial(cut_update, num_ranks=1, micro_tokens=1 << 40)  # one pass
    updates = list(itertools.islice(itertools.chain.from_iterable(windows), num_updates))
    seconds: dict[str, list[float]] = {name: [] for name in ("cut", *SIDES, "collate", "pack")}

    def timed(name: str, work: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        result = work(*args)
        seconds[name].append(time.perf_counter() - started)
        return result

    for pairs in updates:
        [[micro]] = timed("cut", cut, pairs, src_lengths, tgt_lengths)
        sides = [timed(side, store.gather, side, micro) for side in SIDES]
        batch = timed("collate", collate_joined, *sides, ROWS_MULTIPLE)
        timed("pack", batch.copied, torch.clone)
    times = {name: round(1000 * statistics.median(times), 2) for name, times in seconds.items()}
    return {"tokens": tokens, "pairs": round(statistics.mean(map(len, updates))), **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[25_000, 4096])
    parser.add_argument("--updates", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        store = make_store(Path(directory))
        for tokens in args.tokens:
            print(json.dumps(measure(store, tokens, args.updates)))


if __name__ == "__main__":
    main()
