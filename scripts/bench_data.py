#!/usr/bin/env python
"""Measure how a training corpus is prepared: speed, memory, opening, planning, and what these do as it grows.

Makes corpora of the sizes asked for from the lines of real text: each pair is one of the given pairs with a number at
the end of both sides, so that pairs differ, and one in twenty repeats an earlier one. Prepares each with duplicates
left out, in a process of its own, and prints one row a size. Beside it stands the time that SentencePiece by itself
takes for the same lines on the same cores, all of them in memory.

    python scripts/bench_data.py --text train.en.gz train.de.gz --sizes 1000000 2000000 --work /tmp/bench

Needs some 1 GB of disk for each million pairs. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from transformer_mt.config.data_sections import CleanConfig, DataConfig, SourceConfig
from transformer_mt.config.sections import BatchConfig, TokenizerConfig
from transformer_mt.data.batching import plan_windows
from transformer_mt.data.preparing import prepare
from transformer_mt.data.store import IdStore
from transformer_mt.system.lines import read_line_pairs
from transformer_mt.system.processes import num_cores
from transformer_mt.text.tokenizer import Tokenizers, load_tokenizer
from transformer_mt.text.tokenizer_training import train_tokenizer

SEED = 1
ONE_IN_REPEATS = 20
MAX_TOKENS = 25_000  # of an update, as in the paper
SENTENCEPIECE_LINES = 400_000  # of a side, from which its speed is taken
GIB = 1 << 30


def corpus_lines(pairs: list[tuple[str, str]], size: int) -> Iterator[tuple[str, str]]:
    draw = random.Random(SEED)
    for number in range(size):
        if number and draw.randrange(ONE_IN_REPEATS) == 0:
            number = draw.randrange(number)
        src, tgt = pairs[number % len(pairs)]
        yield f"{src} {number}", f"{tgt} {number}"


def write_corpus(work: Path, pairs: list[tuple[str, str]], size: int) -> SourceConfig:
    paths = [work / f"{size}.src", work / f"{size}.tgt"]
    if not all(path.exists() for path in paths):
        files = [open(f"{path}.tmp", "w", encoding="utf-8") for path in paths]  # noqa: SIM115 (closed below)
        for sides in corpus_lines(pairs, size):
            for file, side in zip(files, sides, strict=True):
                file.write(f"{side}\n")
        for file, path in zip(files, paths, strict=True):
            file.close()
            Path(f"{path}.tmp").rename(path)
    return SourceConfig(src=str(paths[0]), tgt=str(paths[1]))


class PeakMemory:
    """The largest proportional memory (each page once) of this process and its children together, as it goes on."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            self.bytes = max(self.bytes, sum(map(_anonymous_and_shared, ["self", *children])))


def _anonymous_and_shared(process: str) -> int:
    """Memory that the process needs: without pages of mapped files, which the system drops when it needs them."""
    try:
        rows = dict(line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    except OSError:  # it has ended
        return 0
    return 1024 * int(rows["Pss_Anon"].split()[0])


def measure(work: Path, size: int, source: SourceConfig) -> dict[str, float]:
    """In this process, which should be a new one."""
    tokenizer = load_tokenizer(work / "tok.model")
    data = DataConfig(
        src_lang="src",
        tgt_lang="tgt",
        train=(source,),
        clean=CleanConfig(duplicates="exact"),
        cache_dir=str(work / f"cache.{size}"),
    )
    shutil.rmtree(data.cache_dir, ignore_errors=True)
    batch = BatchConfig(max_tokens=MAX_TOKENS, max_source_tokens=MAX_TOKENS)
    with PeakMemory() as peak:
        started = time.perf_counter()
        directory = prepare(data, batch, Tokenizers(tokenizer, tokenizer)).directory
        seconds = time.perf_counter() - started
    started = time.perf_counter()
    store = IdStore(directory)
    opening = time.perf_counter() - started
    budget = {"max_tokens": MAX_TOKENS, "max_source_tokens": MAX_TOKENS}
    with PeakMemory() as plan_peak:
        started = time.perf_counter()
        windows = plan_windows(
            store.lengths("src"), store.lengths("tgt"), store.parts(), [1.0], seed=1, epoch=0, **budget
        )
        updates = sum(map(len, windows))
        planning = time.perf_counter() - started
    some = np.random.default_rng(SEED).integers(0, len(store), 10_000)
    started = time.perf_counter()
    tokens = sum(map(len, store.get("tgt", some)))
    reading = time.perf_counter() - started
    assert tokens > 0
    return {
        "pairs": size,
        "kept": len(store),
        "tokens": sum(store.meta["tokens"].values()),
        "text_bytes": sum(Path(str(path)).stat().st_size for path in (source.src, source.tgt)),
        "store_bytes": sum(path.stat().st_size for path in directory.iterdir()),
        "seconds": seconds,
        "peak_gib": peak.bytes / GIB,
        "own_peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "opening_seconds": opening,
        "updates": updates,
        "planning_seconds": planning,
        "planning_peak_gib": plan_peak.bytes / GIB,
        "microseconds_a_random_pair": reading / len(some) * 1e6,
    }


def sentencepiece_pairs_per_second(work: Path, source: SourceConfig) -> float:
    """SentencePiece's own speed with a thread for each core, without reading, cleaning and writing."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(work / "tok.model"))
    pairs = itertools.islice(read_line_pairs(str(source.src), str(source.tgt)), SENTENCEPIECE_LINES)
    sides = [list(side) for side in zip(*pairs, strict=True)]
    started = time.perf_counter()
    for side in sides:
        for start in range(0, len(side), 8192):
            processor.encode(side[start : start + 8192], num_threads=num_cores())
    return len(sides[0]) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs=2, action="append", required=True, metavar=("SRC", "TGT"), help="real pairs")
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="pairs of the corpora to be made")
    parser.add_argument("--work", type=Path, required=True, help="a directory for corpora and stores")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # in a new process: measure this size
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    source = SourceConfig(src=str(args.work / f"{args.one}.src"), tgt=str(args.work / f"{args.one}.tgt"))
    if args.one is not None:
        print(json.dumps(measure(args.work, args.one, source)))
        return
    pairs = [pair for files in args.text for pair in read_line_pairs(*files) if all(side.strip() for side in pair)]
    random.Random(SEED).shuffle(pairs)
    model = args.work / "tok.model"
    if not model.exists():
        lines = itertools.chain.from_iterable(pairs)
        model.write_bytes(train_tokenizer(lines, TokenizerConfig(vocab_size=32000, max_lines=500_000))[0].model)
    print(f"{num_cores()} cores; real pairs: {len(pairs):,}", file=sys.stderr)
    rows = []
    for size in args.sizes:
        source = write_corpus(args.work, pairs, size)
        before = sentencepiece_pairs_per_second(args.work, source)
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(size)]
        row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        row["sentencepiece_pairs_per_second"] = (before + sentencepiece_pairs_per_second(args.work, source)) / 2
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        shutil.rmtree(args.work / f"cache.{size}")
    print("| pairs | kept | text | store | time | pairs/s | SentencePiece alone | ratio | peak | open | plan | pair |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        speed = row["pairs"] / row["seconds"]
        print(
            f"| {row['pairs']:,} | {row['kept']:,} | {row['text_bytes'] / 1e9:.2f} GB | {row['store_bytes'] / 1e9:.2f} "
            f"GB | {row['seconds']:.0f} s | {speed:,.0f} | {row['sentencepiece_pairs_per_second']:,.0f} | "
            f"{speed / row['sentencepiece_pairs_per_second']:.2f} | {row['peak_gib']:.2f} GiB | "
            f"{row['opening_seconds'] * 1000:.1f} ms | {row['planning_seconds']:.1f} s | "
            f"{row['microseconds_a_random_pair']:.0f} µs |"
        )


if __name__ == "__main__":
    main()
