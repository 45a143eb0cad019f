"""Training a SentencePiece tokenizer on a sample of text."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Iterator

import sentencepiece as spm

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.text.tokenizer import Tokenizer
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID

# Longer training lines are cut; SentencePiece leaves out those of more than so many bytes.
_MAX_LINE_CHARACTERS = 4096


_MAX_LINE_BYTES = 4 * _MAX_LINE_CHARACTERS
_LEAST_COVERAGE = 0.98  # that SentencePiece takes


# What the sample of training lines has at most, besides tokenizer.max_lines: a unigram model needs some 24 bytes each
_MAX_SAMPLE_CHARACTERS = 1 << 27


# SentencePiece's default. It decides the order of sums and so the last bits of a unigram model: the same everywhere.
_NUM_THREADS = 16


def train_tokenizer(lines: Iterable[str], config: TokenizerConfig, seed: int = 1) -> tuple[Tokenizer, str]:
    """Train SentencePiece on a sample of the lines.

    Returns:
        (tokenizer, report): the report is one line with what was asked for, what the text supported, and how many
        lines were read and sampled.

    Raises:
        InputError: no text at all, more distinct characters than the vocabulary has room for, or impossible symbols.
    """
    check_symbols(config)
    return _train(sample_lines(lines, config.max_lines, seed), config)


def train_tokenizers(
    pairs: Iterable[tuple[str, str]], config: TokenizerConfig, seed: int
) -> Iterator[tuple[Tokenizer, str]]:
    """Yield what `train_tokenizer` returns: for the lines of both sides or, where they are not shared, for each side.

    The pairs are gone through once, as reading and cleaning a corpus may take hours.

    Raises:
        InputError: as there.
    """
    check_symbols(config)
    samples = [LineSample(config.max_lines, seed) for _ in range(1 if config.shared else 2)]
    of_src, of_tgt = samples[0], samples[-1]
    for src, tgt in pairs:
        of_src.add(src)
        of_tgt.add(tgt)
    for sample in samples:
        yield _train(sample, config)


def _train(sample: LineSample, config: TokenizerConfig) -> tuple[Tokenizer, str]:
    """Train a tokenizer on all lines of a sample; return it, and the report on it."""
    if not sample.lines:
        raise InputError("the tokenizer's training text is empty; check its files (data.train, or --input)")
    spm.set_min_log_level(2)
    out = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(sample.lines),
            model_writer=out,
            model_type=config.type,
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,  # a vocabulary larger than the text supports is lowered
            normalization_rule_name=config.normalization,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            max_sentence_length=_MAX_LINE_BYTES,
            user_defined_symbols=list(config.user_symbols),
            num_threads=_NUM_THREADS,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]  # without the place in SentencePiece's source
        if "Vocabulary size" in reason:
            of_bytes = ", or set tokenizer.byte_fallback: false, 256 pieces less" if config.byte_fallback else ""
            raise InputError(
                f"tokenizer.vocab_size {config.vocab_size} does not fit the text ({reason}); "
                f"raise it, lower tokenizer.character_coverage (to {_LEAST_COVERAGE} at least){of_bytes}"
            ) from None
        normalizer = spm.SentencePieceNormalizer(rule_name=config.normalization)
        if not any(map(normalizer.normalize, sample.lines)):
            raise InputError(
                "the tokenizer's training text has nothing but characters that tokenizer.normalization "
                f"{config.normalization} leaves out; check its files (data.train, or --input)"
            ) from None
        if config.character_coverage < _LEAST_COVERAGE:
            raise InputError(
                f"tokenizer.character_coverage {config.character_coverage} is too low; {_LEAST_COVERAGE} is the least"
            ) from None
        if "unavailable" in reason:  # no further thread
            raise InputError(
                f"tokenizer: cannot be trained ({reason}); end other processes, or raise their limit"
            ) from None
        raise InputError(
            f"tokenizer: cannot be trained on this text ({reason}); check its files (data.train, or --input)"
        ) from None
    tokenizer = Tokenizer(out.getvalue())
    report = f"tokenizer: {config.type}, {tokenizer.vocab_size:,} pieces from {len(sample.lines):,} lines"
    if sample.count > len(sample.lines):
        report += f" (sampled from {sample.count:,})"
    if tokenizer.vocab_size < config.vocab_size:
        report += f"; lowered from vocab_size {config.vocab_size:,}, more than this text supports"
    return tokenizer, report


def check_symbols(config: TokenizerConfig) -> None:
    """Refuse symbols of the user that cannot be, and those that no line of text ever becomes."""
    symbols = config.user_symbols
    shown = f"tokenizer.user_symbols {', '.join(map(repr, symbols))}"
    if len({*symbols, *SPECIALS, ""}) < len(symbols) + len(SPECIALS) + 1:
        raise InputError(
            f"{shown}: each may be there once, and none may be empty or one of {' '.join(SPECIALS)}; remove such"
        )
    # Before symbols are looked for, a space becomes U+2581; lines hold no line end, and SentencePiece ends at NUL.
    if idle := [symbol for symbol in symbols if set(symbol) & set(" \n\r\0")]:
        raise InputError(
            f"{shown}: {', '.join(map(repr, idle))} would never match, as it holds a space, line end or NUL; write "
            "\u2581 for a space, or remove it"
        )
    if config.byte_fallback and (taken := [symbol for symbol in symbols if re.fullmatch("<0x[0-9A-F]{2}>", symbol)]):
        raise InputError(
            f"{shown}: {', '.join(taken)} stands for a byte; remove it, or set tokenizer.byte_fallback: false"
        )


class LineSample:
    """Lines drawn uniformly in one pass (Vitter 1985, algorithm R); blank ones do not count."""

    def __init__(self, most: int, seed: int) -> None:
        self.lines: list[str] = []
        self.count = 0  # of the lines that they are drawn from
        self._most, self._draw, self._num_characters = most, random.Random(seed), 0

    def add(self, line: str) -> None:
        """Take in the next line of the text."""
        if len(line) > _MAX_LINE_CHARACTERS:
            for start in range(0, len(line), _MAX_LINE_CHARACTERS):
                self.add(line[start : start + _MAX_LINE_CHARACTERS])
            return
        # SentencePiece ends a sentence at NUL, which is never text, and leaves out lines that have the other one, its
        # own mark. (Every line of a corpus comes by here, and `translate` takes ten times as long.)
        line = line.replace("\0", " ").replace("▅", " ")
        if not line.strip():
            return
        self.count += 1
        if len(self.lines) < self._most:
            self.lines.append(line)
            self._num_characters += len(line)
        elif (slot := int(self._draw.random() * self.count)) < self._most:
            self._num_characters += len(line) - len(self.lines[slot])
            self.lines[slot] = line
        if self._num_characters > _MAX_SAMPLE_CHARACTERS:  # a smaller sample of the sample
            self._draw.shuffle(self.lines)
            self._most = max(1, len(self.lines) * 3 // 4)
            del self.lines[self._most :]
            self._num_characters = sum(map(len, self.lines))


def sample_lines(lines: Iterable[str], most: int, seed: int) -> LineSample:
    """Return a sample of so many lines at most."""
    sample = LineSample(most, seed)
    for line in lines:
        sample.add(line)
    return sample
