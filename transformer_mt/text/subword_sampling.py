"""Subword regularisation: segmentations drawn at random, for training text.

- BPE-dropout (Provilkov et al. 2020, algorithm 1): at each step every possible merge of a word is dropped with
  probability p, and the first of the others in the order of merges is made; where all are dropped the word is done.
  SentencePiece's own sampling drops a merge once for all, which is another distribution for words of several merges.
- Unigram sampling (Kudo 2018, section 3.3, with l = ∞): P(x) ∝ Π p(x_i)^α over all segmentations x, by
  forward filtering and backward sampling.

The random numbers are the caller's, so that a draw depends on nothing else: SentencePiece's own generator is seeded
once a thread.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Protocol

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers

# What is remembered about words, in symbols: some 250 MB. Most words come again and again.
_MEMORY_SYMBOLS = 1 << 22

Random = Callable[[], float]  # uniform in [0, 1)


class Sampler(Protocol):
    """What draws the pieces of a text for an epoch."""

    fingerprint: str  # of all that they depend on besides the text

    def sample(self, ids: Sequence[int], random: Random) -> list[int]:
        """Return ids in place of others, drawn with as many numbers of ``random`` as it takes."""


def samplers(tokenizers: Tokenizers, config: TokenizerConfig) -> tuple[SubwordSampler, SubwordSampler] | None:
    """The source's and the target's sampler (one object twice where the vocabulary is shared); None without sampling.

    Raises:
        InputError: a model of another kind than the key that is set is for.
    """
    if config.bpe_dropout == 0 and config.unigram_alpha is None:
        return None
    src = SubwordSampler(tokenizers.src, config.bpe_dropout, config.unigram_alpha)
    if tokenizers.is_shared:
        return src, src
    return src, SubwordSampler(tokenizers.tgt, config.bpe_dropout, config.unigram_alpha)


class SubwordSampler:
    """Draws another segmentation of a segmented text.

    The text is cut where no piece reaches across: at spaces, and where else training kept pieces apart. Neither method
    could join anything there, so every such stretch is a word, drawn by itself. Pieces that are no ordinary text
    (bytes, symbols of the user, <unk>) stay as they are.
    """

    def __init__(self, tokenizer: Tokenizer, bpe_dropout: float, unigram_alpha: float | None) -> None:
        settings = f"{tokenizer.fingerprint} {bpe_dropout} {unigram_alpha}"
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]
        kind, pieces = tokenizer.pieces()
        scores = {piece.text: piece.score for piece in pieces if piece.is_normal}
        ids = {text: tokenizer.table[text] for text in scores if text in tokenizer.table}
        self._draw: Callable[[str, Random], list[int]]
        if unigram_alpha is None:
            if kind != "bpe":
                raise InputError(
                    f"tokenizer.bpe_dropout is for a BPE model, this is a {kind} model; set it to 0"
                    + (", and unigram_alpha instead" if kind == "unigram" else "")
                )
            self._draw = _BpeDropout(scores, ids, bpe_dropout)
        else:
            if kind != "unigram":
                raise InputError(
                    f"tokenizer.unigram_alpha is for a unigram model, this is a {kind} model; remove it"
                    + (", and set bpe_dropout instead" if kind == "bpe" else "")
                )
            self._draw = _UnigramSampling(scores, ids, unigram_alpha)
        self._texts = [""] * tokenizer.vocab_size  # of what may be segmented otherwise
        for text, i in ids.items():
            self._texts[i] = text
        self._neighbours = {text[i : i + 2] for text in scores for i in range(len(text) - 1)}

    def sample(self, ids: Sequence[int], random: Random) -> list[int]:
        """Ids that spell what ``ids`` spell, drawn with as many numbers of ``random`` as it takes."""
        sampled: list[int] = []
        word = ""
        for i in ids:
            text = self._texts[i]
            if word and text and word[-1] + text[0] in self._neighbours:
                word += text
                continue
            if word:
                sampled += self._draw(word, random)
            word = text
            if not text:
                sampled.append(i)
        if word:
            sampled += self._draw(word, random)
        return sampled


class _Split:
    """A state of the merging of a word."""

    __slots__ = ("ids", "merges", "symbols")

    def __init__(self, symbols: tuple[str, ...], scores: dict[str, float], ids: dict[str, int]) -> None:
        self.symbols = symbols
        # None where a symbol is not in the vocabulary, which may hold fewer pieces than SentencePiece's model.
        self.ids = [ids[symbol] for symbol in symbols] if all(symbol in ids for symbol in symbols) else None
        pairs = enumerate(itertools.pairwise(symbols))
        order = sorted((-scores[left + right], i) for i, (left, right) in pairs if left + right in scores)
        # Places where two symbols can be merged, the first in the order of merges first; then the state it leads to.
        self.merges: list[int | _Split] = [i for _, i in order]


class _BpeDropout:
    def __init__(self, scores: dict[str, float], ids: dict[str, int], dropout: float) -> None:
        self._scores, self._ids, self._dropout = scores, ids, dropout
        self._splits: dict[tuple[str, ...], _Split] = {}
        self._num_symbols = 0

    def __call__(self, word: str, random: Random) -> list[int]:
        first = split = self._split(tuple(word))
        while True:
            for number, merged in enumerate(split.merges):
                if random() >= self._dropout:
                    split = self._merge(split, number) if isinstance(merged, int) else merged
                    break
            else:  # all are dropped, or there is none
                break
        if split.ids is None:
            split = first
            while split.merges:
                split = self._merge(split, 0)
            assert split.ids is not None  # the segmentation that the word came with
        return split.ids

    def _merge(self, split: _Split, number: int) -> _Split:
        """The state after one of the possible merges."""
        merged = split.merges[number]
        if isinstance(merged, int):
            left, right = split.symbols[merged : merged + 2]
            merged = self._split((*split.symbols[:merged], left + right, *split.symbols[merged + 2 :]))
            split.merges[number] = merged
        return merged

    def _split(self, symbols: tuple[str, ...]) -> _Split:
        split = self._splits.get(symbols)
        if split is None:
            self._num_symbols += len(symbols)
            if self._num_symbols > _MEMORY_SYMBOLS:
                self._splits.clear()
                self._num_symbols = len(symbols)
            split = self._splits[symbols] = _Split(symbols, self._scores, self._ids)
        return split


class _UnigramSampling:
    def __init__(self, scores: dict[str, float], ids: dict[str, int], alpha: float) -> None:
        self._pieces = {text: (alpha * scores[text], i) for text, i in ids.items()}
        self._longest = max(map(len, self._pieces))
        self._lattices: dict[str, _Lattice] = {}
        self._num_symbols = 0

    def __call__(self, word: str, random: Random) -> list[int]:
        lattice = self._lattices.get(word)
        if lattice is None:
            self._num_symbols += len(word)
            if self._num_symbols > _MEMORY_SYMBOLS // 8:  # a place has several pieces
                self._lattices.clear()
                self._num_symbols = len(word)
            lattice = self._lattices[word] = self._filter(word)
        sampled: list[int] = []
        end = len(word)
        while end:
            cumulative, pieces = lattice[end]
            end, i = pieces[bisect(cumulative, random())]
            sampled.append(i)
        sampled.reverse()
        return sampled

    def _filter(self, word: str) -> _Lattice:
        """Forward filtering: for each place, which piece may end there, and with what probability it does."""
        log_sums = [0.0] + [-math.inf] * len(word)  # of all segmentations of the first 0, 1, … characters
        lattice: _Lattice = [([], [])]
        for end in range(1, len(word) + 1):
            logs, pieces = [], []
            for start in range(max(0, end - self._longest), end):
                piece = self._pieces.get(word[start:end])
                if piece is not None and log_sums[start] > -math.inf:
                    logs.append(log_sums[start] + piece[0])
                    pieces.append((start, piece[1]))
            cumulative: list[float] = []
            if pieces:
                highest = max(logs)
                total = sum(math.exp(log - highest) for log in logs)
                log_sums[end] = highest + math.log(total)
                # Without the last one, which is 1.
                for log in logs[:-1]:
                    cumulative.append(math.exp(log - log_sums[end]) + (cumulative[-1] if cumulative else 0.0))
            lattice.append((cumulative, pieces))
        return lattice


_Lattice = list[tuple[list[float], list[tuple[int, int]]]]  # of each end: cumulative probabilities, (start, id)
