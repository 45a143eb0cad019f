"""The mean of checkpoints of one run (paper, section 6.1): which are taken, whether they belong together, and whether
their mean is of use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from transformer_mt.checkpoints.manifest import CONFIG, STATE
from transformer_mt.checkpoints.model_directory import held, load_model, save_model
from transformer_mt.checkpoints.run_directory import CheckpointInfo, is_run, list_checkpoints, resolve_model, run_of
from transformer_mt.checkpoints.run_records import FILE_NAME, read_records
from transformer_mt.checkpoints.training_state import read_state
from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import Config
from transformer_mt.curation.synthetic import synthesize
from transformer_mt.errors import InputError
from transformer_mt.system.console import Tell, tell_nobody
from transformer_mt.system.device import local_device, resolve_precision
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.training.resuming import differing_keys
from transformer_mt.training.run_log import RunLog
from transformer_mt.training.validation import Validation, ValidationPair, read_validation

# Nats a label. In a short run (quick start, 800 updates, means of 2, 3 and 5 checkpoints) the loss fell by more than
# this between the oldest and the newest in 16 cases: the mean lost up to 39.6 BLEU against the newest, in 13 of them.
_FAST_FALL = 0.1


@dataclass(frozen=True)
class _Member:
    """What is known of a model besides its weights."""

    path: Path
    config: Config
    tokenizers: Tokenizers
    longest_src_tokens: int
    corpus: str  # "" and 0: no checkpoint but, for instance, an averaged model
    step: int


def average(
    paths: Sequence[Path],
    output: Path,
    tell: Tell = tell_nobody,
    *,
    last: int | None = None,
    validate: bool = False,
) -> None:
    """Write the model whose weights are the mean of several checkpoints', summed in float64.

    Args:
        paths: runs, whose newest checkpoints are taken, or checkpoints one by one.
        tell: called with lines about what is taken, what is left out and why, and what the mean may be worth.
        last: how many of a run's checkpoints; up to five where this is None.
        validate: score the mean and the run's best checkpoint on the run's validation text, and tell both.

    Raises:
        InputError: too few checkpoints, damaged ones, or some that are not of one run or one configuration; nothing to
            validate on.
        RunError: the output cannot be written.
    """
    if last is not None and not any(map(is_run, paths)):
        raise InputError("--last: is for a run, these are single checkpoints; leave it out, or name their run")
    taken = [one for path in paths for one in (_newest(path, last, tell) if is_run(path) else [path])]
    if len({path.resolve() for path in taken}) < len(taken):
        raise InputError(f"{', '.join(map(str, taken))}: one of them is there twice; name each once")
    tell(f"averaging {', '.join(map(str, taken))}")
    run = run_of(taken[-1])
    if validate and run is None:
        raise InputError(f"--validate: {taken[-1]} does not lie in a run, whose best is to compare with; leave it out")
    with held([resolve_model(path) for path in taken]):
        pairs = _validation_pairs(taken[-1], tell) if validate else []
        members, mean = _mean(taken)
    newest = members[-1]
    if len({member.path.resolve().parent for member in members}) == 1 and run is not None:
        _warn_of_fast_fall(run, [member.step for member in members], tell)
    longest = max(member.longest_src_tokens for member in members)
    save_model(output, mean, newest.config, newest.tokenizers, longest)
    if validate and run is not None:
        best = resolve_model(run)
        word = "best" if (run / "best").exists() else "newest"
        tell(f"the mean, {output}: {_scores(output, pairs, tell)}")
        tell(f"the {word} so far, {best}: {_scores(best, pairs, tell_nobody)}")


def _validation_pairs(checkpoint: Path, tell: Tell) -> list[ValidationPair]:
    config = load_config(resolve_model(checkpoint) / CONFIG, of_model=True)
    pairs = read_validation(synthesize(config.data, tell, ("valid",)), config.eval)
    if not pairs:
        raise InputError(f"--validate: {checkpoint} was trained without data.valid; leave it out")
    return pairs


def _newest(run: Path, count: int | None, tell: Tell) -> list[Path]:
    """Return the newest checkpoints of a run that count for averaging, oldest first; tell which do not."""
    checkpoints = list_checkpoints(run)
    usable = [info for info in checkpoints if not info.by_signal]
    if not usable:
        raise InputError(f"{run}: has no checkpoint to average (those of a signal do not count); train it further")
    if count is not None and len(usable) < count:
        raise InputError(f"{run}: has {len(usable)} checkpoints to average, --last asks for {count}; lower it")
    taken = usable[-(count or 5) :]

    def reasons(info: CheckpointInfo) -> str:
        return f"{info.path} ({'made by a signal' if info.by_signal else 'older'})"

    if left_out := [reasons(info) for info in checkpoints if info not in taken]:
        tell(f"left out: {', '.join(left_out)}")
    return [info.path for info in taken]


def _mean(paths: Sequence[Path]) -> tuple[list[_Member], dict[str, Tensor]]:
    """Return what is known of models and the mean of their weights, with one in memory at a time besides their sum."""
    members: list[_Member] = []
    total: dict[str, Tensor] = {}
    for path in paths:
        member, weights = _load(path)
        for earlier in members:
            _refuse_strangers(earlier, member)
        members.append(member)
        for name, tensor in weights:
            total[name] = total[name].add_(tensor) if name in total else tensor.double()
        del weights
    return members, {name: total.pop(name).div_(len(paths)).float() for name in list(total)}


def _load(path: Path) -> tuple[_Member, Iterator[tuple[str, Tensor]]]:
    loaded = load_model(path)
    config, corpus, step = load_config(loaded.path / CONFIG, of_model=True), "", 0
    if (loaded.path / STATE).exists():
        state = read_state(loaded.path)
        corpus, step = state.corpus, state.step
    member = _Member(loaded.path, config, loaded.tokenizers, loaded.longest_src_tokens, corpus, step)
    return member, ((name, parameter.detach()) for name, parameter in loaded.model.named_parameters())


def _refuse_strangers(first: _Member, other: _Member) -> None:
    """Refuse weights that were not learned together: they have no mean that means anything.

    Of one run are checkpoints of one configuration, apart from what a run may change when it is continued, and of one
    corpus, by the fingerprint that they hold (or by the files named, where one is an averaged model). Runs in two
    directories are the same only if they began with the same model too.
    """
    both = f"{other.path} and {first.path}"
    if other.tokenizers.fingerprint != first.tokenizers.fingerprint:
        raise InputError(f"{both} have different tokenizers; average checkpoints of one run")
    decisive = {"train.init_from"} if other.path.resolve().parent != first.path.resolve().parent else set()
    if not (first.corpus and other.corpus):
        decisive.add("data.train")
    elif first.corpus != other.corpus:
        raise InputError(f"{both} were trained on different text; average checkpoints of one run")
    differing = [
        *_names(differing_keys(first.config, other.config)),
        *(name for name in _names(differing_keys(first.config, other.config, is_free=True)) if name in decisive),
    ]
    if differing:
        raise InputError(f"{both} differ in {', '.join(differing)}; average checkpoints of one run")


def _names(differing: list[str]) -> list[str]:
    return [difference.split(" ")[0] for difference in differing]


def _warn_of_fast_fall(run: Path, steps: list[int], tell: Tell) -> None:
    """Tell when the run was still learning fast between the oldest and the newest, by its log."""
    log = run / FILE_NAME
    try:
        records = read_records(log) if log.is_file() else []
    except InputError as error:
        return tell(f"warning: {error}; how fast the loss fell is not looked at")
    for kind, name in ("valid", "validation"), ("train", "training"):
        losses = {one["step"]: one["loss"] for one in records if one["kind"] == kind and "loss" in one}
        oldest, newest = (max((at for at in losses if at <= step), default=0) for step in (min(steps), max(steps)))
        if 0 < oldest < newest:
            if losses[oldest] - losses[newest] > _FAST_FALL:
                tell(
                    f"warning: the {name} loss fell from {losses[oldest]:.2f} at step {oldest:,} to "
                    f"{losses[newest]:.2f} at step {newest:,}: the mean of checkpoints that are so far apart may be "
                    "much worse than the newest; train further, or take fewer (--last), and compare with --validate"
                )
            return


def _scores(path: Path, pairs: list[ValidationPair], tell: Tell) -> str:
    """Return the loss and the scores of a model on a run's validation text, in words, as training computes them."""
    loaded = load_model(path)
    config, device = load_config(loaded.path / CONFIG, of_model=True), local_device()
    precision = resolve_precision(config.train.precision, device)
    model = loaded.model.to(device)
    validation = Validation(pairs, config, loaded.tokenizers, model, precision, loaded.longest_src_tokens, tell)
    scores = validation.run(0, Ranks(), RunLog(None, 0, config.train, {}, validates=False))
    return ", ".join(f"{name} {value:.{4 if name == 'loss' else 2}f}" for name, value in scores.items())
