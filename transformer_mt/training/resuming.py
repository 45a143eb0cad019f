"""What a run continues from: its newest checkpoint, which only the same configuration and corpus may go on from; or the
weights and the vocabulary of another model.
"""

from __future__ import annotations

from pathlib import Path

import torch

from transformer_mt.checkpoints import run_directory, saver, training_state
from transformer_mt.checkpoints.run_directory import remove_leftovers
from transformer_mt.checkpoints.training_state import CODE, TrainState
from transformer_mt.config.loading import load_config, load_part, on_one_line
from transformer_mt.config.parts import InitialConfig
from transformer_mt.config.section import Section
from transformer_mt.config.sections import MICRO_TOKENS, Config
from transformer_mt.errors import InputError
from transformer_mt.evaluation.scores import DEFAULT_TOKENIZE
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.console import Tell
from transformer_mt.system.device import resolve_precision
from transformer_mt.training.optim import WeightAverage, learning_rate

# What may differ between a run and its continuation; everything else would make it another run.
_FREE_SECTIONS = ("search", "eval")
_FREE_KEYS = {
    "data": {"cache_dir", "valid", "test", "train"},  # of the training pairs, the fingerprint decides
    "batch": {"micro_tokens"},
    "optim": {"decay_steps"},
    "train": {
        *("max_steps", "eval_steps", "checkpoint_steps", "keep_checkpoints", "log_steps", "patience", "best_metric"),
        *("precision", "threads", "recompute_activations", "compile", "init_from", "tensorboard", "tracker"),
    },
    "tokenizer": {"model", "tgt_model"},  # the run has its own copy; another vocabulary is refused
}


def checkpoint_to_continue(config: Config, run: Path, resume: bool, tell: Tell) -> Path | None:
    """Return the checkpoint to go on from, if the run has one and may.

    Raises:
        InputError: the run has one and shall not go on, or differs from it in what makes it another run.
    """
    remove_leftovers(run)
    if not run_directory.list_checkpoints(run):
        return None
    if not resume:
        raise InputError(f"{run}: has checkpoints; continue it with --resume, or choose another --output")
    latest = run_directory.newest_usable(run, tell)
    if latest is None:
        raise InputError(f"{run}: none of its checkpoints is intact; start again with another --output")
    before = load_config(latest / "config.yaml", of_model=True)
    if config.train.init_from is not None:
        if before.train.init_from is None:
            raise InputError(
                f"{run}: did not start from another model; remove train.init_from, or choose another --output"
            )
        config = like_initial(config, latest)
    if differing := differing_keys(before, config):
        raise InputError(
            f"{run}: cannot continue with another configuration ({'; '.join(differing)}); "
            "set these back, or start another run with --output"
        )
    return latest


# What a run from another model may have otherwise than it. The tokenizer's files are compared by their content.
_OTHER_THAN_INITIAL = {
    "model": {"preset", "dropout", "attention_dropout", "activation_dropout"},
    "tokenizer": {"model", "tgt_model", "bpe_dropout", "unigram_alpha", "add_pieces"},
}


def like_initial(config: Config, latest: Path | None) -> Config:
    """Return the configuration of a run that starts from another model: shape and vocabulary are that model's.

    Keys of the tokenizer that were not given are what the run's configuration has, or the initial model's.

    Raises:
        InputError: keys that differ from the initial model's, with both values; no such model.
    """
    assert config.train.init_from is not None
    try:
        directory = latest or run_directory.resolve_model(Path(config.train.init_from))
    except InputError as error:
        raise InputError(f"train.init_from: {error}") from None
    before = load_part(directory / "config.yaml", InitialConfig)
    free = _OTHER_THAN_INITIAL["tokenizer"] | config.tokenizer.model_fields_set
    unsaid = {key: value for key, value in before.tokenizer if key not in free}
    config = config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update=unsaid)})
    differing = [
        f"{section}.{key} is {getattr(ours, key)}, that of train.init_from {value}"
        for section, ours, theirs in (
            ("model", config.model, before.model),
            ("tokenizer", config.tokenizer, before.tokenizer),
        )
        for key, value in theirs
        if key not in _OTHER_THAN_INITIAL[section] and getattr(ours, key) != value
        if not (key == "user_symbols" and {*value} < {*config.tokenizer.user_symbols})  # there may be more of them
    ]
    if differing and latest is None:  # of a run that goes on, everything is compared
        raise InputError(
            f"{'; '.join(differing)}; set {'it' if len(differing) == 1 else 'them'} so, or remove train.init_from "
            f"({config.train.init_from})"
        )
    return config


def settled(config: Config, latest: Path | None, before: Config | None, device: torch.device, tell: Tell) -> Config:
    """Return a run's configuration with what it leaves open: shape and vocabulary of the model that it starts from, its
    precision, the size of its forward passes.

    Args:
        latest, before: the checkpoint that it continues from, and its configuration.

    Raises:
        InputError: as `like_initial` does.
    """
    if config.train.init_from is not None:
        config = like_initial(config, latest)
    precision = precision_of(config, before, device, tell)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    return config.with_micro_tokens(micro_tokens_of(config, before, device))


def precision_of(config: Config, before: Config | None, device: torch.device, tell: Tell) -> str:
    """Return the precision of a run: what is asked for; what it began with (``before``, the configuration of the
    checkpoint that it continues from); what the hardware is fast in."""
    chosen = resolve_precision(config.train.precision, device)
    if config.train.precision != "auto" or before is None:
        return chosen
    own = before.train.precision
    if own != chosen:
        tell(f"train.precision: auto stays {own}, with which the run began (for a new one this machine gets {chosen})")
    return own


def micro_tokens_of(config: Config, before: Config | None, device: torch.device) -> int | None:
    """Return the size of a run's forward passes: what is asked for; what it began with, so that it goes on bit for bit;
    what a CPU does best. None: the largest that the memory of a GPU has room for."""
    began_with = None if before is None else before.batch.micro_tokens
    return config.batch.micro_tokens or began_with or (MICRO_TOKENS if device.type == "cpu" else None)


def differing_keys(old: Config, new: Config, is_free: bool = False) -> list[str]:
    """Return the keys that would make this another run, with both values; or those that may change (``is_free``)."""
    before, now = old.model_dump(mode="json", exclude_none=True), new.model_dump(mode="json", exclude_none=True)
    return [
        f"{section}.{key} was {_shown(old, section, key)}, is {_shown(new, section, key)}"
        for section in before
        for key in before[section] | now[section]
        if is_free == (section in _FREE_SECTIONS or key in _FREE_KEYS.get(section, ()))
        and before[section].get(key) != now[section].get(key)
    ]


def _shown(config: Config, section: str, key: str) -> str:
    """Return a value as it is written, of sources only what is not the default."""
    keys = getattr(config, section)
    value = getattr(keys, key)
    if value is None:
        return "not set"
    default = {} if isinstance(value, Section) else value
    return on_one_line(keys.model_dump(mode="json", include={key}, exclude_defaults=True).get(key, default))


def tell_changes(old: Config, new: Config, state: TrainState, validation: str, tell: Tell) -> None:
    """Tell which free keys differ from the checkpoint's; scores that cannot be compared start afresh."""
    if changed := differing_keys(old, new, is_free=True):
        tell(f"continuing with changed settings: {'; '.join(changed)}")
    # Of the last update, which is behind us: on the plateau of `stable` both have done the same, whatever comes.
    last = max(1, state.step)
    rates = [learning_rate(last, c.optim, c.model.d_model, c.train.max_steps) for c in (old, new)]
    if rates[0] != rates[1]:
        ends = f"the schedule {new.optim.schedule} depends on the length of the run"
        tell(f"warning: the learning rate goes on from {rates[1]:.2e}, not {rates[0]:.2e}: {ends}")
    if validation != state.validation or _scoring(old) != _scoring(new):
        state.best_score, state.best_loss, state.evals_without_improvement = None, None, 0
    state.validation = validation


def _scoring(config: Config) -> tuple[object, ...]:
    """Return what scores of the same sentences and weights depend on."""
    search = config.search
    how = search.length_penalty, search.length_penalty_form, search.stop, search.max_extra_tokens
    limits = search.min_tokens, search.no_repeat_ngram, search.max_source_tokens
    # A language that is not there was scored with 13a, in runs of 0.1.0 whatever it is.
    tokenize = {language: name for language, name in config.eval.tokenize.items() if name != DEFAULT_TOKENIZE}
    return (config.train.best_metric, config.eval.beam_size, tokenize, *how, *limits)


def refuse_other_corpus(latest: Path, old: Config, new: Config, fresh: TrainState) -> None:
    """Refuse to go on with other pairs, which would make it another run; the same pairs may have moved to other files.

    Raises:
        InputError: which files have changed, are new or gone.
    """
    state = training_state.read_state(latest)
    if state.corpus == fresh.corpus:
        return
    before, now = state.training_files, fresh.training_files
    changes = [
        f"{path} {'has changed' if path in before and path in now else 'is new' if path in now else 'is gone'}"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    ]
    texts: tuple[str, ...] = ("data.train ",)
    if new.data.clean.drop_held_out:
        texts += ("data.valid ", "data.test ")
    changes = changes or [key for key in differing_keys(old, new, is_free=True) if key.startswith(texts)]
    unseen = "its data sets have changed, the text that drop_held_out leaves out, or how a format is read"
    raise InputError(
        f"{latest}: was trained on another corpus ({'; '.join(changes) or unseen}); restore it, "
        "or start another run with --output"
    )


def restore(
    latest: Path,
    model: EncoderDecoder,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    fresh: TrainState,
    tell: Tell,
) -> TrainState:
    """Fill the model, the optimizer and the average from a checkpoint, and return its state.

    Tell what differs in the environment, and where it goes on.
    """
    state = saver.load_training(latest, model, optimizer, None if average is None else average.weights)
    changed = [
        f"{name} was {state.environment.get(name)}, is {value}"
        for name, value in fresh.environment.items()
        if state.environment.get(name) != value and name != CODE  # most commits change no number
    ]
    if changed:
        tell(f"warning: continuing with the same data in the same order, but not bit for bit: {'; '.join(changed)}")
    state.environment, state.training_files = fresh.environment, fresh.training_files
    tell(f"continuing from step {state.step:,}, epoch {state.cursor.epoch + 1}")
    return state
