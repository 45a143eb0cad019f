"""What a run tells: a progress bar and lines on stderr, ``metrics.jsonl`` (one JSON object a line), and trackers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from transformer_mt.checkpoints.run_records import FILE_NAME
from transformer_mt.config.sections import TrainConfig
from transformer_mt.system.console import tell
from transformer_mt.system.lines import read_lines
from transformer_mt.system.whole_files import replaced_file, write_error
from transformer_mt.training.trackers import Tracker, reason_of


class RunLog:
    """The voice of a run; ranks other than the first have none (``directory`` None)."""

    def __init__(
        self,
        directory: Path | None,
        step: int,
        config: TrainConfig,
        trackers: Mapping[str, Tracker],
        validates: bool,
        *,
        awaits_validation: bool = False,
    ) -> None:
        """Open a run's log, first cutting it back to the checkpoint of ``step`` (which ``awaits_validation``)."""
        self._trackers = dict(trackers)
        self._file: TextIO | None = None
        self._bar: tqdm[Any] | None = None
        if directory is None:
            return
        path = directory / FILE_NAME
        _cut_back(path, step, awaits_validation)
        try:
            self._file = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise write_error(path, error) from error
        # disable=None: no bar where stderr is not a terminal.
        self._bar = tqdm(
            total=config.max_steps,
            initial=step,
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self.is_interactive = not self._bar.disable
        self._max_steps = config.max_steps
        self._eval_steps = config.eval_steps if validates else None
        self._proviso = " unless patience ends it sooner" if validates and config.patience else ""

    def line(self, text: str) -> None:
        """Write a line for people."""
        if self._file is not None:
            with tqdm.external_write_mode(sys.stderr):  # above the bar
                tell(text)

    def record(self, **values: Any) -> None:
        """Write a line for programs, and give it to the trackers.

        A tracker that fails is reported once and left out from then on: training goes on.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError as error:
            raise write_error(self._file.name, error) from error
        for key, tracker in list(self._trackers.items()):
            try:
                tracker(dict(values))
            except Exception as error:
                del self._trackers[key]
                self.line(
                    f"warning: step {values['step']:,}: {key} failed ({reason_of(error)}) and is switched off; "
                    f"{FILE_NAME} has everything, --resume switches it on again"
                )

    def progress(self, step: int, numbers: str) -> None:
        """Count one more step, and show its numbers and the times that are left behind the bar."""
        if self._bar is None or not self.is_interactive:
            return
        if rate := self._bar.format_dict["rate"]:
            if self._eval_steps is not None:
                to_validation = min(self._eval_steps - step % self._eval_steps, self._max_steps - step)
                numbers += f", validation in {format_seconds(to_validation / rate)}"
            numbers += f", end in {format_seconds((self._max_steps - step) / rate)}{self._proviso}"
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update()

    def training(self, step: int, values: dict[str, float]) -> None:
        """Log the means of the last steps, for programs and for people."""
        if self._file is None:
            return
        self.record(kind="train", step=step, **values)
        if not self.is_interactive:
            self.line(
                f"step {step:,}: loss {values['loss']:.3f}, perplexity {values['perplexity']:.2f}, "
                f"learning rate {values['learning_rate']:.2e}, {values['tokens_per_second']:,.0f} tokens/s"
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            # Each record is flushed when it is written. What a full disk did not take then, has been told.
            with contextlib.suppress(OSError):
                self._file.close()


def format_seconds(seconds: float) -> str:
    """Return a time as 12 s, 3 min, 5 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _cut_back(path: Path, step: int, awaits_validation: bool) -> None:
    """Drop what was logged after a checkpoint's step, its own validation too if that failed: it will come again."""
    if not path.exists():
        return
    kept = []
    for line in read_lines(path):
        try:
            record = json.loads(line)
            is_later = record["step"] > step
            if not is_later and not (awaits_validation and (record["kind"], record["step"]) == ("valid", step)):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # the line that a crash cut short
    with replaced_file(path) as file:
        file.write("".join(f"{line}\n" for line in kept if step).encode())
