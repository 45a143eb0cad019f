"""What a model looks at in a sentence and its translation: the weights of one forced pass, by pieces and by words.

Shapes: Y layers, H heads, L positions of queries, M positions of keys, Q words of queries, W words of keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from transformer_mt.decoding.fitting import in_halves
from transformer_mt.errors import InputError
from transformer_mt.model.attention import AttentionWeights
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.processes import ONE_AT_A_TIME
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, SPECIALS, UNK_ID
from transformer_mt.text.words import Word, words_of

# Tokens of a side: the weights of one head are 4 MB then. Of shorter pairs so many at once that theirs are no more
# than a few times these.
LONGEST_SHOWN = 1024


@dataclass(frozen=True)
class Positions:
    """What stands along one side of a table of weights."""

    pieces: list[str]
    words: list[Word]

    @classmethod
    def of(cls, ids: Sequence[int], tokenizer: Tokenizer) -> Positions:
        pieces = tokenizer.pieces_of(ids)
        symbols = {*SPECIALS, *tokenizer.tags} - {SPECIALS[UNK_ID]}
        return cls(pieces, words_of(pieces, symbols))


class AttentionMap(NamedTuple):
    """One of the three uses of attention in one sentence pair, in all layers and heads."""

    queries: Positions
    keys: Positions
    weights_YHLM: Tensor

    def of_words(self) -> Tensor:
        """Return how much each word looks at each word (Y, H, Q, W).

        What a word's pieces get is added up, what they give is averaged, so that each word gives 1 in all.
        """
        parts_QL = _membership(self.queries.words, self.weights_YHLM)
        parts_WM = _membership(self.keys.words, self.weights_YHLM)
        return (parts_QL / parts_QL.sum(1, keepdim=True)) @ self.weights_YHLM @ parts_WM.T


class AttentionMaps(NamedTuple):
    """All three, None where the model has no such use.

    ``encoder``: from the source ([tags] pieces </s>) to itself. ``decoder``: from the decoder's input (<s> pieces) to
    itself, up to each position. ``cross``: from what is predicted (pieces </s>) to the source.
    """

    encoder: AttentionMap | None
    decoder: AttentionMap | None
    cross: AttentionMap | None


def attention_maps(
    model: EncoderDecoder, tokenizers: Tokenizers, src_ids: Sequence[int], tgt_ids: Sequence[int]
) -> AttentionMaps:
    """Return what a model looks at in one sentence pair, given as ids that each end in </s>, the source's tags first.

    Raises:
        InputError: a side has more than `LONGEST_SHOWN` ids, or more than the model has learned positions.
    """
    [(_, weights)] = forced_weights(model, [src_ids], [tgt_ids])
    src, tgt = Positions.of(src_ids, tokenizers.src), Positions.of(tgt_ids, tokenizers.tgt)
    tgt_in = Positions.of([BOS_ID, *tgt_ids[:-1]], tokenizers.tgt)
    sides = ((src, src), (tgt_in, tgt_in), (tgt, src))
    return AttentionMaps(
        *(None if own is None else AttentionMap(*side, own) for side, own in zip(sides, weights, strict=True))
    )


def forced_weights(
    model: EncoderDecoder, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]]
) -> Iterator[tuple[int, AttentionWeights]]:
    """Yield each pair's number and its weights (Y, H, L, M), on the CPU, in an order of its own and bounded memory.

    Args:
        src, tgt: ids, each with its ``</s>``.

    Raises:
        InputError: a side has more than `LONGEST_SHOWN` ids, or more than the model has learned positions.
    """
    lengths = [max(len(one), len(other)) for one, other in zip(src, tgt, strict=True)]
    if (longest := max(lengths, default=0)) > LONGEST_SHOWN:
        raise InputError(f"{longest} tokens in a sentence: attention is shown for at most {LONGEST_SHOWN}; split it")
    device = model.src_embed.weight.device
    order = sorted(range(len(src)), key=lambda i: -lengths[i])
    while order:
        rows = LONGEST_SHOWN**2 // lengths[order[0]] ** 2
        batch, order = order[:rows], order[rows:]
        with ONE_AT_A_TIME:
            found = in_halves(lambda some: _weights(model, src, tgt, some), batch, device)
        yield from zip(batch, found, strict=True)


def _weights(
    model: EncoderDecoder, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], pairs: Sequence[int]
) -> list[AttentionWeights]:
    """Return the weights of some pairs, all at once, each without its padding."""
    batch = collate([src[i] for i in pairs], [tgt[i] for i in pairs]).to(model.src_embed.weight.device)
    of_all = [None if one is None else one.cpu() for one in model.attention_weights(batch)]
    return [
        AttentionWeights(
            *(
                None if weights is None else weights[:, row, :, : len(queries), : len(keys)]
                for weights, queries, keys in zip(
                    of_all, (src[i], tgt[i], tgt[i]), (src[i], tgt[i], src[i]), strict=True
                )
            )
        )
        for row, i in enumerate(pairs)
    ]


def _membership(words: Sequence[Word], like: Tensor) -> Tensor:
    """Return 1 where a piece belongs to a word, else 0: a matrix of words by pieces."""
    matrix = torch.zeros(len(words), words[-1].pieces.stop, dtype=like.dtype)
    for number, word in enumerate(words):
        matrix[number, word.pieces.start : word.pieces.stop] = 1
    return matrix
