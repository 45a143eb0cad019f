"""Epochs whose pieces are drawn anew, written ahead by processes of their own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.config.sections import BatchConfig
from transformer_mt.data.checksums import Checksums, write_note
from transformer_mt.data.preparing import too_long
from transformer_mt.data.store import SIDES, IdStore, write_places, write_side
from transformer_mt.system.processes import end_with_parent
from transformer_mt.text.subword_sampling import SubwordSampler
from transformer_mt.text.vocabulary import EOS_ID

FORMAT = 2  # of the draws too: another one, and a run that goes on would see other pieces


_CHUNK_PAIRS = 8192  # pairs read at once


_LOWEST_PRIORITY = 19


@dataclass(frozen=True)
class Job:
    """What the pieces of all epochs depend on."""

    corpus: Path
    samplers: tuple[SubwordSampler, SubwordSampler]
    clean: CleanConfig
    batch: BatchConfig
    seed: int


def work(job: Job, connection: Connection) -> None:
    """A process of its own: write the shards of one epoch after the other, until the run ends."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal they go to all; the run ends its processes itself
        signal.signal(number, signal.SIG_IGN)
    os.nice(_LOWEST_PRIORITY)
    threading.Thread(target=end_with_parent, daemon=True).start()
    store = IdStore(job.corpus)
    while True:
        try:
            epoch, directory = connection.recv()
        except EOFError:
            return
        with contextlib.suppress(Exception):  # the run will meet it itself, and tell it
            write_shards(job, store, epoch, directory)
        connection.send(epoch)


def write_shards(job: Job, store: IdStore, epoch: int, directory: Path) -> None:
    """Write all shards that no other process has begun."""
    for shard in range(len(store.shard_sizes)):
        try:
            (directory / f"{shard:05d}.claim").touch(exist_ok=False)
        except FileExistsError:
            continue
        write_shard(job, store, epoch, directory, shard)


def write_shard(job: Job, store: IdStore, epoch: int, directory: Path, shard: int) -> None:
    src_sampler, tgt_sampler = job.samplers
    first = sum(store.shard_sizes[:shard])
    end = first + store.shard_sizes[shard]
    ids = {side: array("I") for side in SIDES}
    offsets = {side: array("q", [0]) for side in SIDES}
    generator = random.Random()
    for start in range(first, end, _CHUNK_PAIRS):
        pairs = np.arange(start, min(start + _CHUNK_PAIRS, end))
        for pair, src, tgt in zip(pairs.tolist(), store.get("src", pairs), store.get("tgt", pairs), strict=True):
            # Python promises the same numbers for such a seed in all versions. Seeds have no largest value.
            generator.seed(((job.seed << 32 | epoch) << 64) | pair)
            sides = src[:-1].tolist(), tgt[:-1].tolist()
            sampled = (
                src_sampler.sample(sides[0], generator.random),
                tgt_sampler.sample(sides[1], generator.random),
            )
            # Which pairs there are must not depend on the epoch: cleaning has seen the pieces that are not sampled.
            if too_long(len(sampled[0]), len(sampled[1]), job.clean, job.batch) is not None:
                sampled = sides
            for side, pieces in zip(SIDES, sampled, strict=True):
                ids[side].extend(pieces)
                ids[side].append(EOS_ID)
                offsets[side].append(len(ids[side]))
    files: Checksums = {}
    for side in SIDES:
        flat = np.frombuffer(ids[side], dtype=np.uintc).astype(store.dtype)
        files |= write_side(directory, shard, side, flat, np.frombuffer(offsets[side], dtype=np.int64))
    files |= write_places(directory, shard, store.places(shard))
    write_note(note_of(directory, shard), {"files": files})


def note_of(directory: Path, shard: int) -> Path:
    """The last of a shard's files."""
    return directory / f"{shard:05d}.json"
