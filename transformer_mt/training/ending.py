"""What a run does when it has ended and all of it is saved: score the test text, once, and say what to try next.

Nothing here can harm the run: what fails is told, and can be made up for with `tmt eval`.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformer_mt.checkpoints.run_directory import resolve_model
from transformer_mt.checkpoints.run_records import FILE_NAME, Record, read_records
from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.config.sections import Config
from transformer_mt.errors import TmtError, is_out_of_memory
from transformer_mt.evaluation.source_scores import read_references, score_source
from transformer_mt.training.optim import learning_rate
from transformer_mt.training.run_log import RunLog
from transformer_mt.training.validation import pairs_fingerprint

# Of the best score: what it rose by in the last third of a run, from which on a longer run is worth a try.
_STILL_RISING = 0.02
_FEW_EPOCHS = 10  # in which no text is learned by heart
_LEARNING_BY_HEART = 0.05  # nats a label by which the validation loss is above its lowest at the end


def score_test(config: Config, run: Path, log: RunLog, is_to_stop: Callable[[], bool]) -> None:
    """Translate each source of ``data.test`` with the run's best checkpoint, as `tmt eval` would, and log the scores.

    What is in the log already, of the same checkpoint and text, is told and not scored again; text that has changed is.
    A signal ends it early.
    """
    for number, source in enumerate(config.data.test):
        name = f"test.{number if source.name is None else source.name}"
        try:
            checkpoint = resolve_model(run)
            step = int(checkpoint.name.removeprefix("step_"))
            if known := _scored_before(config, source, step, read_records(run / FILE_NAME)):
                for metric, signature in known["signatures"].items():
                    log.line(f"{name}, step {step:,}: {signature} = {known[metric]:.2f} (scored before)")
                continue
            scored = None if is_to_stop() else _score(config, source, checkpoint, is_to_stop)
            if scored is None:
                log.line(f"{name}: not scored, as a signal came; the same command with --resume does it")
                return
            numbers, lines = scored
            log.record(kind="test", step=step, text=str(source), **numbers)
            for line in lines:
                log.line(f"{name}, step {step:,}: {line}")
        except (TmtError, RuntimeError, MemoryError) as error:
            if not (isinstance(error, TmtError) or is_out_of_memory(error)):
                raise
            reason = str(error) if isinstance(error, TmtError) else "out of memory"
            log.line(f"warning: {name} is not scored: {reason}. The run is complete; --resume makes up for it")


def _scored_before(config: Config, source: SourceConfig, step: int, records: Sequence[Record]) -> Record | None:
    """Return the record of a source's scores, of a step and of the text that it has now; None where there is none.

    Raises:
        InputError: text that cannot be read, or scored.
    """
    wanted = ("test", step, str(source))
    known = {one.get("fingerprint"): one for one in records if (one["kind"], one["step"], one.get("text")) == wanted}
    if not known or None in known:  # of a run that did not log it: the text is taken for the same
        return known.get(None)
    return known.get(pairs_fingerprint(read_references(source, *config.data.languages(source))))


def _score(
    config: Config, source: SourceConfig, checkpoint: Path, is_to_stop: Callable[[], bool]
) -> tuple[Record, list[str]] | None:
    """Return what is logged of a source, and its scores as lines for people; None: to stop.

    Raises:
        InputError: text that cannot be read, or scored.
    """
    started = time.monotonic()
    scored = score_source(config, source, checkpoint, is_to_stop=is_to_stop)
    if scored is None:
        return None
    scores = scored.report.scores
    return {
        **{score.name: score.score for score in scores},
        "signatures": {score.name: score.signature for score in scores},
        "fingerprint": pairs_fingerprint(scored.pairs),
        "seconds": round(time.monotonic() - started, 1),
    }, [*(score.format() for score in scores), *scored.report.notes]


def advice(config: Config, run: Path, state: TrainState) -> str:
    """Return what to try next, by how the validations of a run went."""
    metric = config.train.best_metric
    try:
        records = [one for one in read_records(run / FILE_NAME) if one["kind"] == "valid" and metric in one]
    except TmtError:  # somebody has changed the file
        records = []
    if not records:
        return "give it validation text (data.valid): without, nobody knows which checkpoint is the best"
    worse_by = records[-1]["loss"] - min(one["loss"] for one in records)
    if worse_by > _LEARNING_BY_HEART and records[-1]["loss"] > math.log(config.tokenizer.vocab_size):
        lower = "raise optim.warmup_steps" if config.optim.lr is None else f"lower optim.lr {config.optim.lr:g}"
        return f"the loss on validation text has risen above that of guessing: {lower}, or set optim.clip_norm: 1.0"
    if worse_by > _LEARNING_BY_HEART and state.best_step < state.step:
        return (
            f"the loss on validation text has risen again by {worse_by:.2f}, so it learns by heart: more text, or more "
            f"dropout than model.dropout {config.model.dropout:g}"
        )
    is_at_its_end = state.step >= config.train.max_steps  # else patience has ended it, and would do so again at once
    most, warmup = config.train.max_steps, config.optim.warmup_steps
    if is_at_its_end and most < warmup:
        return (
            f"the learning rate still rose ({warmup:,} steps of warm-up): go on with --resume and more steps, "
            f"train.max_steps {10 * warmup}, or what the configuration's file has"
        )
    has_come_to_zero = is_at_its_end and learning_rate(most, config.optim, config.model.d_model, most) == 0
    reason = f"{metric} still rose in the last third" if _rises(records, metric) else ""
    if not reason and state.best_step == state.step and state.cursor.epoch < _FEW_EPOCHS:
        reason = f"the last checkpoint is the best, and only in epoch {state.cursor.epoch + 1}"
    if is_at_its_end and reason:
        if has_come_to_zero:
            return (
                f"{reason}: a longer run may be better, with train.max_steps {2 * max(most, state.step)} and another "
                "--output (this one's learning rate has come to 0)"
            )
        return f"{reason}: go on with --resume and train.max_steps {2 * state.step}"
    if not has_come_to_zero and config.train.ema_decay == 0:
        own, averaged = (shlex.quote(str(path)) for path in (run, run / "averaged"))
        return f"the mean of the last checkpoints may be better: tmt average {own} --output {averaged} --validate"
    return "more text is what helps now, of other people or back-translated (docs/data.md)"


def _rises(records: Sequence[Record], metric: str) -> bool:
    """Return whether the best score of the last third of the validations is well above the best before."""
    values: list[float] = [-one[metric] if metric == "loss" else one[metric] for one in records]
    border = -(-len(values) * 2 // 3)
    if border == len(values):  # one or two
        return False
    return max(values[border:]) - max(values[:border]) > _STILL_RISING * abs(max(values))
