"""What a translator asks of whatever searches: source ids in, translations as ids out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import SearchConfig
from transformer_mt.decoding.word_links import Links
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.system.console import Tell
from transformer_mt.text.tokenizer import Tokenizers

if TYPE_CHECKING:
    from transformer_mt.decoding.attention_maps import AttentionMaps


class SourcePart(NamedTuple):
    """What is searched as one: a line, or a part of one."""

    src: list[int]  # with tags and </s>
    prefix: list[int]  # of the translation
    words: list[int] | None = None  # of the line, that each id belongs to: where alignments are asked for
    n_best: int | None = None  # hypotheses, where not `search.n_best`; the same for all that are searched together


class Found(NamedTuple):
    """What was found for a part: its translations, best first, and of each the links and the log-probabilities of its
    ids, where these are asked for."""

    hypotheses: list[Hypothesis]
    links: list[Links]
    log_probs: Sequence[list[float]] = ()


class Pending(Protocol):
    """A search that has begun."""

    def result(self) -> list[Found]:
        """Return what was found for each part; may be called once."""

    def drop(self) -> None:
        """Forget it: nobody will ask for the result any more."""


class Work(NamedTuple):
    """How the chunks of a text are searched."""

    submit: Callable[[Sequence[SourcePart]], Pending]
    most_ahead: int  # chunks that are begun before the result of the first is asked for


def most_tokens(src: Sequence[int], config: SearchConfig, max_positions: int | None) -> int:
    """Return how many tokens, with </s>, a model's translation of a source may have."""
    return min(len(src) + config.max_extra_tokens, max_positions or sys.maxsize)


class Searcher(Protocol):
    """A model, or several, on whatever computes them."""

    max_positions: int | None  # ids that a side may have, </s> included; None: any number
    is_pytorch: bool
    num_at_once: int  # batches of different threads that it searches at the same time

    def begin(self, num_lines: int, *, on_all_cores: bool) -> Work:
        """Make ready for a text whose first chunk has so many lines.

        Args:
            on_all_cores: it may take all of them, where `search.workers` does not say otherwise; else one.
        """

    def most_tokens(self, part: SourcePart) -> int:
        """Return how many tokens, with </s>, the translation of a part may have."""

    def log_probs(self, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]]) -> list[list[float] | None]:
        """Return the log-probability of each id of each target, given its source; None for a blank source.

        Args:
            src, tgt: ids, each with its </s>.
        """

    def next_ids(self, src: list[int], prefix: list[int], count: int) -> list[tuple[int, float]]:
        """Return the likeliest ids after the first ones of a translation, best first, with their log-probabilities.

        Those that a translation may have, so that </s> is none of them.

        Args:
            src: ids, with </s>.
        """

    def check_alignable(self, longest: int) -> None:
        """Refuse parts with ``words`` where their links cannot be told; ``longest``: ids of a side at most."""

    def attention_maps(self, src: list[int], tgt: Sequence[int]) -> AttentionMaps:
        """Return what the first model looks at in a sentence and its translation, each with its </s>."""

    def close(self) -> None:
        """Let go of processes; they are started again when they are needed."""


class Loaded(Protocol):
    """MODEL, checked and read, and what using it takes to know."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> DecodingConfig: ...

    @property
    def tokenizers(self) -> Tokenizers: ...

    @property
    def longest_src_tokens(self) -> int:
        """The longest source that training saw, with </s>."""

    def searcher(self, config: SearchConfig, warn: Tell) -> Searcher:
        """Return it ready to search in this way.

        Raises:
            InputError: it cannot.
        """
