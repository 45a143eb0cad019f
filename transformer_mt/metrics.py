"""What a run tells: a progress bar and lines on stderr, and ``metrics.jsonl``, one JSON object a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from transformer_mt.textio import read_lines, replaced_file, write_error


class RunLog:
    """The voice of a run; ranks other than the first have none (``directory`` None)."""

    def __init__(self, directory: Path | None, step: int, max_steps: int) -> None:
        """Open a run's log, first cutting it back to the checkpoint of ``step``."""
        self._file: TextIO | None = None
        self._bar: tqdm[Any] | None = None
        if directory is None:
            return
        path = directory / "metrics.jsonl"
        _cut_back(path, step)
        try:
            self._file = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise write_error(path, error) from error
        # disable=None: no bar where stderr is not a terminal.
        self._bar = tqdm(total=max_steps, initial=step, unit=" steps", disable=None, dynamic_ncols=True, smoothing=0.05)
        self.is_interactive = not self._bar.disable

    def line(self, text: str) -> None:
        """A line for people."""
        if self._file is not None:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def record(self, **values: Any) -> None:
        """A line for programs."""
        if self._file is not None:
            try:
                self._file.write(json.dumps(values) + "\n")
                self._file.flush()
            except OSError as error:
                raise write_error(self._file.name, error) from error

    def progress(self, **values: str) -> None:
        """One more step, with its numbers behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update()

    def training(self, step: int, values: dict[str, float]) -> None:
        """The means of the last steps."""
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
            self._file.close()


def _cut_back(path: Path, step: int) -> None:
    """Drop what was logged after a checkpoint's step: training will log it again."""
    if not path.exists():
        return
    kept = []
    for line in read_lines(path):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # the line that a crash cut short
    with replaced_file(path) as file:
        file.write("".join(f"{line}\n" for line in kept if step).encode())
