"""What several test modules share."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Trained, copy_corpus, serving, symbol_lines, tmt, write_config
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
    """Whole commands, several processes and browsers train or start processes: they are slow."""
    for item in items:
        if item.path.parent.name in ("e2e", "distributed", "browser"):
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    chromium = os.environ.get("TMT_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt install chromium, or TMT_CHROMIUM=/where/it/is")
    with playwright.sync_playwright() as driver:
        # A container's root has no sandbox. What is opened is our own page.
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address(trained: Trained) -> Iterator[str]:
    """Where `tmt serve` has its page."""
    with serving(trained.run) as (_, port):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened. What it complains of on the console, or asks of anybody else, fails the test at its end."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text) if _is_complaint(message) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((address, "blob:")) else wrong.append(asked.url))
    page.goto(address)
    yield page
    context.close()
    assert wrong == []


def _is_complaint(message: Any) -> bool:
    """But for a browser's own note that a server was busy."""
    return message.type in ("error", "warning") and "status of 429" not in message.text
