"""Scores of translations that are given, and of what might follow their beginnings: one forced pass of the training
model, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from transformer_mt.data.batching import cut_update
from transformer_mt.decoding.arguments import LONGEST_SCORED
from transformer_mt.decoding.fitting import in_halves
from transformer_mt.model.layout import collate
from transformer_mt.model.loss import label_log_probs
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.processes import ONE_AT_A_TIME
from transformer_mt.text.vocabulary import EOS_ID


def log_probs(
    model: EncoderDecoder, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], micro_tokens: int
) -> list[list[float] | None]:
    """Return the log-probability of each id of a target, given its source, by one forced pass over both.

    Args:
        src, tgt: ids, each with its ``</s>``.
        micro_tokens: padded positions of a batch.

    Returns:
        Of each target those of its ids, in nats; None where the source is nothing but its end.
    """
    scores: list[list[float] | None] = [None] * len(src)
    filled = [i for i, ids in enumerate(src) if len(ids) > 1]
    alone = [i for i in filled if max(len(src[i]), len(tgt[i])) > LONGEST_SCORED // 4]
    together = np.array(sorted({*filled} - {*alone}), dtype=np.int64)
    lengths = [np.array([len(ids) for ids in side], dtype=np.int32) for side in (src, tgt)]
    [batches] = cut_update(together, *lengths, num_ranks=1, micro_tokens=micro_tokens)
    for pairs in [*batches, *(np.array([i]) for i in alone)]:
        with _as_it_is_used(model):
            found = in_halves(
                lambda some: _at_once(model, src, tgt, some), pairs.tolist(), model.src_embed.weight.device
            )
        for i, of_pair in zip(pairs, found, strict=True):
            scores[i] = of_pair
    return scores


def next_ids(
    model: EncoderDecoder, src: list[int], prefix: Sequence[int], excluded_ids: Sequence[int], count: int
) -> list[tuple[int, float]]:
    """Return the likeliest ids after the first ones of a translation, best first, with their log-probabilities.

    Args:
        src: ids with their ``</s>``.
        excluded_ids: never among them; the others keep their probabilities.
    """
    with _as_it_is_used(model):
        batch = collate([src], [[*prefix, EOS_ID]]).to(model.src_embed.weight.device)
        log_probs_V = model.logits(batch)[len(prefix)].log_softmax(-1)
        log_probs_V[list(excluded_ids)] = -torch.inf
        best, ids = log_probs_V.topk(min(count, len(log_probs_V) - len(excluded_ids)))
    return list(zip(ids.tolist(), best.tolist(), strict=True))


@contextlib.contextmanager
def _as_it_is_used(model: EncoderDecoder) -> Iterator[None]:
    """Without dropout and gradients. The mode is the model's, in all threads."""
    with ONE_AT_A_TIME, torch.inference_mode():
        was_training = model.training
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


def _at_once(
    model: EncoderDecoder, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], pairs: Sequence[int]
) -> list[list[float]]:
    """Return those of some pairs: one read from the device."""
    batch = collate([src[i] for i in pairs], [tgt[i] for i in pairs]).to(model.src_embed.weight.device)
    hidden_PD = model.decode(batch.tgt_in_P, batch.tgt, model.encode(batch.src_ids_P, batch.src))
    logp_N = label_log_probs(*model.factors_of_logits(hidden_PD), batch.labels_N).cpu()
    return [own.tolist() for own in logp_N.split([len(tgt[i]) for i in pairs])]
