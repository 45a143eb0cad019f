"""What several test modules share."""

from __future__ import annotations

import itertools
import os

import pytest
from harness import Trained, copy_corpus, symbol_lines, tmt, write_config
from hypothesis import settings

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.toy_corpus import grammar

# Of each property. Before a release: HYPOTHESIS_PROFILE=thorough scripts/test.sh
settings.register_profile("fast", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands and several processes train or start processes: they are slow."""
    for item in items:
        if item.path.parent.name in ("e2e", "distributed"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def grammar_lines() -> list[str]:
    """English and German sentences by turns."""
    return [*itertools.chain.from_iterable(grammar.generate("train", 600))]


@pytest.fixture(scope="session")
def tokenizers(grammar_lines: list[str]) -> Tokenizers:
    """One small vocabulary for both languages, with the 256 bytes."""
    tokenizer, _ = train_tokenizer(grammar_lines, TokenizerConfig(vocab_size=400))
    return Tokenizers(tokenizer, tokenizer)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three checkpoints of a model that copies its source, trained in seconds."""
    directory = tmp_path_factory.mktemp("trained")
    config = copy_corpus(directory, num_train=2000)
    config["model"]["dropout"] = 0.0
    config["batch"] = {"max_tokens": 800}
    config["optim"] |= {"lr": 0.005, "warmup_steps": 50}
    # Bad enough to make mistakes, good enough that outputs differ with their inputs.
    config["train"] |= {"max_steps": 150, "eval_steps": 150, "checkpoint_steps": 50, "log_steps": 50}
    path, run = write_config(directory / "config.yaml", config), directory / "run"
    tmt("train", path, "--output", run).ok()
    return Trained(path, run, directory / "train.src")


@pytest.fixture(scope="session")
def sources() -> list[str]:
    return symbol_lines(40, seed=99, shortest=1, longest=20)
