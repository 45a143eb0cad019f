"""The training loop: update, validate, save, stop."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import signal
from pathlib import Path

from torch import Tensor

from transformer_mt.checkpoints.saver import Saver, training_tensors
from transformer_mt.config.loading import to_yaml
from transformer_mt.config.sections import Config
from transformer_mt.errors import RunError, TmtError
from transformer_mt.system import device
from transformer_mt.system.allocator import keep_freed_memory
from transformer_mt.system.ranks import end_run
from transformer_mt.system.signals import StoppedError, StopSignal
from transformer_mt.system.whole_files import replaced_file
from transformer_mt.training import ending, feeding, memory
from transformer_mt.training.meter import Meter
from transformer_mt.training.run_log import RunLog
from transformer_mt.training.setup import Setup, set_up, tell_plan
from transformer_mt.training.trackers import open_trackers

_DIRECTORY_LOST = 1000  # above all signals' numbers, with which it goes through one all-reduce


def train(config: Config, run: Path, *, resume: bool = False, dry_run: bool = False) -> None:
    """Train a model into a run directory; with ``dry_run`` only try its largest batch.

    Raises:
        InputError: configuration or input that cannot be trained on; a run directory that is in use or not empty.
        RunError: a loss that is not finite, a full disk, an interruption (after saving).
    """
    with contextlib.ExitStack() as cleanup:
        setup = set_up(config, run, cleanup, resume=resume, dry_run=dry_run)
        if dry_run:
            tell_plan(setup)
        else:
            _Loop(setup, run, cleanup).run()


class _Loop:
    """A run from where its state stands to its end: what one update after the other does."""

    def __init__(self, setup: Setup, run: Path, cleanup: contextlib.ExitStack) -> None:
        self.setup, self.directory, self.state = setup, run, setup.state
        config, ranks, state = setup.config.train, setup.ranks, setup.state
        if ranks.is_first:
            for name, content in {"config.yaml": to_yaml(setup.given).encode(), **setup.tokenizers.files()}.items():
                with replaced_file(run / name) as file:
                    file.write(content)
        trackers = open_trackers(config, run, state.step) if ranks.is_first else {}
        own = run if ranks.is_first else None
        validates, awaits = bool(setup.validation), state.awaits_validation
        self.log = RunLog(own, state.step, config, trackers, validates, awaits_validation=awaits)
        cleanup.callback(self.log.close)
        self.meter = Meter(setup.store, self.log, setup.device, ranks, state, config.log_steps)
        # Until here a signal just ends the process; from here it saves first.
        self.stop_signal = cleanup.enter_context(StopSignal())
        self.saver: Saver | None = None
        if ranks.is_first:
            self.saver = Saver(run, setup.given, setup.tokenizers, setup.longest_src, setup.is_ours)
            cleanup.callback(self.saver.close)

    def run(self) -> None:
        """Do one update after the other, and after each: validate, save, stop."""
        state, config, validation = self.state, self.setup.config.train, self.setup.validation
        keep_freed_memory()  # not earlier: what preparing needed may go back to the system
        if state.awaits_validation:  # it had failed
            self.finish_step()
        planned = self.setup.epochs.updates(state.cursor, state.step, self.log.line)
        wanted = itertools.islice(planned, max(0, config.max_steps - state.step))
        with contextlib.closing(
            feeding.updates(wanted, self.setup.ranks, self.setup.largest.micro_tokens, self.setup.device)
        ) as stream:
            while state.step < config.max_steps and not validation.out_of_patience(state):
                update = next(stream)
                state.cursor = update.cursor
                state.step += 1
                self.update(update)
                self.finish_step()
        if self.saver is not None:
            self.saver.finish()
        self.setup.epochs.remove()
        self.log.line(f"done at step {state.step:,}: {self.outcome()}")
        if self.saver is not None:
            ending.score_test(self.setup.config, self.directory, self.log, lambda: self.stop_signal.number > 0)
            self.log.line(f"next: {ending.advice(self.setup.config, self.directory, state)}")

    def update(self, update: feeding.Update) -> None:
        """Update the weights once, from the gradients of all labels, on all ranks, divided once by their number."""
        setup, config, step = self.setup, self.setup.config, self.state.step
        setup.updater.begin()
        for number, batch in enumerate(update.batches):
            device.seed_stream(config.train.seed, step, setup.ranks.rank, number)
            with memory.batch_fits(batch, config.batch.micro_tokens, setup.device):
                setup.updater.add(batch, update.num_labels)
        numbers = setup.updater.finish(step)
        self.meter.add(step, update.pairs, update.num_labels, setup.updater.rate, numbers)

    def finish_step(self) -> None:
        """Do what comes after an update: validate, save, and stop on a signal."""
        state, config, ranks, validation = self.state, self.setup.config.train, self.setup.ranks, self.setup.validation

        # a. Validate.
        is_last = state.step >= config.max_steps
        is_due = is_last or state.step % config.checkpoint_steps == 0
        is_best = False
        if validation and (is_last or state.step % config.eval_steps == 0 or state.awaits_validation):
            is_best = self.validate()
            if validation.out_of_patience(state):
                is_last = is_due = True

        # b. Save what is due, and an improvement at once. A signal to any rank ends the run on all of them, when the
        # checkpoint is written.
        signal_number = ranks.all_reduce_max(self.stop_signal.number if self.setup.is_ours() else _DIRECTORY_LOST)
        if signal_number == _DIRECTORY_LOST:
            reason = f"{self.directory}: it or its .lock was removed while training; stopped after step {state.step:,}"
            end_run(ranks, reason)
        if is_best or is_due or signal_number:
            self.meter.pause()
            self.save(by_signal=not (is_best or is_due))
            self.meter.resume()
        if self.saver is not None:
            self.saver.check()

        # c. Stop.
        if signal_number and not is_last:
            if self.saver is not None:
                self.saver.wait()
            ranks.broadcast(None)  # that it is written; a rank that ends earlier may take rank 0 along
            name = signal.Signals(signal_number).name
            end_run(ranks, f"stopped by {name} after step {state.step:,}, which is saved; continue with --resume")

    def validate(self) -> bool:
        """Score the step, and return whether it is the best.

        If that fails, or a signal comes, the step is saved and the run ends: the next one validates it first.
        """
        state, ranks, average = self.state, self.setup.ranks, self.setup.updater.average
        self.meter.pause()
        try:
            with contextlib.nullcontext() if average is None else average.in_the_model():
                scores = self.setup.validation.run(state.step, ranks, self.log, self.stop_signal.raised())
        except BaseException as error:
            state.awaits_validation = True
            self.save(by_signal=True)
            if self.saver is not None:
                self.saver.wait()
            if not isinstance(error, TmtError):
                self.log.line(f"step {state.step:,} is saved, without its validation; continue with --resume")
                raise
            with contextlib.suppress(RunError):  # the other ranks may be gone
                ranks.broadcast(None)  # that it is written
            if isinstance(error, StoppedError):
                end_run(ranks, f"{error} as it validated step {state.step:,}, which is saved; continue with --resume")
            reason = f"step {state.step:,} is saved, but its validation failed: {error}; then continue with --resume"
            end_run(ranks, reason)
        state.awaits_validation = False
        is_better = self.setup.validation.improves(scores, state)
        self.meter.resume()
        return is_better

    def save(self, by_signal: bool = False) -> None:
        """Save the step, on rank 0."""
        setup, state = self.setup, self.state
        state.by_signal = by_signal
        if self.saver is not None:
            updater, average = setup.updater, setup.updater.average
            weights: dict[str, Tensor] = dict(updater.model.named_parameters()) if average is None else average.weights
            training = training_tensors(updater.optimizer, updater.model, is_averaged=average is not None)
            is_best = not setup.validation or state.best_step == state.step
            self.saver.save(weights, training, state, is_best=is_best)

    def outcome(self) -> str:
        """Return why the run ended, its best checkpoint, and what to do with it, in words."""
        state, config = self.state, self.setup.config.train
        ended = "max_steps reached"
        if state.step < config.max_steps:
            ended = f"no better {config.best_metric} in {config.patience} validations"
        if state.best_score is not None:
            ended += f"; best {config.best_metric} {state.best_score:.2f} at step {state.best_step:,}"
        return f"{ended}; translate with: tmt translate {shlex.quote(str(self.directory))}"
