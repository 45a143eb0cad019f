"""The training loop: update, validate, save, stop.

`train` reads from top to bottom: join the other ranks, get tokenizer and corpus, build or restore model and optimizer,
then one update after the other. All randomness is keyed by (seed, update, rank, micro-batch) and the data by a cursor,
so a checkpoint holds everything that the next step depends on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from transformer_mt.checkpoints import model_directory, run_directory
from transformer_mt.checkpoints.run_directory import only_process_in
from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.loading import OF_RUNS, load_config, to_yaml
from transformer_mt.config.sections import Config, TokenizerConfig
from transformer_mt.curation.synthetic import synthesize
from transformer_mt.data import batching, preparing
from transformer_mt.data.epochs import Epochs
from transformer_mt.data.epochs import fingerprint as corpus_fingerprint
from transformer_mt.data.store import IdStore
from transformer_mt.errors import InputError, RunError, TmtError
from transformer_mt.model.layout import ROWS_MULTIPLE, collate
from transformer_mt.model.transformer import Transformer, count_parameters
from transformer_mt.system import device
from transformer_mt.system.console import tell
from transformer_mt.system.directories import scratch_directory
from transformer_mt.system.ranks import Ranks, join
from transformer_mt.system.signals import StopSignal
from transformer_mt.system.whole_files import replaced_file
from transformer_mt.text import subword_sampling
from transformer_mt.text.tokenizer import Tokenizers, load_tokenizer
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import domain_tag, language_tag
from transformer_mt.training import memory, resuming
from transformer_mt.training.meter import Meter, end_run
from transformer_mt.training.optim import FlatGradients, WeightAverage, adam, learning_rate
from transformer_mt.training.run_log import RunLog, format_seconds
from transformer_mt.training.trackers import check_trackers, open_trackers
from transformer_mt.training.validation import Validation, fingerprint, read_validation, with_tokenization

_DIRECTORY_LOST = 1000  # told among the ranks like a signal; no signal has this number

Say = Callable[[str], None]


def train(config: Config, run: Path, *, resume: bool = False, dry_run: bool = False) -> None:
    """Train a model into a run directory; with ``dry_run`` only try its largest batch.

    Raises:
        InputError: configuration or input that cannot be trained on; a run directory that is in use or not empty.
        RunError: a loss that is not finite, a full disk, an interruption (after saving).
    """
    # 1. Who and where we are.
    ranks = join()
    where = device.local_device(ranks.local_rank)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    config = with_tokenization(config)
    _be_deterministic(config.train.deterministic)
    say: Say = tell if ranks.is_first else lambda line: None
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(ranks.close)

        # 2. What to continue from, the tokenizer and the corpus. Rank 0 makes them, the others find them made.
        latest, is_ours = None, None
        if ranks.is_first and not dry_run:
            is_ours = cleanup.enter_context(only_process_in(run))
            latest = resuming.checkpoint_to_continue(config, run, resume, say)
            check_trackers(config.train)
        latest = ranks.first_says(latest)
        if config.train.init_from is not None:
            config = resuming.like_initial(config, latest)
        precision = resuming.precision_of(config, latest, where, say)
        config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
        given = config  # what the run's files say; a source that a model makes is two files from here on
        for is_mine in (ranks.is_first, not ranks.is_first):
            if is_mine:
                config = config.model_copy(update={"data": synthesize(config.data, say, ("train", "valid"))})
            ranks.first_says(None, patiently=True)
        valid_pairs = read_validation(config.data, config.eval)  # now, not after hours of preparation
        tokenizers = _tokenizers(config, latest, say) if ranks.is_first else None
        files = ranks.first_says(tokenizers.files() if tokenizers is not None else None, patiently=True)
        tokenizers = tokenizers or Tokenizers.from_files(files)
        samplers = subword_sampling.samplers(tokenizers, config.tokenizer)
        store = _corpus(config, tokenizers, ranks)
        place = run / "epochs"
        if dry_run:  # the run directory may be in use
            cache = Path(config.data.cache_dir).expanduser()
            place = cleanup.enter_context(scratch_directory(cache / "dry-run"))
        epochs = Epochs(store, samplers, config, place, ranks)
        cleanup.callback(epochs.close)

        # 3. Model and optimizer, new or restored.
        device.seed_stream(config.train.seed)
        model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        if config.train.init_from is not None and latest is None:
            initial = model_directory.load_model(config.train.init_from)
            model_directory.copy_weights(model, dict(initial.model.named_parameters()), initial.path)
        model.to(where).train()
        model.recompute_activations = config.train.recompute_activations
        if config.train.compile and not device.compile_layers(model.layers, where):
            say("train.compile: of use on a GPU only; these layers run as they are")
        optimizer = adam(model, config.optim)
        average = WeightAverage(model, config.train.ema_decay) if config.train.ema_decay > 0 else None
        state = TrainState(corpus=corpus_fingerprint(config.data, store), tokenizer=tokenizers.fingerprint)
        state.training_files, state.validation = preparing.training_files(config.data), fingerprint(valid_pairs)
        state.environment = _environment(ranks.num_ranks, where, precision, config.batch.micro_tokens)
        if latest is not None:
            before = load_config(latest / "config.yaml", of_model=True)
            resuming.refuse_other_corpus(latest, before, given, state)
            state = resuming.restore(latest, model, optimizer, average, state, say)
            if ranks.is_first:
                run_directory.repoint(run, latest, state.best_step, is_validated=bool(valid_pairs))
            resuming.tell_changes(before, given, state, fingerprint(valid_pairs), say)
        gradients = FlatGradients(model)
        validation = Validation(valid_pairs, config, tokenizers, model, precision, store.longest_src, say)
        say(f"corpus: {store.report.summary()}")
        say(_summary(config, model, store, where, ranks.num_ranks))
        if config.train.max_steps < config.optim.warmup_steps:
            say(
                f"warning: train.max_steps {config.train.max_steps:,} is less than optim.warmup_steps "
                f"{config.optim.warmup_steps:,}: the learning rate never reaches its peak; lower optim.warmup_steps"
            )
        epoch = epochs.open(state.cursor.epoch, say)
        largest = memory.largest_batches(
            store.lengths("src"),
            store.lengths("tgt"),
            store.parts(),
            epochs.weights,
            config,
            num_ranks=ranks.num_ranks,
            is_sampled=samplers is not None,
        )
        tried = memory.try_batches(largest.shapes, config, model, gradients, optimizer, where, ranks)
        if dry_run:
            speed = memory.labels_per_second(largest.shapes, config, model, gradients, where) * ranks.num_ranks
            updates = [int(epoch.tgt_lengths[pairs].sum()) for window in epochs.plan(epoch, 0) for pairs in window]
            seconds = sum(updates) / speed
            whole = seconds / max(1, len(updates)) * config.train.max_steps
            say(f"plan: {len(updates):,} updates an epoch; {tried}")
            say(
                f"time, by that batch: about {format_seconds(seconds)} an epoch and {format_seconds(whole)} for "
                f"train.max_steps {config.train.max_steps:,}, validation and saving apart"
            )
            return
        if ranks.is_first:
            _write_run_files(run, given, tokenizers)
        trackers = open_trackers(config.train, run, state.step) if ranks.is_first else {}
        own = run if ranks.is_first else None
        awaits = state.awaits_validation = state.awaits_validation and bool(validation)
        log = RunLog(own, state.step, config.train, trackers, bool(validation), awaits_validation=awaits)
        cleanup.callback(log.close)
        meter = Meter(store, log, where, ranks, state, config.train.log_steps)
        # Until here a signal just ends the process; from here it saves first.
        stop_signal = cleanup.enter_context(StopSignal())
        saver = None
        if ranks.is_first:
            saver = saver.Saver(run, given, tokenizers, store.longest_src, is_ours or (lambda: True))
            cleanup.callback(saver.close)

        def save(by_signal: bool = False) -> None:
            state.by_signal = by_signal
            if saver is not None:
                weights = dict(model.named_parameters()) if average is None else average.weights
                training = saver.training_tensors(optimizer, model, is_averaged=average is not None)
                saver.save(weights, training, state, is_best=not validation or state.best_step == state.step)

        def validate() -> bool:
            """Score the step, and tell whether it is the best. If that fails, the step is saved and the run ends."""
            meter.pause()
            averaged = contextlib.nullcontext() if average is None else average.in_the_model()
            try:
                with averaged:
                    scores = validation.run(state.step, ranks, log)
            except BaseException as error:
                state.awaits_validation = True
                save(by_signal=True)
                if saver is not None:
                    saver.wait()
                if not isinstance(error, TmtError):
                    log.line(f"step {state.step:,} is saved, without its validation; continue with --resume")
                    raise
                with contextlib.suppress(RunError):  # the other ranks may be gone
                    ranks.first_says(None)  # that it is written
                end_run(
                    ranks,
                    f"step {state.step:,} is saved, but its validation failed: {error}; then continue with --resume",
                )
            state.awaits_validation = False
            is_better = validation.improves(scores, state)
            meter.resume()
            return is_better

        def finish_step() -> None:
            """What comes after an update: validate, save, and stop on a signal."""
            # 4c. Validate; an improvement is saved at once.
            is_last = state.step >= config.train.max_steps
            is_due = is_last or state.step % config.train.checkpoint_steps == 0
            is_saved = False
            is_scored = is_last or state.step % config.train.eval_steps == 0 or state.awaits_validation
            if validation and is_scored:
                if is_saved := validate():
                    save()
                elif validation.out_of_patience(state):
                    is_last = is_due = True

            # 4d. Save what is due. A signal to any rank ends the run on all of them, when the checkpoint is written.
            is_lost = is_ours is not None and not is_ours()
            signal_number = ranks.largest(_DIRECTORY_LOST if is_lost else stop_signal.number)
            if signal_number == _DIRECTORY_LOST:
                end_run(ranks, f"{run}: it or its .lock was removed while training; stopped after step {state.step:,}")
            if not is_saved and (is_due or signal_number):
                meter.pause()
                save(by_signal=not is_due)
                meter.resume()
            if saver is not None:
                saver.check()
            if signal_number and not is_last:
                if saver is not None:
                    saver.wait()
                ranks.first_says(None)  # that it is written; a rank that ends earlier may take rank 0 along
                name = signal.Signals(signal_number).name
                end_run(ranks, f"stopped by {name} after step {state.step:,}, which is saved; continue with --resume")

        # 4. One update after the other.
        device.keep_freed_memory()  # not earlier: what preparing needed may go back to the system
        stream = epochs.updates(state.cursor, state.step, log.line)
        if state.awaits_validation:  # it had failed
            finish_step()
        while state.step < config.train.max_steps and not validation.out_of_patience(state):
            state.cursor, pairs, epoch = next(stream)
            state.step += 1

            # 4a. Gradients of the loss of all labels, on all ranks, divided once by their number.
            num_labels = int(epoch.tgt_lengths[pairs].sum())
            gradients.zero()
            totals = torch.zeros(2, device=where)  # loss, negative log-likelihood
            micro_batches = batching.cut_update(
                pairs,
                epoch.src_lengths,
                epoch.tgt_lengths,
                num_ranks=ranks.num_ranks,
                micro_tokens=largest.micro_tokens,
            )[ranks.rank]
            for number, micro in enumerate(micro_batches):
                device.seed_stream(config.train.seed, state.step, ranks.rank, number)
                batch = collate(epoch.store.get("src", micro), epoch.store.get("tgt", micro), ROWS_MULTIPLE)
                with memory.batch_fits(batch, config.batch.micro_tokens, where):
                    with device.autocast(where, precision):
                        loss, nll = model(batch.to(where), config.train.label_smoothing)
                    (loss / num_labels).backward()
                totals += torch.stack([loss.detach(), nll])
            ranks.sum(gradients.buffer)
            ranks.sum(totals)

            # 4b. The update. Where anything is not finite the fused kernel leaves weights and moments alone.
            norm = gradients.norm()
            is_bad = ~(torch.isfinite(norm) & torch.isfinite(totals).all())
            if config.optim.clip_norm > 0:
                gradients.clip(norm, config.optim.clip_norm)
            rate = learning_rate(state.step, config.optim, config.model.d_model, config.train.max_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
            optimizer.step()
            if average is not None:
                average.update(state.step, is_bad)
            meter.add(state.step, pairs, num_labels, rate, torch.stack([*totals, norm, is_bad.float()]))
            finish_step()
        if saver is not None:
            saver.finish()
        epochs.remove()
        log.line(f"done at step {state.step:,}: {_outcome(run, config, state)}")


def _tokenizers(config: Config, latest: Path | None, say: Say) -> Tokenizers:
    """The run's own, those of the model it starts from, the given ones, or new ones."""
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
        own = Tokenizers.load(latest)
        if given is not None and given.fingerprint != own.fingerprint:
            raise InputError(
                f"tokenizer.model {settings.model} ({given.fingerprint}) is not the vocabulary that {latest} was "
                f"trained with ({own.fingerprint}); restore it, or start another run with --output"
            )
        return own
    if config.train.init_from is not None:
        initial = model_directory.load_model(config.train.init_from)
        if given is not None and given.fingerprint != initial.tokenizers.fingerprint:
            raise InputError(
                f"tokenizer.model {settings.model} ({given.fingerprint}) is not the vocabulary that train.init_from "
                f"{config.train.init_from} was trained with ({initial.tokenizers.fingerprint}); remove tokenizer.model"
            )
        if lacking := sorted({*tags} - {*initial.tokenizers.src.tags}):
            raise InputError(
                f"train.init_from {config.train.init_from}: its vocabulary has no {', '.join(lacking)}, which the "
                "tags or target languages in data.train ask for; remove these, or start from another model"
            )
        return initial.tokenizers
    if given is not None:
        idle = [key for key, value in settings if key not in OF_RUNS and value != getattr(TokenizerConfig(), key)]
        if idle:
            keys = ", ".join(f"tokenizer.{key}" for key in idle)
            say(f"warning: {keys}: no effect beside tokenizer.model, which is used as it is")
        return given

    trained = []
    for sides in [(0, 1)] if settings.shared else [(0,), (1,)]:
        lines = (pair[side] for pair in preparing.training_pairs(data) for side in sides)
        tokenizer, report = train_tokenizer(lines, settings, config.train.seed)
        trained.append(tokenizer)
        say(report)
    return Tokenizers(trained[0], trained[-1]).with_tags(tags)


def _corpus(config: Config, tokenizers: Tokenizers, ranks: Ranks) -> IdStore:
    """The training corpus, made and checked by rank 0 and, for nodes without its cache, by the first rank of each."""
    store = preparing.prepare(config.data, config.batch, tokenizers) if ranks.is_first else None
    directory = ranks.first_says(None if store is None else store.directory, patiently=True)
    if store is None and ranks.local_rank == 0:
        store = preparing.prepare(config.data, config.batch, tokenizers)
    ranks.gather(None, patiently=True)
    return IdStore(directory) if store is None else store


def _write_run_files(run: Path, config: Config, tokenizers: Tokenizers) -> None:
    for name, content in {"config.yaml": to_yaml(config).encode(), **tokenizers.files()}.items():
        with replaced_file(run / name) as file:
            file.write(content)


def _be_deterministic(deterministic: bool) -> None:
    if deterministic and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _environment(num_ranks: int, where: torch.device, precision: str, micro_tokens: int) -> dict[str, str | int]:
    """What the last bits of a run depend on besides its configuration."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": device.processor(),
        "device": device.describe(where),
        "ranks": num_ranks,
        "precision": precision,
        "micro_tokens": micro_tokens,
    }


def _summary(config: Config, model: Transformer, store: IdStore, where: torch.device, num_ranks: int) -> str:
    data = config.data
    many = f" × {num_ranks}" if num_ranks > 1 else ""
    return (
        f"training {data.src_lang}-{data.tgt_lang}: {config.model.preset} Transformer with "
        f"{count_parameters(model):,} parameters, {len(store):,} pairs of {store.report.num_pairs:,}, "
        f"{store.num_tgt_tokens:,} target tokens, {device.describe(where)}{many}, {config.train.precision}"
    )


def _outcome(run: Path, config: Config, state: TrainState) -> str:
    """Why the run ended, its best checkpoint, and what to do with it."""
    ended = "max_steps reached"
    if state.step < config.train.max_steps:
        ended = f"no better {config.train.best_metric} in {config.train.patience} validations"
    if state.best_score is not None:
        ended += f"; best {config.train.best_metric} {state.best_score:.2f} at step {state.best_step:,}"
    return f"{ended}; translate with: tmt translate {run}"
