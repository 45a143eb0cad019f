"""`scripts/choose_alignment.py`: errors of word alignments counted by hand, the pairs it has, and its table."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from harness import load_script

ROOT = Path(__file__).parents[2]
GOLD = sorted((ROOT / "tests" / "data").glob("word_alignments.*.txt"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("choose_alignment")


def test_errors_counted_by_hand(script: ModuleType) -> None:
    """Och & Ney 2003, section 6: the rate is 1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|)."""
    first = script.GoldPair("a b c", "x y z", {(0, 0), (1, 1)}, {(0, 0), (1, 1), (2, 1)})
    second = script.GoldPair("d", "u v", {(0, 0)}, {(0, 0), (0, 1)})
    found = [{(0, 0), (2, 1), (2, 2)}, {(0, 1)}]
    # A has 4 links, S has 3; of A one is sure, three are possible.
    assert script.score(found, [first, second]) == pytest.approx((1 - (1 + 3) / (4 + 3), 3 / 4, 1 / 3))
    assert script.score([first.sure, second.possible], [first, second]) == (0, 1, 1)
    assert script.score([{(2, 2)}, set()], [first, second]) == (1, 0, 0)
    assert script.diagonal(script.GoldPair("a b c d e", "x y z", set(), set())) == {(0, 0), (2, 1), (4, 2)}
    assert script.diagonal(first) == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize("path", GOLD, ids=lambda path: path.name)
def test_pairs_are_aligned_throughout(path: Path, script: ModuleType) -> None:
    pairs = script.read_gold(path)
    assert len(pairs) == {"word_alignments.en-de.txt": 30, "word_alignments.builtin.txt": 100}[path.name]
    for pair in pairs:
        sides = zip(*pair.possible, strict=True)
        for numbers, text in zip(sides, (pair.source, pair.target), strict=True):
            assert {*numbers} == set(range(len(text.split()))), text
        assert pair.sure and pair.sure <= pair.possible


def test_the_rule_of_the_command_is_one_of_the_table(script: ModuleType) -> None:
    scores, ours = script.measure(ROOT / "tests" / "golden" / "run", script.read_gold(script.GOLD)[:8])
    *_, last = (name for name in scores if name.startswith("layer"))
    rule = f"{last.split(' | ')[0]} | writes | first"
    assert ours == scores[rule]["source"]
    assert len({*(score for of in scores.values() for score in of.values())}) > len(scores)  # choices differ
