"""Training text without what is held out: pairs of which a side stands in the validation or test text are left out.

So a corpus need not be written again without the pairs that scores are made of, and text that was held out by others
leaks nothing.
"""

from __future__ import annotations

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.data.duplicate_keys import text_key
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.lines import TOO_LONG

HeldOut = frozenset[int]  # keys of both sides of the held-out pairs


def held_out_sides(data: DataConfig) -> HeldOut | None:
    """Return the keys of all sides of ``data.valid`` and ``data.test``; None where ``data.clean`` does not ask for it.

    They are in memory, some 100 bytes each. What a model makes of a text is nobody's to hold out, and not looked at.

    Raises:
        InputError: text that cannot be read.
    """
    if not data.clean.drop_held_out:
        return None
    sources = [source for source in (*data.valid, *data.test) if source.model is None]
    pairs = (pair for source in sources for pair in read_pairs(source, *data.languages(source)))
    return frozenset(text_key(side, "near") for pair in pairs for side in pair if side.strip() and side != TOO_LONG)


def is_held_out(pair: SentencePair, held_out: HeldOut) -> bool:
    """Return whether a side of a pair is a held-out one, but for case, accents, digits and punctuation."""
    return text_key(pair.src, "near") in held_out or text_key(pair.tgt, "near") in held_out
