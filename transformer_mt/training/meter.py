"""The numbers of updates: read when they are there, checked, and reported as means."""

from __future__ import annotations

import math
import time
from collections import deque

import torch
from torch import Tensor

from transformer_mt.checkpoints.training_state import Sums, TrainState
from transformer_mt.data import batching
from transformer_mt.data.store import IdStore
from transformer_mt.system.ranks import Ranks, end_run
from transformer_mt.training.run_log import RunLog


class Meter:
    """Reads the numbers of an update when they are there, stops the run at a bad one, and reports means.

    What it sums between two reports is part of the run's state, so that a resumed run reports the same means.
    """

    def __init__(
        self, store: IdStore, log: RunLog, device: torch.device, ranks: Ranks, state: TrainState, log_steps: int
    ) -> None:
        self._store, self._log, self._ranks = store, log, ranks
        self._state, self._log_steps = state, log_steps
        self._lag = _LAG_STEPS.get(device.type, 0)
        self._pending: deque[tuple[int, batching.Pairs, int, float, Tensor, torch.cuda.Event | None]] = deque()
        self._latest = time.monotonic()  # when an update was done last
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._since, self._labels_since = self._latest, 0

    def add(self, step: int, pairs: batching.Pairs, num_labels: int, rate: float, numbers: Tensor) -> None:
        """Take in the numbers of an update, and read those of earlier ones that are there by now.

        Args:
            numbers: summed loss and negative log-likelihood, gradient norm, 1 where one of them is not finite.
        """
        event = None
        if numbers.is_cuda:
            numbers = torch.empty(4, pin_memory=True).copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step, pairs, num_labels, rate, numbers, event))
        while len(self._pending) > self._lag:
            self._wait_for(self._pending[0][-1])
            self._read(time.monotonic())

    def pause(self) -> None:
        """Read what is pending, and stop the clock while something else than training happens."""
        if self._pending:  # all are waited for, and each took its share
            self._wait_for(self._pending[-1][-1])
            each = (time.monotonic() - self._latest) / len(self._pending)
            while self._pending:
                self._read(self._latest + each)
        self._paused = time.monotonic()

    def resume(self) -> None:
        paused = time.monotonic() - self._paused
        self._since += paused
        self._latest += paused

    def _wait_for(self, event: torch.cuda.Event | None) -> None:
        if event is not None:
            self._ranks.wait_for(event)

    def _read(self, done: float) -> None:
        """Take in the numbers of the next update, which was done at that time."""
        self._latest = done
        step, pairs, num_labels, rate, numbers, _ = self._pending.popleft()
        loss, nll, norm, is_bad = numbers.tolist()
        if is_bad:
            self._log.record(
                kind="not_finite", step=step, loss=str(loss), gradient_norm=str(norm), pairs=pairs.tolist()
            )
            first = ", ".join(f"{pair} ({self._store.describe(pair)})" for pair in pairs[:3].tolist())
            end_run(
                self._ranks,
                f"step {step:,}: the loss sums to {loss} and the gradient norm is {norm}; the update was not applied. "
                f"Its {len(pairs)} pairs are in metrics.jsonl, the first: {first}. Look at them, lower optim.lr, "
                "raise optim.warmup_steps or set optim.clip_norm, and start again",
            )
        sums = self._state.since_report
        sums.loss, sums.nll, sums.norm = sums.loss + loss, sums.nll + nll, sums.norm + norm
        sums.labels, sums.steps = sums.labels + num_labels, sums.steps + 1
        self._labels_since += num_labels
        per_second = self._labels_since / (done - self._since)
        self._log.progress(step, f"loss {loss / num_labels:.3f}, {per_second:,.0f} tokens/s, lr {rate:.1e}")
        if step % self._log_steps == 0:
            self._report(step, rate, per_second)

    def _report(self, step: int, rate: float, per_second: float) -> None:
        """Log the means since the last report."""
        sums, self._state.since_report = self._state.since_report, Sums()
        self._log.training(
            step,
            {
                "loss": sums.loss / sums.labels,
                "perplexity": math.exp(min(sums.nll / sums.labels, 700.0)),
                "gradient_norm": sums.norm / sums.steps,
                "learning_rate": rate,
                "tokens_per_second": round(per_second, 1),
            },
        )
        self._restart_clock()


# Updates between launching one and reading its numbers, so that a GPU never waits for the host.
_LAG_STEPS = {"cuda": 2}
