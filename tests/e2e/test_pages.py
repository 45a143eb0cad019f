"""The commands of the pages on attention run: of a small model and of small files in place of those that they name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from harness import PAGES, ROOT, commands_of, tmt_here

GOLDEN = ROOT / "tests" / "golden"
MODEL = GOLDEN / "run" / "checkpoints" / "step_00000600"  # of one layer and two heads
QUICK = ("plot attention", "plot lengths", "translate", "info")  # what needs a model that is there, and seconds


def quick_commands() -> dict[str, tuple[str, ...]]:
    """Those that differ in more than files and sentences, by that in which they differ."""
    found = {}
    for page in PAGES:
        for name, *words in commands_of(page):
            if name == "tmt" and " ".join(words).startswith(QUICK):
                kinds = ("plot", "attention", "lengths", "translate", "info", "lines", "all", "encoder", "decoder")
                found[" ".join(word for word in words if word.startswith("-") or word in kinds)] = tuple(words)
    return found


def with_small_things(words: tuple[str, ...], directory: Path) -> list[str]:
    """A model in place of each, files of a few lines in place of texts, outputs elsewhere, the layers and heads that
    there are."""
    found = []
    for before, word in pairwise(("", *words)):
        if word.startswith("runs/"):
            word = str(MODEL)
        elif before in ("--output", "--figure"):
            word = str(directory / Path(word).name)
        elif before in ("--layer", "--head") and word.isdecimal():
            word = "1"
        elif before in ("--src", "--input", "--ref") and word.startswith("$"):
            word = str(GOLDEN / "text" / ("test.tgt" if before == "--ref" else "test.src"))
        found.append(word)
    return [*found, "--set", "search.max_source_tokens=200"] if "attention" in found else found


@pytest.mark.parametrize("words", quick_commands().values(), ids=quick_commands().keys())
def test_commands_run(words: tuple[str, ...], tmp_path: Path) -> None:
    given = with_small_things(words, tmp_path)
    done = tmt_here(*given, stdin="Ab\n").ok()
    for option, name in pairwise(given):
        if option == "--output":
            assert Path(name).stat().st_size > 0
    assert done.stdout or "--output" in given
