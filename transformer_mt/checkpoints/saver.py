"""Checkpoints of a run that goes on: copied at once, written in a thread, and read again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from transformer_mt.checkpoints.manifest import MODEL, OPTIMIZER, STATE
from transformer_mt.checkpoints.model_directory import (
    copy_weights,
    fill_directory,
    load_tensors,
    small_files,
)
from transformer_mt.checkpoints.run_directory import checkpoint_path, point, retain
from transformer_mt.checkpoints.tensor_shapes import damaged_tensors
from transformer_mt.checkpoints.training_state import TrainState, read_state
from transformer_mt.config.sections import Config
from transformer_mt.errors import RunError
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.directories import exchange, scratch_directory, sync
from transformer_mt.system.whole_files import write_error
from transformer_mt.text.tokenizer import Tokenizers


class Saver:
    """Saves the checkpoints of a run: copies everything at once, and writes it in a thread while training goes on.

    One is written at a time. When a write has failed (full disk), the next call raises its RunError. Whenever the
    process is killed, a checkpoint is there whole or not at all, and what the pointers name is whole.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        tokenizers: Tokenizers,
        longest_src_tokens: int,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        """Make the place for checkpoints.

        Args:
            is_ours: whether the directory still is the run's, see `only_process_in`.
        """
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._run, self._keep, self._longest_src_tokens = run, config.train.keep_checkpoints, longest_src_tokens
        self._files, self._tags, self._is_ours = small_files(config, tokenizers), tokenizers.src.tags, is_ours
        self._copies: dict[str, dict[str, Tensor]] = {MODEL: {}, OPTIMIZER: {}}
        self._pool = ThreadPoolExecutor(max_workers=1, initializer=_step_back)
        self._pending: Future[None] | None = None

    def save(
        self, weights: Mapping[str, Tensor], training: Mapping[str, Tensor], state: TrainState, *, is_best: bool
    ) -> None:
        """Save the checkpoint of ``state.step``, once the one before is written.

        Args:
            weights: what is translated with, by parameter name.
            training: what else training continues from, see `training_tensors`.
            is_best: whether ``best`` shall name it, as ``last`` will.
        """
        self.wait()
        tensors = {MODEL: self._copy(MODEL, weights), OPTIMIZER: self._copy(OPTIMIZER, training)}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        files = self._files | {STATE: state.to_json().encode()}
        self._pending = self._pool.submit(self._write, checkpoint_path(self._run, state.step), files, tensors, is_best)

    def check(self) -> None:
        """Raise the error of a write that has failed by now, without waiting for one that goes on."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is complete.

        Raises:
            RunError: it could not be written; the ones before are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def finish(self) -> None:
        """Return when the last checkpoint is complete and none is kept that should not be: a kill of an earlier process
        may have come before that.

        Raises:
            RunError: as `wait`.
        """
        self.wait()
        if self._is_ours():
            retain(self._run, self._keep)

    def close(self) -> None:
        """Complete what is being written, whatever ends the run, and end the thread."""
        self._pool.shutdown()

    def _copy(self, name: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Into the same memory each time; from a GPU into pinned memory, one after the other without waiting."""
        copies = self._copies[name]
        for key, tensor in tensors.items():
            if key not in copies:
                copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copies[key].copy_(tensor.detach(), non_blocking=True)
        return copies

    def _check_place(self, path: Path) -> None:
        if not self._is_ours():  # whoever has put another run in its place must not find our files there
            raise RunError(f"{self._run}: it or its .lock was removed while training; {path.name} is not saved")

    def _write(
        self, path: Path, files: Mapping[str, bytes], tensors: Mapping[str, Mapping[str, Tensor]], is_best: bool
    ) -> None:
        try:
            metrics = self._run / "metrics.jsonl"
            if metrics.exists():
                sync(metrics)  # a resumed run does not write again what was logged before its checkpoint
            with scratch_directory(path) as temporary:
                fill_directory(temporary, files, tensors, self._longest_src_tokens, self._tags)
                sync(temporary)
                self._check_place(path)
                exchange(temporary, path)
            self._check_place(path)
            point(self._run, "last", path)
            if is_best:
                point(self._run, "best", path)
            retain(self._run, self._keep)
        except OSError as error:
            raise write_error(path, error) from error


def _step_back() -> None:
    """Lower the priority of this thread (elsewhere than on Linux it would be the whole process's).

    The threads of a training step wait for each other: one that shares its core with the writing thread holds up all.
    """
    if sys.platform == "linux":
        os.nice(10)


def training_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, is_averaged: bool = False
) -> dict[str, Tensor]:
    """What training continues from besides the weights that are translated with: the optimizer's moments and step
    numbers, by parameter name, and the weights themselves where an average of them is translated with."""
    tensors = {
        f"{key}.{name}": moment
        for name, parameter in model.named_parameters()
        for key, moment in optimizer.state[parameter].items()
    }
    if is_averaged:
        tensors |= {f"weight.{name}": parameter for name, parameter in model.named_parameters()}
    return tensors


def load_training(
    directory: Path,
    model: EncoderDecoder,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> TrainState:
    """Continue from a checkpoint that `verify` has passed: weights, moments and state.

    Args:
        average: to be filled as well, where the run averages its weights; ``model.safetensors`` holds the average then.
    """
    state = read_state(directory)
    copy_weights(model, load_tensors(directory / MODEL), directory / MODEL)
    try:
        with safe_open(directory / OPTIMIZER, framework="pt") as tensors, torch.no_grad():
            for name, parameter in model.named_parameters():
                if average is not None:
                    average[name].copy_(parameter)
                    parameter.copy_(tensors.get_tensor(f"weight.{name}"))
                for key, moment in optimizer.state[parameter].items():
                    saved = tensors.get_tensor(f"{key}.{name}")
                    if saved.shape != moment.shape:
                        raise SafetensorError(f"the moments of {name} have another shape than it")
                    moment.copy_(saved)
    except (OSError, SafetensorError) as error:
        raise damaged_tensors(directory / OPTIMIZER, error) from None
    return state
