"""Some updates on somebody's text and machine, for the time that they take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np
import torch

from transformer_mt.config.sections import Config
from transformer_mt.data.batching import Part, cut_update
from transformer_mt.data.epochs import plan
from transformer_mt.data.preparing import too_long
from transformer_mt.errors import InputError, is_out_of_memory
from transformer_mt.model.kinds import new_model
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate
from transformer_mt.system.allocator import keep_freed_memory
from transformer_mt.system.device import local_device, prepare_determinism, resolve_precision
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.update import Updater

_SECONDS = 2.0  # of forward and backward passes
# Positions of a forward pass: what takes less than seconds in any model. A GPU is not busy with fewer.
_MICRO_TOKENS = {"cpu": 4096, "cuda": 32768}

Ids = Sequence[Sequence[int]]


def seconds_per_update(config: Config, tokenizers: Tokenizers, src: Ids, tgt: Ids) -> float | None:
    """Return how long an update of a model takes on the device that training will use, or None if it does not fit.

    On a CPU that is without what other programs take, so that a busy moment makes no other choice.

    Args:
        src: sentences of the corpus as ids, without ``</s>``.
        tgt: their translations.

    Raises:
        InputError: no pair is short enough to train on.
    """
    kept = [
        ([*one, EOS_ID], [*other, EOS_ID])
        for one, other in zip(src, tgt, strict=True)
        if one and other and too_long(len(one), len(other), config.data.clean, config.batch) is None
    ]
    if not kept:
        clean = config.data.clean
        raise InputError(
            f"all pairs have more than {clean.max_src_tokens} or {clean.max_tgt_tokens} tokens on a side; one sentence "
            "a line is expected, look at the line ends of the files"
        )
    src, tgt = zip(*kept, strict=True)
    prepare_determinism()
    device = local_device()
    precision = resolve_precision(config.train.precision, device)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    keep_freed_memory()
    try:
        model = new_model(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        return _seconds(Updater(model.to(device).train(), config, device, Ranks()), config, src, tgt)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _seconds(updater: Updater, config: Config, src: Ids, tgt: Ids) -> float:
    """Return the seconds that passes take, by labels, and the update of the weights."""
    src_lengths, tgt_lengths = (np.array([len(ids) for ids in side], dtype=np.int32) for side in (src, tgt))
    updates = next(plan(src_lengths, tgt_lengths, [Part(0, 0, len(src))], [1.0], config, epoch=0))
    micro_tokens = min(config.batch.micro_tokens or 1 << 30, _MICRO_TOKENS[updater.device.type])
    batches = [
        collate([src[i] for i in pairs], [tgt[i] for i in pairs], ROWS_MULTIPLE)
        for update in updates[:100]
        for pairs in cut_update(update, src_lengths, tgt_lengths, num_ranks=1, micro_tokens=micro_tokens)[0]
    ]
    updater.begin()
    _add(updater, batches[0])  # the first of its kind is slower
    updater.finish(1)
    updater.begin()
    # This thread's own time stands still while another program has its core, or that of a thread it waits for.
    clock = time.thread_time if updater.device.type == "cpu" else time.monotonic
    ends = time.monotonic() + _SECONDS
    started = clock()
    num_labels = 0
    for batch in itertools.cycle(batches):
        num_labels += _add(updater, batch)
        if time.monotonic() > ends:
            break
    passed = clock()
    updater.finish(2)
    _wait(updater.device)
    finished = clock()
    mean_labels = float(np.mean([tgt_lengths[update].sum() for update in updates]))
    return (passed - started) / num_labels * mean_labels + finished - passed


def _add(updater: Updater, batch: Batch) -> int:
    updater.add(batch, batch.num_labels)
    _wait(updater.device)
    return batch.num_labels


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
