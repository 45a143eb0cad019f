"""Repeated keys by external sort, against a dictionary."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.data import duplicates
from transformer_mt.data.duplicates import FIRST, LATER, ONLY, DuplicateFinder
from transformer_mt.errors import RunError

# Few different ones, which share their first byte or all but that.
keys = st.sampled_from([0, 1, 2**56, 2**56 + 1, 255 << 56, 2**64 - 1, 2**63])


def by_hand(everything: list[int]) -> list[int]:
    counts, seen, found = Counter(everything), set[int](), []
    for key in everything:
        found.append(ONLY if counts[key] == 1 else LATER if key in seen else FIRST)
        seen.add(key)
    return found


@given(chunks=st.lists(st.lists(keys, max_size=8), max_size=6))
def test_each_place_is_what_a_dictionary_says(
    chunks: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    finder = DuplicateFinder(tmp_path_factory.mktemp("keys"))
    for chunk in chunks:
        finder.add(np.array(chunk, dtype=np.uint64))
    assert finder.find().tolist() == by_hand([key for chunk in chunks for key in chunk])


def test_many_keys(tmp_path: Path) -> None:
    everything = np.random.default_rng(1).integers(0, 2**64, 30_000, dtype=np.uint64)
    everything[1000:29_000:7] = everything[:4000]
    finder = DuplicateFinder(tmp_path)
    for start in range(0, len(everything), 1234):
        finder.add(everything[start : start + 1234])
    assert finder.find().tolist() == by_hand(everything.tolist())
    assert [path.name for path in tmp_path.iterdir()] == ["occurrences"]  # what is sorted is deleted


def test_no_more_than_so_many_entries_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have the same key, as blank text has, or differ in their last bits only."""
    draw, read, sizes = random.Random(1), np.fromfile, list[int]()
    everything = [draw.choice([0, 0, 0, 1, draw.randrange(4), 2**57, draw.randrange(2**64)]) for _ in range(400)]

    def measured(*args: Any, **kwargs: Any) -> Any:
        entries = read(*args, **kwargs)
        sizes.append(len(entries))
        return entries

    finder = DuplicateFinder(tmp_path)
    for start in range(0, len(everything), 30):
        finder.add(np.array(everything[start : start + 30], dtype=np.uint64))
    monkeypatch.setattr(duplicates, "_MOST_ENTRIES", 10)
    monkeypatch.setattr(np, "fromfile", measured)
    assert finder.find().tolist() == by_hand(everything)
    assert max(sizes) <= 10
    assert [path.name for path in tmp_path.iterdir()] == ["occurrences"]


def test_a_full_disk_is_a_run_error(tmp_path: Path) -> None:
    finder = DuplicateFinder(tmp_path)
    finder.close()
    finder._files._files = [open("/dev/full", "wb", buffering=0)] * 64  # noqa: SIM115 (lives as long as the test)
    with pytest.raises(RunError, match=rf"^{tmp_path}: cannot be written \(No space left on device\); free some space"):
        finder.add(np.array([1], dtype=np.uint64))
