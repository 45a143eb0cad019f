"""What a corpus consists of, and all that works on text passes on."""

from __future__ import annotations

from typing import NamedTuple


class SentencePair(NamedTuple):
    """A sentence and its translation."""

    src: str
    tgt: str
