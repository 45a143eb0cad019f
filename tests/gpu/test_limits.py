"""Out of memory on a GPU: in training one line, which names the batch and what to do; search goes on with less."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Done, Trained, copy_corpus, symbol_lines, text, tmt, write, write_config

# `tmt` as if the GPU had so many GiB: its first argument.
LIMITED = """
import sys, torch
_, total = torch.cuda.mem_get_info()
torch.cuda.set_per_process_memory_fraction(float(sys.argv.pop(1)) * 2**30 / total)
from transformer_mt.cli.main import main
main()
"""


def limited(gib: float, *words: object, stdin: str = "") -> Done:
    return tmt(*words, launcher=(sys.executable, "-c", LIMITED, str(gib)), stdin=stdin)


def long_sentences(directory: Path) -> dict[str, Any]:
    """Return the configuration of a small model and of text of which 200,000 tokens are one update."""
    config = copy_corpus(directory, num_train=10)
    lines = write(directory / "long.src", symbol_lines(3000, seed=2, shortest=60, longest=90))
    config["data"] |= {"train": [{"src": str(lines), "tgt": str(lines)}], "valid": []}
    return config


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_that_does_not_fit_is_told_before_the_first_update(
    precision: str, gpu: torch.device, tmp_path: Path
) -> None:
    config = long_sentences(tmp_path) | {"batch": {"max_tokens": 200_000, "micro_tokens": 1_000_000}}
    config["train"] |= {"precision": precision}
    done = limited(0.1, "train", write_config(tmp_path / "config.yaml", config), "--output", tmp_path / "run")
    assert done.status == 1
    assert done.refusal.startswith("tmt: out of memory: a batch of ")
    assert "GiB" in done.refusal and "lower batch.micro_tokens (" in done.refusal


def test_of_an_update_that_does_not_fit_half_is_tried(gpu: torch.device, tmp_path: Path) -> None:
    config = long_sentences(tmp_path) | {"batch": {"max_tokens": 200_000}}
    path = write_config(tmp_path / "config.yaml", config)
    done = limited(0.1, "train", path, "--output", tmp_path / "run", "--dry-run").ok()
    [found] = re.findall(r"^batch\.micro_tokens: ([\d,]+), an update's ([\d,]+) do not fit$", done.stderr, re.M)
    chosen, whole = (int(number.replace(",", "")) for number in found)
    assert chosen <= whole // 2


def test_search_goes_on_with_half_of_what_does_not_fit(gpu: torch.device, trained: Trained) -> None:
    lines = text(symbol_lines(4000, seed=5, shortest=30, longest=40))
    words = ("translate", trained.run, "--beam-size", "4", "--set", "search.batch_tokens=100000000")
    expected, found = tmt(*words, stdin=lines).ok(), limited(0.1, *words, stdin=lines).ok()
    # Products of other sizes may add in another order, which now and then decides between two words.
    assert len(found.lines) == len(expected.lines)
    assert sum(a != b for a, b in zip(found.lines, expected.lines, strict=True)) < 0.01 * len(expected.lines)
    assert found.stderr.count("out of memory with 4000 sentences at once") == 1
    assert "out of memory" not in expected.stderr
