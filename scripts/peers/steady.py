"""What the runners of all peers share: the shapes, the clock, and the one line that each of them prints.

A runner works in the environment of its peer, so this file needs torch and nothing of ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TypedDict

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class Shape(TypedDict):
    d_model: int
    d_ff: int
    heads: int
    layers: int
    dropout: float
    lr: float


# Those of our presets; the learning rate only has to let the loss fall from the first update on.
SHAPES = {
    "tiny": Shape(d_model=128, d_ff=256, heads=4, layers=4, dropout=0.3, lr=1e-3),
    "base": Shape(d_model=512, d_ff=2048, heads=8, layers=6, dropout=0.1, lr=1e-4),
}
LABEL_SMOOTHING = 0.1
BETAS = (0.9, 0.98)
UPDATE_TOKENS = 4096  # labels of one update, </s> included and padding not


class Run:
    """One measured training: reads the command line, keeps stdout for the result, and stops the clock."""

    def __init__(self, system: str, version: str) -> None:
        parser = argparse.ArgumentParser(description=f"Measure the training speed of {system}.")
        parser.add_argument("model", choices=sorted(SHAPES))
        parser.add_argument("precision", choices=["float32", "bfloat16"])
        parser.add_argument(
            "--data", type=Path, required=True, help="train.en, train.de, valid.en, valid.de, vocab.txt"
        )
        parser.add_argument("--work", type=Path, required=True, help="an empty directory that the run may fill")
        parser.add_argument("--warmup", type=int, required=True, help="updates that are left out")
        parser.add_argument("--steps", type=int, required=True, help="updates that are measured")
        args = parser.parse_args()
        self.system, self.version = system, version
        self.model, self.precision, self.data, self.work = args.model, args.precision, args.data, args.work
        self.shape = SHAPES[args.model]
        self.warmup, self.steps = args.warmup, args.steps
        self._ends: list[float] = []  # of the updates, in seconds
        self._labels: list[int] = []  # of each update
        self._losses: list[float] = []  # a label, of each update
        self._counted = 0
        self._loss = 0.0
        self._stdout = os.dup(1)
        os.dup2(2, 1)  # whatever the peer prints goes to stderr
        register_optimizer_step_post_hook(lambda *_: self._end_update())

    def count(self, labels: int, loss: float) -> None:
        """A forward pass had so many labels (``</s>`` included, padding not) and this mean loss a label."""
        self._counted += labels
        self._loss = loss

    def _end_update(self) -> None:
        """After each step of any torch optimizer; ends the process after the last one."""
        self._ends.append(time.perf_counter())
        self._labels.append(self._counted)
        self._losses.append(self._loss)
        self._counted = 0
        number = len(self._ends)
        if number % 10 == 0 or number <= 3:
            print(f"{self.system}: update {number}, loss {self._loss:.3f}", file=sys.stderr, flush=True)
        if number == self.warmup + self.steps:
            os.write(self._stdout, (json.dumps(self._result()) + "\n").encode())
            os._exit(0)  # no last checkpoint, no validation

    def _result(self) -> dict[str, object]:
        ends = self._ends[self.warmup - 1 :]
        seconds = [after - before for before, after in itertools.pairwise(ends)]
        labels = self._labels[self.warmup :]
        return {
            "system": self.system,
            "version": self.version,
            "model": self.model,
            "precision": self.precision,
            "target_tokens_per_second": round(sum(labels) / sum(seconds), 1),
            "median_step_seconds": round(statistics.median(seconds), 4),
            "steps": self.steps,
            "target_tokens_per_step": round(sum(labels) / self.steps, 1),
            "first_loss": round(self._losses[0], 3),
            "last_loss": round(self._losses[-1], 3),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
