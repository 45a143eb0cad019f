"""What a training run is made of, put together before its first update: ranks, tokenizer, corpus, model, validation,
all of it new or as a checkpoint left it, and tried with the largest batch."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from transformer_mt.checkpoints import run_directory
from transformer_mt.checkpoints.manifest import read_manifest
from transformer_mt.checkpoints.model_directory import copy_weights
from transformer_mt.checkpoints.training_state import CODE, TrainState
from transformer_mt.config.data_sections import DataConfig, NoiseConfig
from transformer_mt.config.loading import OF_RUNS, load_config
from transformer_mt.config.sections import Config, TokenizerConfig
from transformer_mt.curation.synthetic import synthesize
from transformer_mt.data import cache_keys, preparing
from transformer_mt.data.epochs import Epochs, corpus_fingerprint
from transformer_mt.data.readers.sources import check_sources
from transformer_mt.data.store import IdStore
from transformer_mt.errors import InputError
from transformer_mt.model.kinds import new_model
from transformer_mt.model.transformer import EncoderDecoder, count_parameters
from transformer_mt.system import console
from transformer_mt.system.console import Tell
from transformer_mt.system.device import (
    describe,
    local_device,
    prepare_determinism,
    processor,
    resolve_precision,
    seed_stream,
)
from transformer_mt.system.directories import scratch_directory
from transformer_mt.system.origin import code_version
from transformer_mt.system.processes import num_cores
from transformer_mt.system.ranks import Ranks, end_run, join
from transformer_mt.text import subword_sampling
from transformer_mt.text.noise import SourceNoise
from transformer_mt.text.subword_sampling import Sampler
from transformer_mt.text.tokenizer import Tokenizers, load_tokenizer
from transformer_mt.text.tokenizer_training import train_tokenizers
from transformer_mt.text.vocabulary import domain_tag, language_tag
from transformer_mt.training import memory, resuming
from transformer_mt.training.initial import initial_tokenizers, initial_weights
from transformer_mt.training.run_log import format_seconds
from transformer_mt.training.trackers import check_trackers
from transformer_mt.training.update import Updater, can_compile
from transformer_mt.training.validation import Validation, pairs_fingerprint, read_validation, with_tokenization


@dataclass(frozen=True)
class Setup:
    """All that the training loop works with."""

    config: Config  # as it is in force: precision chosen, sources that a model makes as files
    given: Config  # as the run's files have it: those sources as they were asked for
    ranks: Ranks
    device: torch.device
    is_ours: Callable[[], bool]  # whether the run directory still is this run's, as far as this rank knows
    tokenizers: Tokenizers
    epochs: Epochs
    store: IdStore
    longest_src: int  # ids of the longest source that the model has learned from, also before this run
    updater: Updater
    validation: Validation
    state: TrainState
    largest: memory.Largest
    tried: str  # what the trial of the largest batch took, for people
    tell: Tell


def set_up(config: Config, run: Path, cleanup: contextlib.ExitStack, *, resume: bool, dry_run: bool) -> Setup:
    """Put a run together. What has to be undone at its end, however it ends, goes to ``cleanup``.

    Raises:
        InputError: configuration or input that cannot be trained on; a run directory that is in use or not a run's.
        RunError: a full disk; no room in memory for the largest batch.
    """
    # 1. Who and where we are.
    ranks = cleanup.enter_context(join())
    device = local_device(ranks.local_rank)
    _refuse_mixed(config, device, ranks)
    ranks.connect(device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), num_cores()))  # PyTorch knows of no container's share
    config = with_tokenization(config)
    prepare_determinism()
    tell = console.tell if ranks.is_first else console.tell_nobody

    # 2. What to continue from, the tokenizer and the corpus. Rank 0 makes them, the others find them made.
    latest: Path | None = None
    is_ours: Callable[[], bool] = _yes
    if ranks.is_first and not dry_run:
        is_ours = cleanup.enter_context(run_directory.only_process_in(run))
        latest = resuming.checkpoint_to_continue(config, run, resume, tell)
        check_trackers(config.train)
    latest = ranks.broadcast(latest)
    before = None if latest is None else load_config(latest / "config.yaml", of_model=True)
    given = resuming.settled(config, latest, before, device, tell)
    if ranks.is_first:
        check_sources(config.data)
    config = given.model_copy(update={"data": _with_synthetic(given.data, ranks, tell)})
    valid_pairs = read_validation(config.data, config.eval)  # now, not after hours of preparation
    tokenizers: Tokenizers = ranks.broadcast(
        _tokenizers(config, latest, tell) if ranks.is_first else None, patiently=True
    )
    samplers = _samplers(config, tokenizers)
    store = _corpus(config, tokenizers, ranks)
    epochs = _epochs(store, samplers, config, ranks, None if dry_run else run, cleanup)

    # 3. Model and optimizer, new or restored.
    model = _model(config, tokenizers, device, is_new=latest is None)
    updater = Updater(model, config, device, ranks, tell)
    state = TrainState(corpus=corpus_fingerprint(config.data, store), tokenizer=tokenizers.fingerprint)
    state.training_files, state.validation = cache_keys.training_files(config.data), pairs_fingerprint(valid_pairs)
    state.environment = _environment(ranks.num_ranks, device, given.train.precision, config.batch.micro_tokens or 0)
    if latest is not None and before is not None:
        resuming.refuse_other_corpus(latest, before, given, state)
        state = resuming.restore(latest, model, updater.optimizer, updater.average, state, tell)
        if ranks.is_first:
            run_directory.repoint(run, latest, state.best_step, is_validated=bool(valid_pairs))
        resuming.tell_changes(before, given, state, pairs_fingerprint(valid_pairs), tell)
    for line in _opening(config, model, store, device, ranks.num_ranks):
        tell(line)
    longest_src = _longest_src(config, latest, store, epochs.open(state.cursor.epoch, tell))
    validation = Validation(valid_pairs, config, tokenizers, model, given.train.precision, longest_src, tell)
    state.awaits_validation = state.awaits_validation and bool(validation)

    # 4. Does it fit?
    largest_of = _largest_batches(store, epochs, ranks, is_sampled=samplers is not None)
    largest, tried = memory.try_batches(largest_of, config, updater, ranks, tell)
    if config.batch.micro_tokens is None:
        config, given = (one.with_micro_tokens(largest.micro_tokens) for one in (config, given))
        state.environment["micro_tokens"] = validation.micro_tokens = largest.micro_tokens
    return Setup(
        config=config,
        given=given,
        ranks=ranks,
        device=device,
        is_ours=is_ours,
        tokenizers=tokenizers,
        epochs=epochs,
        store=store,
        longest_src=longest_src,
        updater=updater,
        validation=validation,
        state=state,
        largest=largest,
        tried=tried,
        tell=tell,
    )


def _refuse_mixed(config: Config, device: torch.device, ranks: Ranks) -> None:
    """Refuse ranks that would compute in different ways: what they sum, and what they save, would be neither's."""
    ways = ranks.all_gather((device.type, resolve_precision(config.train.precision, device)))
    for rank, way in enumerate(ways):
        if way != ways[0]:
            first, other = (f"{kind} in {precision}" for kind, precision in (ways[0], way))
            remedy = "set train.precision" if way[0] == ways[0][0] else "see whether that machine's GPUs work"
            end_run(ranks, f"rank 0 computes on {first}, rank {rank} on {other}; {remedy}")


def _yes() -> bool:
    return True


def tell_plan(setup: Setup) -> None:
    """Tell how many updates an epoch has, and what they take by the largest batch (``tmt train --dry-run``)."""
    config, ranks = setup.config, setup.ranks
    speed = memory.labels_per_second(setup.largest.shapes, config, setup.updater)
    store = setup.epochs.open(0, setup.tell)
    lengths = store.lengths("tgt")
    updates = [int(lengths[pairs].sum()) for window in setup.epochs.plan(store, 0) for pairs in window]
    seconds = sum(updates) / (speed * ranks.num_ranks)
    whole = seconds / max(1, len(updates)) * config.train.max_steps
    setup.tell(f"plan: {len(updates):,} updates an epoch; {setup.tried}")
    setup.tell(
        f"time, by that batch: about {format_seconds(seconds)} an epoch and {format_seconds(whole)} for "
        f"train.max_steps {config.train.max_steps:,}, validation and saving apart"
    )


def _tokenizers(config: Config, latest: Path | None, tell: Tell) -> Tokenizers:
    """Return the run's own tokenizers, those of the model it starts from, the given ones, or new ones."""
    settings, data = config.tokenizer, config.data
    tags = [domain_tag(tag) for tag in data.tags()]
    if len(data.tgt_langs()) > 1:
        tags = [*(language_tag(language) for language in data.tgt_langs()), *tags]
    given = None
    if settings.model is not None and (latest is None or Path(settings.model).exists()):
        src = load_tokenizer(settings.model)
        given = Tokenizers(src, src if settings.tgt_model is None else load_tokenizer(settings.tgt_model))
        given = given.with_tags(tags)
    if latest is not None:
        own = Tokenizers.load(latest, read_manifest(latest).tags)
        if given is not None and given.fingerprint != own.fingerprint:
            raise InputError(
                f"tokenizer.model {settings.model} ({given.fingerprint}) is not the vocabulary that {latest} was "
                f"trained with ({own.fingerprint}); restore it, or start another run with --output"
            )
        return own
    if config.train.init_from is not None:
        initial = initial_tokenizers(config, tags, tell)
        if given is not None and given.fingerprint != initial.fingerprint:
            raise InputError(
                f"tokenizer.model {settings.model} ({given.fingerprint}) is not the vocabulary that train.init_from "
                f"{config.train.init_from} was trained with ({initial.fingerprint}); remove tokenizer.model"
            )
        return initial
    if given is not None:
        idle = [key for key, value in settings if key not in OF_RUNS and value != getattr(TokenizerConfig(), key)]
        if idle:
            keys = ", ".join(f"tokenizer.{key}" for key in idle)
            tell(f"warning: {keys}: no effect beside tokenizer.model, which is used as it is")
        return given

    trained = []
    for tokenizer, report in train_tokenizers(preparing.training_pairs(data), settings, config.train.seed):
        trained.append(tokenizer)
        tell(report)
    return Tokenizers(trained[0], trained[-1]).with_tags(tags)


def _samplers(config: Config, tokenizers: Tokenizers) -> tuple[Sampler | None, Sampler | None] | None:
    """Return what draws the pieces of sources and targets for each epoch, or None where all epochs have the same."""
    of_pieces = subword_sampling.samplers(tokenizers, config.tokenizer)
    if config.data.noise == NoiseConfig():
        return of_pieces
    src, tgt = of_pieces or (None, None)
    return SourceNoise(tokenizers.src, config.data.noise, src), tgt


def _with_synthetic(data: DataConfig, ranks: Ranks, tell: Tell) -> DataConfig:
    """Return the section with what models make of its text as files, made and checked by rank 0.

    For nodes without its cache the first rank of each makes them there.
    """
    made = synthesize(data, tell, ("train", "valid")) if ranks.is_first else None
    section: DataConfig = ranks.broadcast(made, patiently=True)
    if made is None and ranks.local_rank == 0:
        section = synthesize(data, tell, ("train", "valid"))
    ranks.all_gather(None, patiently=True)
    return section


def _corpus(config: Config, tokenizers: Tokenizers, ranks: Ranks) -> IdStore:
    """Return the training corpus, made and checked by rank 0.

    For nodes without its cache the first rank of each makes it there.
    """
    store = preparing.prepare(config.data, config.batch, tokenizers) if ranks.is_first else None
    directory = ranks.broadcast(None if store is None else store.directory, patiently=True)
    if store is None and ranks.local_rank == 0:
        store = preparing.prepare(config.data, config.batch, tokenizers)
    ranks.all_gather(None, patiently=True)
    return IdStore(directory) if store is None else store


def _epochs(
    store: IdStore,
    samplers: tuple[Sampler | None, Sampler | None] | None,
    config: Config,
    ranks: Ranks,
    run: Path | None,
    cleanup: contextlib.ExitStack,
) -> Epochs:
    """Return the epochs of a run, or of a dry one (None), whose run directory may be in use."""
    if run is not None:
        directory = run / "epochs"
    else:
        directory = cleanup.enter_context(scratch_directory(Path(config.data.cache_dir).expanduser() / "dry-run"))
    epochs = Epochs(store, samplers, config, directory, ranks)
    cleanup.callback(epochs.close)
    return epochs


def _model(config: Config, tokenizers: Tokenizers, device: torch.device, *, is_new: bool) -> EncoderDecoder:
    """Return the model in training mode on its device; a new one has random weights or those of ``train.init_from``."""
    seed_stream(config.train.seed)
    model = new_model(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    if config.train.init_from is not None and is_new:
        initial, weights = initial_weights(config.train.init_from, tokenizers)
        copy_weights(model, weights, initial.path)
    model.freeze(config.train.freeze)
    model.to(device).train()
    return model


def _longest_src(config: Config, latest: Path | None, store: IdStore, opened: IdStore) -> int:
    """Return the ids of the longest source that a model learns from, in this run or before it.

    Where pieces are drawn (``opened``), those of a new run's first epoch count: they are shorter, and more, as those of
    unseen words are. A run that goes on has that in its checkpoint, whatever its epoch draws.
    """
    start = latest or (config.train.init_from and run_directory.resolve_model(Path(config.train.init_from)))
    before = read_manifest(start).longest_src_tokens if start else 0
    drawn = int(opened.lengths("src").max()) if latest is None and opened is not store else 0
    return max(store.longest_src, before, drawn)


def _largest_batches(
    store: IdStore, epochs: Epochs, ranks: Ranks, *, is_sampled: bool
) -> Callable[[Config], memory.Largest]:
    """Return what finds the largest batches with a configuration."""
    return functools.partial(
        memory.largest_batches,
        store.lengths("src"),
        store.lengths("tgt"),
        store.parts(),
        epochs.weights,
        num_ranks=ranks.num_ranks,
        is_sampled=is_sampled,
    )


def _environment(num_ranks: int, device: torch.device, precision: str, micro_tokens: int) -> dict[str, str | int]:
    """Return what the last bits of a run depend on besides its configuration."""
    return {
        CODE: code_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": processor(),
        "device": describe(device),
        "ranks": num_ranks,
        "precision": precision,
        "micro_tokens": micro_tokens,
    }


def _opening(
    config: Config, model: EncoderDecoder, store: IdStore, device: torch.device, num_ranks: int
) -> Iterator[str]:
    """Say what will be trained on what, and what of the configuration has no effect."""
    data, train = config.data, config.train
    if train.compile and not can_compile(device, train.precision):
        yield "train.compile: of use on a GPU in bfloat16 only; the layers run as they are"
    yield f"corpus: {store.report.summary()}"
    many = f" × {num_ranks}" if num_ranks > 1 else ""
    what = "Transformer" if config.model.kind == "transformer" else "recurrent model"
    num_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    size = f"{count_parameters(model):,} parameters" + (f" ({num_frozen:,} of them frozen)" if num_frozen else "")
    yield (
        f"training {data.src_lang}-{data.tgt_lang}: {config.model.preset} {what} with "
        f"{size}, {len(store):,} pairs of {store.report.num_pairs:,}, "
        f"{store.num_tgt_tokens:,} target tokens, {describe(device)}{many}, {train.precision}"
    )
    if data.src_lang == data.tgt_lang:
        yield (
            f"warning: data.src_lang and data.tgt_lang are both {data.src_lang}; set each to the language of its side: "
            "columns and units are chosen by them, and how scores cut words"
        )
    before_decay = train.max_steps - (config.optim.decay_steps or 0)
    if train.max_steps < config.optim.warmup_steps:
        yield (
            f"warning: train.max_steps {train.max_steps:,} is less than optim.warmup_steps "
            f"{config.optim.warmup_steps:,}: the learning rate never reaches its peak; lower optim.warmup_steps"
        )
    elif config.optim.decay_steps is not None and before_decay <= config.optim.warmup_steps:
        yield (
            f"warning: optim.decay_steps {config.optim.decay_steps:,} and optim.warmup_steps "
            f"{config.optim.warmup_steps:,} leave nothing of train.max_steps {train.max_steps:,} between them, where "
            "the learning rate would stand; lower one of them"
        )
