"""What is known of a run, whatever has become of it: its state, log, prepared text, and translations of its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from transformer_mt.checkpoints.description import Facts, describe
from transformer_mt.checkpoints.manifest import CONFIG, verify
from transformer_mt.checkpoints.run_directory import is_run, is_training, list_checkpoints, resolve_model
from transformer_mt.checkpoints.run_records import FILE_NAME, Record, read_records
from transformer_mt.checkpoints.training_state import TrainState, read_state
from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import Config
from transformer_mt.data.epochs import corpus_fingerprint
from transformer_mt.data.store import IdStore
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError, TmtError
from transformer_mt.evaluation.attention_pictures import attention_as_data, select
from transformer_mt.evaluation.comet import comet_score
from transformer_mt.evaluation.comparison import Part, marked
from transformer_mt.evaluation.figures import check_matplotlib
from transformer_mt.evaluation.scores import sentence_scores
from transformer_mt.evaluation.source_scores import ScoredSource, score_source, search_settings
from transformer_mt.system.console import Tell

NUM_SHOWN = 5  # of the best translations, and of the worst
_NUM_PICTURES = 2  # of attention, from the best and from the worst

_T = TypeVar("_T")


class ShownPair(NamedTuple):
    """A sentence, its translation with what the reference has not marked, and the chrF of that."""

    number: int
    source: str
    reference: str
    translation: list[Part]
    chrf: float

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.translation)


@dataclass
class Translations:
    """Translations of the first test text, else validation text, by the run's best checkpoint, else its last."""

    kind: str  # test or validation
    name: str
    model: str
    scored: ScoredSource
    best: list[ShownPair]
    worst: list[ShownPair]
    comet: tuple[float, str] | None = None  # score and signature


@dataclass
class RunReport:
    """What is known of a run. What is not there is None or empty; ``notes`` say why, where that is not plain."""

    path: Path
    config: Config
    state: str  # in a sentence
    records: list[Record]
    environments: dict[int, dict[str, str | int]]  # by the step of each checkpoint
    facts: Facts | None = None
    corpus: IdStore | None = None
    translations: Translations | None = None
    attention: list[tuple[ShownPair, str]] = field(default_factory=list)  # pictures, as addresses that hold them
    notes: list[str] = field(default_factory=list)

    def attempt(self, what: str, work: Callable[[], _T]) -> _T | None:
        """Return what a part comes to, or None and a note where it fails: the rest is worth reading without it."""
        try:
            return work()
        except TmtError as error:
            self.notes.append(f"{what}: {error}")
            return None


def read_run(run: Path, most_lines: int, with_comet: bool, tell: Tell) -> RunReport:
    """Return what is known of a run, also while it goes on.

    Args:
        most_lines: of text to be translated; 0: none.
        with_comet: score these by COMET as well.
        tell: hears of letters in pictures that no font has.

    Raises:
        InputError: it is no run directory, or its configuration or log cannot be read.
    """
    if not is_run(run) and not (run / FILE_NAME).exists():
        raise InputError(
            f"{run}: not a run directory (no checkpoints, no {FILE_NAME}); give one that tmt train has made"
        )
    config = load_config(run / CONFIG, of_model=True)
    records = read_records(run / FILE_NAME) if (run / FILE_NAME).exists() else []
    states: dict[int, TrainState] = {}
    found = RunReport(run, config, "", records, {})
    for one in list_checkpoints(run):
        if (state := found.attempt("checkpoint", lambda path=one.path: _state(path))) is not None:  # type: ignore[misc]
            states[one.step] = state
    found.environments = {step: state.environment for step, state in states.items()}
    last = states[max(states)] if states else None
    found.state = describe_state(config, records, last, is_going_on=is_training(run))
    if last is not None:
        found.facts = found.attempt("model", lambda: describe(run))
        found.corpus = _prepared_corpus(config, last.corpus)
        if found.corpus is None:
            found.notes.append(f"data: the prepared text is no longer in {config.data.cache_dir}, nor its counts")
        if most_lines:
            _add_translations(found, most_lines, with_comet, tell)
    else:
        found.notes.append("model, translations and attention: there is no checkpoint")
    if not records:
        found.notes.append(f"curves and speed: there is no {FILE_NAME}, or nothing in it")
    return found


def _state(checkpoint: Path) -> TrainState:
    """The state of a checkpoint that a run could go on from: all its files have their sizes."""
    verify(checkpoint, only_sizes=True)
    return read_state(checkpoint)


def describe_state(config: Config, records: list[Record], last: TrainState | None, *, is_going_on: bool) -> str:
    """Return in a sentence how far a run has come, and what has become of it; ``last``: of its newest checkpoint."""
    most, patience = config.train.max_steps, config.train.patience
    logged = max((record["step"] for record in records), default=0)
    of_all = f"update {logged:,} of {most:,}"
    if is_going_on:
        return f"Training goes on; the log has come to {of_all}."
    if any(record["kind"] == "not_finite" for record in records):
        return f"Ended at {of_all}: its loss or gradient was not finite ({FILE_NAME} names the pairs)."
    if last is None:
        return f"Ended before its first checkpoint; the log has come to {of_all}."
    kept = f"its last checkpoint is of update {last.step:,}, from which --resume goes on"
    if last.awaits_validation:
        return f"Ended at {of_all}, as its validation failed or a signal stopped it; {kept}."
    if last.step >= most:
        return f"Finished: all {most:,} updates are done."
    if 0 < patience <= last.evals_without_improvement:
        return f"Finished at {of_all}: no better {config.train.best_metric} in {patience} validations."
    if last.by_signal:
        return f"Stopped by a signal at {of_all}; {kept}."
    return f"Ended early, stopped or crashed: the log has come to {of_all}; {kept}."


def _prepared_corpus(config: Config, fingerprint: str) -> IdStore | None:
    """Return what a run was trained on, if it still is in the cache."""
    for path in sorted(Path(config.data.cache_dir).expanduser().glob("*/meta.json")):
        try:
            store = IdStore(path.parent)
            is_alike = len(store.source_sizes) == len(config.data.train)
            if is_alike and corpus_fingerprint(config.data, store) == fingerprint:
                return store
        except TmtError:  # damaged, and made anew when it is needed
            continue
    return None


def _add_translations(found: RunReport, most_lines: int, with_comet: bool, tell: Tell) -> None:
    data = found.config.data
    kind, sources = ("test", data.test) if data.test else ("validation", data.valid)
    if not sources:
        found.notes.append("translations: the configuration names neither test nor validation text")
        return
    model = found.attempt("translations", lambda: resolve_model(found.path))
    if model is None:
        return
    scored = found.attempt("translations", lambda: score_source(found.config, sources[0], model, most=most_lines))
    if scored is None:
        return
    shown = found.translations = Translations(kind, str(sources[0]), model.name, scored, *_extremes(scored))
    if with_comet:
        src, tgt = zip(*scored.pairs, strict=True)
        shown.comet = found.attempt("COMET", lambda: comet_score(src, scored.hypotheses, tgt))
    found.attempt("attention", lambda: _add_attention(found, shown, model, tell))


def _extremes(scored: ScoredSource) -> tuple[list[ShownPair], list[ShownPair]]:
    """Return the best translations, of equal ones the longest, and the worst; blank lines have none."""
    references = [pair.tgt for pair in scored.pairs]
    chrf = [row["chrf"] for row in sentence_scores(scored.hypotheses, [references], ["chrf"])]
    filled = [i for i, pair in enumerate(scored.pairs) if pair.src.strip() and pair.tgt.strip()]
    ranked = sorted(filled, key=lambda i: (-chrf[i], -len(references[i])))

    def show(i: int) -> ShownPair:
        pair = scored.pairs[i]
        return ShownPair(scored.numbers[i], pair.src, pair.tgt, marked(scored.hypotheses[i], pair.tgt), chrf[i])

    count = min(NUM_SHOWN, len(ranked) // 2 or 1)
    return [show(i) for i in ranked[:count]], [show(i) for i in ranked[: -count - 1 : -1]]


def _add_attention(found: RunReport, shown: Translations, model: Path, tell: Tell) -> None:
    """Draw the last layer's attention over the source, the mean of its heads, in some of the translations."""
    check_matplotlib("attention")
    source = (found.config.data.test or found.config.data.valid)[0]
    with Translator.load(model, settings=search_settings(found.config, source)) as translator:
        for pair in (*shown.best[:_NUM_PICTURES], *shown.worst[:_NUM_PICTURES]):
            if not pair.text.strip():
                continue
            try:
                maps = translator.attention_maps(pair.source, pair.text)
            except InputError as error:  # a long one; what it advises is for another command
                found.notes.append(f"attention of line {pair.number}: {str(error).partition(';')[0]}")
            else:
                found.attention.append((pair, attention_as_data(select(maps, "cross"), tell)))
