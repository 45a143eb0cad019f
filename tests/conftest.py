"""What several test modules share."""

from __future__ import annotations

import itertools

import pytest

from transformer_mt import grammar
from transformer_mt.config import TokenizerConfig
from transformer_mt.tokenizer import Tokenizers, train_tokenizer


@pytest.fixture(scope="session")
def grammar_lines() -> list[str]:
    """English and German sentences by turns."""
    return [*itertools.chain.from_iterable(grammar.generate("train", 600))]


@pytest.fixture(scope="session")
def tokenizers(grammar_lines: list[str]) -> Tokenizers:
    """One small vocabulary for both languages, with the 256 bytes."""
    tokenizer, _ = train_tokenizer(grammar_lines, TokenizerConfig(vocab_size=400))
    return Tokenizers(tokenizer, tokenizer)
