"""The epochs of a run: which updates each of them has, in which order, and when the sources get other weights.

Every epoch sees the corpus as it is or, with subword sampling, a store of its own (see `sampled_epochs`), which rank 0
makes and the other ranks find made.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.sections import Config
from transformer_mt.data import batching
from transformer_mt.data.batching import Cursor, Lengths, Pairs, Part
from transformer_mt.data.sampled_epochs import SampledEpochs
from transformer_mt.data.store import IdStore
from transformer_mt.errors import InputError
from transformer_mt.system.console import Tell
from transformer_mt.system.directories import remove_directory
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.subword_sampling import Sampler


def source_weights(data: DataConfig, store: IdStore) -> list[list[float]]:
    """Return the weight of each source, for each stage of the training (or for the only one).

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


def corpus_fingerprint(data: DataConfig, store: IdStore) -> str:
    """Return 16 digits that stand for what a run is trained on and how often.

    They depend on the ids, on which source these are of, and on the weights of the sources.
    """
    facts = [store.fingerprint, store.source_sizes, source_weights(data, store)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def stage_ends(data: DataConfig) -> list[int]:
    """Return the updates after which each stage but the last has ended."""
    return list(itertools.accumulate(stage.steps for stage in data.stages if stage.steps is not None))


def plan(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    parts: Sequence[Part],
    weights: Sequence[float],
    config: Config,
    epoch: int,
) -> Iterator[list[Pairs]]:
    """Yield the updates of an epoch as arrays of pair numbers, window by window; see `batching.plan_windows`."""
    max_source_tokens, max_tokens = config.batch.budget
    return batching.plan_windows(
        src_lengths,
        tgt_lengths,
        parts,
        weights,
        seed=config.train.seed,
        epoch=epoch,
        max_tokens=max_tokens,
        max_source_tokens=max_source_tokens,
    )


class Epochs:
    """The epochs of a run, one after the other. On several ranks, all of them call the same methods."""

    def __init__(
        self,
        store: IdStore,
        samplers: tuple[Sampler | None, Sampler | None] | None,
        config: Config,
        directory: Path,
        ranks: Ranks,
    ) -> None:
        """
        Args:
            store: the corpus.
            samplers: of source and target; None for the corpus as it is in every epoch.
            directory: for sampled epochs, of this run alone. Whatever else is in it is deleted.
        """
        self._store, self._directory, self._ranks = store, directory, ranks
        self._config = config
        self.weights = source_weights(config.data, store)
        self._stage_ends = stage_ends(config.data)
        self._sampled = None if samplers is None else SampledEpochs(store, samplers, config, directory)
        self._opened: tuple[int, IdStore] | None = None

    def open(self, epoch: int, tell: Tell) -> IdStore:
        """Return one epoch's store, where it is not there yet after making it; those of other epochs are deleted.

        Raises:
            RunError: there is no place to write it.
        """
        if self._opened is None or (self._sampled is not None and self._opened[0] != epoch):
            store = self._store
            if self._sampled is not None:
                # The other ranks have done with the epoch before when they come here.
                directory = self._sampled.make(epoch, tell) if self._ranks.is_first else None
                store = IdStore(self._ranks.broadcast(directory, patiently=True))
            self._opened = epoch, store
        return self._opened[1]

    def updates(self, cursor: Cursor, step: int, tell: Tell) -> Iterator[tuple[Cursor, Pairs, IdStore]]:
        """Yield (cursor of the update after this one, pairs of this one, their epoch's store), without end.

        ``step``: updates done so far. A stage begins with an epoch of its own.
        """
        stage = bisect.bisect(self._stage_ends, step)
        if cursor.update > 0 and stage != bisect.bisect(self._stage_ends, step - 1):
            cursor = Cursor(cursor.epoch + 1)
        while True:
            store = self.open(cursor.epoch, tell)
            if self._sampled is not None and self._ranks.is_first:
                self._sampled.start(cursor.epoch + 1)
            windows = self.plan(store, cursor.epoch, stage)
            for number, pairs in enumerate(itertools.chain.from_iterable(windows)):
                if bisect.bisect(self._stage_ends, step) != stage:
                    break
                if number >= cursor.update:
                    step += 1
                    yield Cursor(cursor.epoch, number + 1), pairs, store
            cursor, stage = Cursor(cursor.epoch + 1), bisect.bisect(self._stage_ends, step)

    def plan(self, store: IdStore, epoch: int, stage: int = 0) -> Iterator[list[Pairs]]:
        """Yield the updates of an epoch in a stage of the training, window by window."""
        src_lengths, tgt_lengths = store.lengths("src"), store.lengths("tgt")
        return plan(src_lengths, tgt_lengths, store.parts(), self.weights[stage], self._config, epoch)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        if self._sampled is not None:
            self._sampled.close()

    def remove(self) -> None:
        """Delete all sampled epochs: the run is over."""
        self.close()
        if self._ranks.is_first:
            remove_directory(self._directory)
