"""Which words of a source each word of its translation comes from, read from a model's attention.

The weights are those of one forced pass over the finished translation (`forced_weights`), in float32 whatever search
computes in.

Shapes: L pieces of a translation, M of its source with tags and </s>, Q and W words of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transformer_mt.decoding.attention_maps import LONGEST_SHOWN, forced_weights
from transformer_mt.decoding.word_links import Links
from transformer_mt.errors import InputError
from transformer_mt.model.attention import AttentionWeights
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.text.tokenizer import Tokenizer
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.text.words import word_numbers

# Square of the longest side × pairs of a pass: as few as keep the products busy.
_BATCH_CELLS = 1 << 18


def check_model(model: EncoderDecoder, longest: int) -> None:
    """Refuse what cannot be aligned, before anything is translated.

    Args:
        longest: source ids that are translated at once, with what a translation may have beyond.

    Raises:
        InputError: a model without attention over its source, or pairs longer than `LONGEST_SHOWN`.
    """
    [(_, weights)] = forced_weights(model, [[EOS_ID]], [[EOS_ID]])
    if weights.cross is None:
        raise InputError("align: the model has no attention over its source to read word alignments from")
    if longest > LONGEST_SHOWN:
        raise InputError(
            f"align: sentences of up to {longest} tokens are translated at once (search.max_source_tokens and "
            f"search.max_extra_tokens), {LONGEST_SHOWN} can be aligned; lower search.max_source_tokens"
        )


def align_pairs(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
) -> list[Links]:
    """Return the links of each pair, with words of the translation as its ids alone spell it.

    Args:
        tokenizer: of the target.
        pairs: a source's ids, the number of the word that each belongs to (or `NO_WORD`), a translation's ids.
    """
    links: list[Links] = [[] for _ in pairs]
    lengths = [max(len(src), len(tgt)) for src, _, tgt in pairs]
    filled = [i for i, (_, words, tgt) in enumerate(pairs) if tgt and max(words) >= 0]
    order = sorted(filled, key=lambda i: -lengths[i])
    while order:
        num_pairs = max(1, _BATCH_CELLS // lengths[order[0]] ** 2)
        batch, order = order[:num_pairs], order[num_pairs:]
        for number, weights in forced_weights(model, [pairs[i][0] for i in batch], [pairs[i][2] for i in batch]):
            _, src_words, tgt = pairs[batch[number]]
            text, starts = tokenizer.decode(tgt), tokenizer.starts_decoded(tgt)
            if text.strip():
                links[batch[number]] = links_of(alignment_weights(weights), src_words, word_numbers(text, starts))
    return links


def alignment_weights(weights: AttentionWeights) -> Tensor:
    """Return how much each piece of a translation comes from each source position (L, M).

    It is what the decoder's last layer looks at while it writes the piece, in the mean of its heads.
    """
    assert weights.cross is not None
    return weights.cross[-1].mean(0)


def links_of(weights_LM: Tensor, src_words: Sequence[int], tgt_words: Sequence[int]) -> Links:
    """Link each word of a source to the word of its translation that comes from it most.

    The other way round, words that come from nowhere else would be linked to where attention rests: at full stops.
    Of a word of the translation its first piece counts: the next ones follow from that, and look anywhere.

    Args:
        weights_LM: as of `alignment_weights`.
        src_words: the word of each source position, or `NO_WORD`; one word at least.
        tgt_words: the word of each piece of the translation, ascending.
    """
    firsts = [row for row, word in enumerate(tgt_words) if row == 0 or word != tgt_words[row - 1]]
    words = torch.tensor(src_words)
    linked, columns = words[words >= 0].unique(return_inverse=True)
    weights_QW = weights_LM.new_zeros(len(firsts), len(linked)).index_add_(
        1, columns, weights_LM[firsts][:, words >= 0]
    )
    rows = weights_QW.argmax(0).tolist()
    return [(i, tgt_words[firsts[row]]) for i, row in zip(linked.tolist(), rows, strict=True)]
