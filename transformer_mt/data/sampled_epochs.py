"""Epochs whose pieces are drawn anew, each an id store of its own, written ahead by processes of low priority.

A sampled epoch has the same pairs in the same places as the corpus, so that its plan stays a pure function of lengths
and no update exceeds its budget. The pieces of a pair depend on (seed, epoch, number of the pair) only. While one epoch
is trained on the processes write the next, a shard at a time; what they have not begun when it is needed, the run
writes itself.

They are not those of `system.processes`: these are forks, and the work is lost with one that dies. Here that costs no
more than the shard that it was at, and what the others have written is left to a run that goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing.connection
import os
import random
import signal
import threading
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.config.sections import BatchConfig, Config
from transformer_mt.data.checksums import Checksums, damage, read_note, write_note
from transformer_mt.data.preparing import too_long
from transformer_mt.data.store import SIDES, IdStore, finish_store, write_places, write_side
from transformer_mt.errors import RunError
from transformer_mt.system.console import Tell
from transformer_mt.system.directories import exchange, remove_directory, unfinished
from transformer_mt.system.processes import end_with_parent, num_cores
from transformer_mt.system.whole_files import write_error
from transformer_mt.text.subword_sampling import Sampler
from transformer_mt.text.vocabulary import EOS_ID

_FORMAT = 2  # of the draws too: another one, and a run that goes on would see other pieces
_CHUNK_PAIRS = 8192  # pairs read at once
_LOWEST_PRIORITY = 19
_MOST_ASKED = 8  # epochs of a worker that lags behind: some hundred requests would fill its pipe, and block the run


@dataclass(frozen=True)
class _Job:
    """What the pieces of all epochs depend on."""

    corpus: Path
    samplers: tuple[Sampler | None, Sampler | None]
    clean: CleanConfig
    batch: BatchConfig
    seed: int


class SampledEpochs:
    """The sampled epochs of a run, in a directory of its own, and the processes that write them. For rank 0."""

    def __init__(
        self, store: IdStore, samplers: tuple[Sampler | None, Sampler | None], config: Config, directory: Path
    ) -> None:
        self._store, self._directory = store, directory
        self._job = _Job(store.directory, samplers, config.data.clean, config.batch, config.train.seed)
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._asked: dict[Connection, list[int]] = {}  # what each worker has not answered yet
        self._building: int | None = None  # by the workers

    def make(self, epoch: int, tell: Tell) -> Path:
        """Return the directory of an epoch's store, made where it is not there or damaged; all others are deleted.

        Raises:
            RunError: it cannot be written, or is damaged again.
        """
        target = self._path(epoch)
        try:
            if target.exists() and (reason := damage(target)) is not None:
                tell(f"epoch {epoch + 1}: {target} is damaged ({reason}); drawing its pieces anew")
                remove_directory(target)
            if not target.exists():
                self._finish(epoch, tell)
                if (reason := damage(target)) is not None:
                    raise RunError(f"{target}: damaged while it was made ({reason}); check the disk and resume")
            for path in self._directory.iterdir():
                if path != target:
                    remove_directory(path)
        except OSError as error:
            raise write_error(target, error) from error
        return target

    def start(self, epoch: int) -> None:
        """Let the processes write an epoch.

        Raises:
            RunError: there is no place to write it.
        """
        building = unfinished(self._path(epoch))
        try:
            remove_directory(building)
            building.mkdir(parents=True)
        except OSError as error:
            raise write_error(building, error) from error
        if not self._workers:
            context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and other threads' locks
            for _ in range(min(num_cores(), len(self._store.shard_sizes))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(self._job, theirs), daemon=True)
                process.start()
                theirs.close()
                self._workers.append((process, ours))
        for _, connection in self._workers:
            with contextlib.suppress(OSError, EOFError):  # it has died
                asked = self._asked.setdefault(connection, [])
                while connection.poll():
                    asked.remove(connection.recv())
                if len(asked) < _MOST_ASKED:
                    connection.send((epoch, building))
                    asked.append(epoch)
        self._building = epoch

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for process, connection in self._workers:
            process.kill()
            process.join()
            connection.close()
        self._workers.clear()
        self._asked.clear()

    def _finish(self, epoch: int, tell: Tell) -> None:
        """Make an epoch complete, with the hands of this process too."""
        started = time.monotonic()
        is_ahead = self._building == epoch
        if not is_ahead:
            tell(f"epoch {epoch + 1}: drawing the pieces of {len(self._store):,} pairs")
            self.start(epoch)
        target = self._path(epoch)
        building = unfinished(target)
        _write_shards(self._job, self._store, epoch, building)
        shards = range(len(self._store.shard_sizes))
        busy = [connection for connection, asked in self._asked.items() if epoch in asked]
        while busy and not all(_note_of(building, shard).exists() for shard in shards):
            for connection in multiprocessing.connection.wait(busy):
                assert isinstance(connection, Connection)
                try:
                    answer = connection.recv()
                    self._asked[connection].remove(answer)
                except (EOFError, OSError):  # it was killed, for want of memory perhaps
                    answer = epoch
                if answer == epoch:
                    busy.remove(connection)
        for shard in shards:
            if not _note_of(building, shard).exists():  # where a process failed; here its reason is told, if it lasts
                _write_shard(self._job, self._store, epoch, building, shard)
        files: Checksums = {}
        for shard in shards:
            try:
                files |= read_note(_note_of(building, shard))["files"]
            except ValueError as error:
                raise RunError(f"{building}: shard {shard} is damaged ({error}); check the disk and resume") from None
        finish_store(building, {**self._store.meta, "fingerprint": target.name}, files)
        exchange(building, target)
        self._building = None
        seconds = time.monotonic() - started
        if is_ahead and seconds >= 1:
            tell(f"epoch {epoch + 1}: waited {seconds:.0f} s for its pieces: drawing takes longer than training")

    def _path(self, epoch: int) -> Path:
        """Return the directory of an epoch; with other settings it has another name."""
        job = self._job
        pieces = [None if sampler is None else sampler.fingerprint for sampler in job.samplers]
        src_budget, tgt_budget = job.batch.budget
        limits = [job.clean.model_dump(), tgt_budget, src_budget]
        key = json.dumps([_FORMAT, self._store.fingerprint, pieces, limits, job.seed])
        return self._directory / f"{epoch:05d}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _work(job: _Job, connection: Connection) -> None:
    """Write the shards of one epoch after the other, in a process of its own, until the run ends."""
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
            _write_shards(job, store, epoch, directory)
        connection.send(epoch)


def _write_shards(job: _Job, store: IdStore, epoch: int, directory: Path) -> None:
    """Write all shards that no other process has begun."""
    for shard in range(len(store.shard_sizes)):
        try:
            (directory / f"{shard:05d}.claim").touch(exist_ok=False)
        except FileExistsError:
            continue
        _write_shard(job, store, epoch, directory, shard)


def _write_shard(job: _Job, store: IdStore, epoch: int, directory: Path, shard: int) -> None:
    """Draw the pieces of one shard's pairs and write them, the note that makes it whole last."""
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
                sides[0] if src_sampler is None else src_sampler.sample(sides[0], generator.random),
                sides[1] if tgt_sampler is None else tgt_sampler.sample(sides[1], generator.random),
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
    write_note(_note_of(directory, shard), {"files": files})


def _note_of(directory: Path, shard: int) -> Path:
    """Return the path of the last of a shard's files, with which it is whole."""
    return directory / f"{shard:05d}.json"
