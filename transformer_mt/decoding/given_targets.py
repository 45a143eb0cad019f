"""Scores of translations that are given: one forced pass of the training model, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from transformer_mt.data.batching import cut_update
from transformer_mt.decoding.fitting import in_halves
from transformer_mt.errors import InputError
from transformer_mt.model.layout import collate
from transformer_mt.model.loss import label_log_probs
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.processes import ONE_AT_A_TIME

# Tokens of a side that are scored: attention of one such pair takes some 70 MB a head, and as much again on its way.
# Pairs beyond a quarter of that are scored one by one, so that no batch takes more.
LONGEST_SCORED = 4096

LINE_END = re.compile(r"\r?\n")  # of a text, as in files


def line_pairs(source: str, target: str, number: int) -> list[tuple[str, str]]:
    """Return the lines of two texts, without the white space around them; most texts have one, a blank source has none.

    Raises:
        InputError: the texts have not equally many lines, or a blank line's target is none.
    """
    if not source.strip():
        return []
    sources, targets = ([line.strip() for line in LINE_END.split(text.strip())] for text in (source, target))
    if len(sources) != len(targets):
        raise InputError(
            f"line {number}: {len(sources)} lines in the source, {len(targets)} in the target; each line of a text is "
            "scored by itself: give both the same line ends, or put spaces in their places"
        )
    pairs = list(zip(sources, targets, strict=True))
    if any(not one and other for one, other in pairs) and len(pairs) > 1:
        raise InputError(f"line {number}: in its text, a blank line has a target that is not; take one of the two away")
    return pairs


def check_lengths(
    src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], numbers: Sequence[int], max_positions: int | None
) -> None:
    """Refuse to score a pair that is too long, by its line's number.

    Args:
        max_positions: what the model has learned, if it has learned positions.

    Raises:
        InputError: a side has more tokens than that, or than `LONGEST_SCORED`.
    """
    for number, one, other in zip(numbers, src, tgt, strict=True):
        longest = max(len(one), len(other))
        if max_positions is not None and longest > max_positions:
            raise InputError(
                f"line {number}: {longest} tokens, the model has learned {max_positions} positions; split the line"
            )
        if longest > LONGEST_SCORED:
            raise InputError(
                f"line {number}: {longest} tokens, at most {LONGEST_SCORED} of a side are scored; split the line"
            )


def log_probs(
    model: EncoderDecoder, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], micro_tokens: int
) -> list[float | None]:
    """Return the log-probability of each target given its source, by one forced pass over both.

    Args:
        src, tgt: ids, each with its ``</s>``.
        micro_tokens: padded positions of a batch.

    Returns:
        Sums over the target's ids, in nats; None where the source is nothing but its end.
    """
    scores: list[float | None] = [None] * len(src)
    filled = [i for i, ids in enumerate(src) if len(ids) > 1]
    alone = [i for i in filled if max(len(src[i]), len(tgt[i])) > LONGEST_SCORED // 4]
    together = np.array(sorted({*filled} - {*alone}), dtype=np.int64)
    lengths = [np.array([len(ids) for ids in side], dtype=np.int32) for side in (src, tgt)]
    [batches] = cut_update(together, *lengths, num_ranks=1, micro_tokens=micro_tokens)
    for pairs in [*batches, *(np.array([i]) for i in alone)]:
        with ONE_AT_A_TIME, torch.inference_mode():  # the mode below is the model's, in all threads
            was_training = model.training
            model.eval()
            try:
                sums = in_halves(
                    lambda some: _sums(model, src, tgt, some), pairs.tolist(), model.src_embed.weight.device
                )
            finally:
                model.train(was_training)
        for i, score in zip(pairs, sums, strict=True):
            scores[i] = score
    return scores


def _sums(
    model: EncoderDecoder, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], pairs: Sequence[int]
) -> list[float]:
    """Return the log-probabilities of some pairs, all at once: one read from the device."""
    batch = collate([src[i] for i in pairs], [tgt[i] for i in pairs]).to(model.src_embed.weight.device)
    hidden_PD = model.decode(batch.tgt_in_P, batch.tgt, model.encode(batch.src_ids_P, batch.src))
    logp_N = label_log_probs(*model.factors_of_logits(hidden_PD), batch.labels_N).cpu()
    return [float(own.double().sum()) for own in logp_N.split([len(tgt[i]) for i in pairs])]
