"""The corpus as each epoch sees it: always the same ids, or with subword sampling ids drawn anew.

A sampled epoch is an id store of its own in the run directory, with the same pairs in the same places as the corpus, so
that an epoch's plan stays a pure function of lengths and no update exceeds its budget. The pieces of a pair depend on
(seed, epoch, number of the pair) only. While one epoch is trained on, processes of low priority write the next; rank 0
leads them, and the other ranks find the store made.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import multiprocessing.connection
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.sections import Config
from transformer_mt.data import batching
from transformer_mt.data.batching import Cursor, Lengths, Pairs
from transformer_mt.data.checksums import Checksums, damage, read_note, remove_store
from transformer_mt.data.sampled_epochs import FORMAT, Job, note_of, work, write_shard, write_shards
from transformer_mt.data.store import IdStore, finish_store
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.ranks import Ranks
from transformer_mt.system.whole_files import write_error
from transformer_mt.text.subword_sampling import SubwordSampler

_MOST_ASKED = 8  # epochs of a worker that lags behind: some hundred requests would fill its pipe, and block the run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Epoch:
    """What one epoch's updates are made of."""

    store: IdStore
    src_lengths: Lengths
    tgt_lengths: Lengths


def source_weights(data: DataConfig, store: IdStore) -> list[list[float]]:
    """For each stage of the training (or for the only one) the weight of each source.

    With a temperature T a source of n pairs has a share of an epoch in proportion to n^(1/T), and an epoch has as many
    pairs as the corpus.

    Raises:
        InputError: a stage in which no pair is seen.
    """
    sizes = np.array(store.source_sizes, dtype=np.float64)
    if data.temperature is not None:
        shares = np.where(sizes > 0, sizes ** (1 / data.temperature), 0)
        return [(shares / shares.sum() * sizes.sum() / np.maximum(sizes, 1)).tolist()]
    stages = [data.weights(stage) for stage in range(len(data.stages))] or [data.weights()]
    for number, weights in enumerate(stages):
        if sizes @ np.array(weights) < 1:
            what = f"data.stages.{number}" if data.stages else "data.train"
            raise InputError(
                f"{what}: of the sources with a weight, cleaning has left less than a pair an epoch; raise the weights"
            )
    return stages


def fingerprint(data: DataConfig, store: IdStore) -> str:
    """Of what a run is trained on and how often: the ids, which source they are of, and the weights of the sources."""
    facts = [store.fingerprint, store.source_sizes, source_weights(data, store)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def stage_ends(data: DataConfig) -> list[int]:
    """The updates after which each stage but the last has ended."""
    return list(itertools.accumulate(stage.steps for stage in data.stages if stage.steps is not None))


class Epochs:
    """The epochs of a run, one after the other. On several ranks, all of them call the same methods."""

    def __init__(
        self,
        store: IdStore,
        samplers: tuple[SubwordSampler, SubwordSampler] | None,
        config: Config,
        place: Path,
        ranks: Ranks,
    ) -> None:
        """
        Args:
            store: the corpus.
            samplers: of source and target; None for the corpus as it is in every epoch.
            place: the directory for sampled epochs, of this run alone. Whatever else is in it is deleted.
        """
        self._store, self._place, self._ranks = store, place, ranks
        self._seed, self._batch = config.train.seed, config.batch
        self.weights = source_weights(config.data, store)
        self._stage_ends = stage_ends(config.data)
        self._job: Job | None = None
        if samplers is not None:
            self._job = Job(store.directory, samplers, config.data.clean, config.batch, config.train.seed)
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._asked: dict[Connection, list[int]] = {}  # what each worker has not answered yet
        self._building: int | None = None  # by the workers
        self._opened: tuple[int, Epoch] | None = None

    def open(self, epoch: int, tell: Tell) -> Epoch:
        """One epoch's data, where it is not there yet after making it; those of other epochs are deleted.

        Raises:
            RunError: no place to write it.
        """
        if self._opened is None or (self._job is not None and self._opened[0] != epoch):
            store = self._store if self._job is None else self._sampled(self._job, epoch, tell)
            self._opened = epoch, Epoch(store, store.lengths("src"), store.lengths("tgt"))
        return self._opened[1]

    def _sampled(self, job: Job, epoch: int, tell: Tell) -> IdStore:
        target = self._place / self._name(job, epoch)
        if self._ranks.is_first:
            try:
                if target.exists() and (reason := damage(target)) is not None:
                    tell(f"epoch {epoch + 1}: {target} is damaged ({reason}); drawing its pieces anew")
                    remove_store(target)
                if not target.exists():
                    self._finish(job, epoch, tell)
                    if (reason := damage(target)) is not None:
                        raise RunError(f"{target}: damaged while it was made ({reason}); check the disk and resume")
                for path in self._place.iterdir():
                    if path != target:
                        remove_store(path)
            except OSError as error:
                raise write_error(target, error) from error
        # The others have done with the epoch before when they come here.
        return IdStore(self._ranks.first_says(target, patiently=True))

    def updates(self, cursor: Cursor, step: int, tell: Tell) -> Iterator[tuple[Cursor, Pairs, Epoch]]:
        """Yield (cursor of the update after this one, pairs of this one, their epoch), without end.

        ``step``: updates done so far. A stage begins with an epoch of its own.
        """
        stage = bisect.bisect(self._stage_ends, step)
        if cursor.update > 0 and stage != bisect.bisect(self._stage_ends, step - 1):
            cursor = Cursor(cursor.epoch + 1)
        while True:
            epoch = self.open(cursor.epoch, tell)
            if self._job is not None and self._ranks.is_first:
                self._start(self._job, cursor.epoch + 1)
            windows = self.plan(epoch, cursor.epoch, stage)
            for number, pairs in enumerate(itertools.chain.from_iterable(windows)):
                if bisect.bisect(self._stage_ends, step) != stage:
                    break
                if number >= cursor.update:
                    step += 1
                    yield Cursor(cursor.epoch, number + 1), pairs, epoch
            cursor, stage = Cursor(cursor.epoch + 1), bisect.bisect(self._stage_ends, step)

    def plan(self, data: Epoch, epoch: int, stage: int = 0) -> Iterator[list[Pairs]]:
        """The updates of an epoch in a stage of the training, window by window."""
        return batching.plan_windows(
            data.src_lengths,
            data.tgt_lengths,
            data.store.parts(),
            self.weights[stage],
            seed=self._seed,
            epoch=epoch,
            max_tokens=self._batch.max_tokens,
            max_source_tokens=self._batch.max_source_tokens or self._batch.max_tokens,
        )

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for process, connection in self._workers:
            process.kill()
            process.join()
            connection.close()
        self._workers.clear()
        self._asked.clear()

    def remove(self) -> None:
        """Delete all sampled epochs: the run is over."""
        self.close()
        if self._ranks.is_first:
            remove_store(self._place)

    def _start(self, job: Job, epoch: int) -> None:
        """Let the processes write an epoch."""
        temporary = self._temporary(job, epoch)
        try:
            remove_store(temporary)
            temporary.mkdir(parents=True)
        except OSError as error:
            raise write_error(temporary, error) from error
        if not self._workers:
            context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and other threads' locks
            for _ in range(min(os.cpu_count() or 1, len(self._store.shard_sizes))):
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(job, theirs), daemon=True)
                process.start()
                theirs.close()
                self._workers.append((process, ours))
        for _, connection in self._workers:
            with contextlib.suppress(OSError, EOFError):  # it has died
                asked = self._asked.setdefault(connection, [])
                while connection.poll():
                    asked.remove(connection.recv())
                if len(asked) < _MOST_ASKED:
                    connection.send((epoch, temporary))
                    asked.append(epoch)
        self._building = epoch

    def _finish(self, job: Job, epoch: int, tell: Tell) -> None:
        """Make an epoch complete, with the hands of this process too."""
        started = time.monotonic()
        is_ahead = self._building == epoch
        if not is_ahead:
            tell(f"epoch {epoch + 1}: drawing the pieces of {len(self._store):,} pairs")
            self._start(job, epoch)
        temporary = self._temporary(job, epoch)
        write_shards(job, self._store, epoch, temporary)
        shards = range(len(self._store.shard_sizes))
        busy = [connection for connection, asked in self._asked.items() if epoch in asked]
        while busy and not all(note_of(temporary, shard).exists() for shard in shards):
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
            if not note_of(temporary, shard).exists():  # where a process failed; here its reason is told, if it lasts
                write_shard(job, self._store, epoch, temporary, shard)
        name = self._name(job, epoch)
        files: Checksums = {}
        for shard in shards:
            try:
                files |= read_note(note_of(temporary, shard))["files"]
            except ValueError as error:
                raise RunError(f"{temporary}: shard {shard} is damaged ({error}); check the disk and resume") from None
        finish_store(temporary, {**self._store.meta, "fingerprint": name}, files)
        temporary.rename(self._place / name)
        self._building = None
        seconds = time.monotonic() - started
        if is_ahead and seconds >= 1:
            tell(f"epoch {epoch + 1}: waited {seconds:.0f} s for its pieces: drawing takes longer than training")

    def _temporary(self, job: Job, epoch: int) -> Path:
        return self._place / f".{self._name(job, epoch)}.tmp"

    def _name(self, job: Job, epoch: int) -> str:
        """Of the epoch's directory; with other settings it is another."""
        pieces = [sampler.fingerprint for sampler in job.samplers]
        limits = [job.clean.model_dump(), job.batch.max_tokens, job.batch.max_source_tokens]
        key = json.dumps([FORMAT, self._store.fingerprint, pieces, limits, job.seed])
        return f"{epoch:05d}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
