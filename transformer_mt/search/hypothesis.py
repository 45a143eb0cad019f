"""What search finds."""

from __future__ import annotations

from typing import NamedTuple


class Hypothesis(NamedTuple):
    """A finished translation."""

    ids: list[int]  # without `</s>`
    score: float  # log_prob / length penalty: what hypotheses are ranked by
    log_prob: float  # of all its ids and `</s>`
