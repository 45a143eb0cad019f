"""Validation during training: loss by teacher forcing, BLEU and chrF by real decoding, shared among the ranks."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.sections import MICRO_TOKENS, Config, EvalConfig
from transformer_mt.data.batching import cut_update
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.decoding.fitting import batch_tokens
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError, RunError, TmtError
from transformer_mt.evaluation.scores import DEFAULT_TOKENIZE, check_tokenizer, default_tokenize, evaluate
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.console import Tell
from transformer_mt.system.device import autocast
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG
from transformer_mt.system.ranks import Ranks
from transformer_mt.system.signals import StoppedError
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.memory import validation_fits
from transformer_mt.training.run_log import RunLog

# Tokens of a side, unless training has longer ones: attention of a batch takes some 100 MB a head.
_LONGEST_IN_LOSS = 1024

_T = TypeVar("_T")


class ValidationPair(NamedTuple):
    src: str
    tgt: str
    src_lang: str
    tgt_lang: str
    tag: str | None


def read_validation(data: DataConfig, scoring: EvalConfig) -> list[ValidationPair]:
    """Return the validation pairs of a run, as they are.

    Raises:
        InputError: text that cannot be read, or none at all where some is named; a tokenisation that is not there, or
            is for another language.
    """
    languages = sorted({*data.tgt_langs(), *(data.languages(source)[1] for source in data.valid)})
    for language, tokenize in scoring.tokenize.items():
        if language not in languages:
            raise InputError(
                f"eval.tokenize: {language} is no target language of data.train or data.valid "
                f"({', '.join(languages)}); remove it"
            )
        check_tokenizer(tokenize)
    pairs = []
    for source in data.valid:
        direction = data.languages(source)
        for number, pair in enumerate(read_pairs(source, *direction), 1):
            if TOO_LONG in pair:
                raise InputError(
                    f"data.valid: pair {number:,} of {source}: a side is longer than "
                    f"{LONGEST_LINE >> 20} MiB and cannot be scored; break it into lines, or remove it"
                )
            pairs.append(ValidationPair(*pair, *direction, source.tag))
    if data.valid and not pairs:
        raise InputError("data.valid: empty, no sentence pairs; check its files or remove it")
    if pairs and not any(pair.src.strip() and pair.tgt.strip() for pair in pairs):
        raise InputError(f"data.valid: all of its {len(pairs):,} pairs have a blank side; check its files or remove it")
    return pairs


def with_tokenization(config: Config) -> Config:
    """Return the configuration with the tokenisation that BLEU gets for each validation language.

    Those that get 13a, the default, are not named in it.
    """
    languages = {config.data.languages(source)[1] for source in config.data.valid}
    chosen = {language: default_tokenize(language) for language in sorted(languages - {*config.eval.tokenize})}
    chosen = {language: name for language, name in chosen.items() if name != DEFAULT_TOKENIZE} | config.eval.tokenize
    return config.model_copy(update={"eval": config.eval.model_copy(update={"tokenize": chosen})})


def pairs_fingerprint(pairs: Sequence[tuple[str | None, ...]]) -> str:
    """Return 16 digits that stand for held-out pairs: scores of different ones cannot be compared."""
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


class Validation:
    """Scores a model on the validation pairs. Falsy where there are none."""

    def __init__(
        self,
        pairs: list[ValidationPair],
        config: Config,
        tokenizers: Tokenizers,
        model: EncoderDecoder,
        precision: str,
        longest_src_tokens: int,
        tell: Tell,
    ) -> None:
        """Tell what of the pairs cannot be scored as it is.

        Args:
            longest_src_tokens: the longest source of the training text; longer ones are translated in parts, as
                `tmt translate` would.

        Raises:
            InputError: all of the pairs are too long for the loss.
        """
        self._pairs = pairs
        tags = {kind: tokenizers.tag_ids(*kind) for kind in {(pair.tgt_lang, pair.tag) for pair in pairs}}
        self._tags = [tags[pair.tgt_lang, pair.tag] for pair in pairs]
        src = tokenizers.src.encode([pair.src for pair in pairs])
        self._src = [[*tags, *ids, EOS_ID] for tags, ids in zip(self._tags, src, strict=True)]
        self._tgt = [[*ids, EOS_ID] for ids in tokenizers.tgt.encode([pair.tgt for pair in self._pairs])]
        self._longest_src_tokens = longest_src_tokens
        self._for_loss = self._without_too_long(config, tell)
        self._model, self._precision = model, precision
        self._best_metric, self._eval = config.train.best_metric, config.eval
        self._patience = config.train.patience
        self.micro_tokens = config.batch.micro_tokens or MICRO_TOKENS
        self._tokenizers = tokenizers
        self._search = config.search.model_copy(
            update={
                "beam_size": config.eval.beam_size,
                "n_best": 1,
                "sampling": False,
                "precision": precision,
                "workers": 1,
            }
        )

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def _without_too_long(self, config: Config, tell: Tell) -> list[int]:
        """Return the numbers of the pairs that have a loss, which takes memory with the square of a side's length."""
        clean = config.data.clean
        limit = max(_LONGEST_IN_LOSS, clean.max_src_tokens + 1, clean.max_tgt_tokens + 1)
        longest_src = config.search.max_source_tokens or self._longest_src_tokens
        if config.model.positions == "learned":
            limit, longest_src = (min(number, config.model.max_positions) for number in (limit, longest_src))
        lengths = [(len(src), len(tgt)) for src, tgt in zip(self._src, self._tgt, strict=True)]
        if in_parts := [i for i, (src, _) in enumerate(lengths, 1) if src > longest_src]:
            tell(
                f"data.valid: {len(in_parts):,} of {len(lengths):,} pairs have more than {longest_src:,} source tokens "
                "(search.max_source_tokens, or the longest trained on) and are translated in parts; the first is "
                f"pair {in_parts[0]:,}"
            )
        kept = [i for i, sides in enumerate(lengths) if max(sides) <= limit]
        too_long = [
            f"pair {i:,} ({src:,} and {tgt:,})" for i, (src, tgt) in enumerate(lengths, 1) if max(src, tgt) > limit
        ]
        if too_long:
            problem = f"{', '.join(too_long[:3])}{', …' if len(too_long) > 3 else ''}"
            if not kept:
                raise InputError(
                    f"data.valid: all pairs have more than {limit:,} tokens on a side: {problem}; one sentence a line "
                    "is expected, look at the line ends of its files"
                )
            tell(
                f"warning: data.valid: {len(too_long):,} of {len(lengths):,} pairs have more than {limit:,} tokens on "
                f"a side and are left out of the loss: {problem}"
            )
        return kept

    def run(
        self, step: int, ranks: Ranks, log: RunLog, stoppable: AbstractContextManager[None] | None = None
    ) -> dict[str, float]:
        """Score the model as it is; log and return the numbers, the same on every rank.

        Args:
            stoppable: entered for this rank's own part, which is nearly all of the time; what it raises ends that.

        Raises:
            RunError: out of memory, or another rank has failed, whose reason it has. What fails on one rank ends this
                on all of them.
        """
        started = time.monotonic()
        self._model.eval()
        # Rank r decodes sentences r, r + R, …; rank 0 puts them together and scores them.
        own = range(ranks.rank, len(self._pairs), ranks.num_ranks)

        def score_own() -> tuple[float, list[str]]:
            with stoppable or contextlib.nullcontext():
                return self._loss(ranks), self._translate(own) if self._eval.metrics else []

        parts = _all_or_none(ranks, score_own)
        num_labels = sum(len(self._tgt[i]) for i in self._for_loss)
        loss = sum(nll for nll, _ in parts) / num_labels
        scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

        def score_and_log() -> dict[str, float]:
            signatures: dict[str, str] = {}
            if self._eval.metrics:  # else the loss is all that is asked for
                hypotheses = [parts[i % ranks.num_ranks][1][i // ranks.num_ranks] for i in range(len(self._pairs))]
                metrics, signatures = self._score(hypotheses)
                scores.update(metrics)
            seconds = round(time.monotonic() - started, 1)
            log.record(kind="valid", step=step, **scores, signatures=signatures, seconds=seconds)
            numbers = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
            log.line(f"step {step:,}: validation {numbers} ({seconds:.0f} s)")
            return scores

        [scores, *_] = _all_or_none(ranks, lambda: score_and_log() if ranks.is_first else scores)
        self._model.train()
        return scores

    @property
    def _device(self) -> torch.device:
        return self._model.src_embed.weight.device

    def _translate(self, numbers: Sequence[int]) -> list[str]:
        """Return the translations of some of the sources, in the order of their numbers."""
        # Without `warn`: which of them are translated in parts is no news at every validation.
        translator = Translator.of_models([self._model], self._tokenizers, self._search, self._longest_src_tokens)
        texts: dict[int, str] = {}
        for tags, same in itertools.groupby(sorted(numbers, key=self._tags.__getitem__), self._tags.__getitem__):
            of_these = list(same)
            with validation_fits("search.batch_tokens", batch_tokens(self._search, self._device), self._device):
                translations = translator.translate([self._pairs[i].src for i in of_these], tags=tags)
            texts.update(zip(of_these, (translation.text for translation in translations), strict=True))
        return [texts[i] for i in numbers]

    def _score(self, hypotheses: list[str]) -> tuple[dict[str, float], dict[str, str]]:
        """Return scores and their signatures. Of several directions each has its own, and the score is their mean."""
        directions = sorted({(pair.src_lang, pair.tgt_lang) for pair in self._pairs})
        scores: dict[str, float] = {}
        signatures: dict[str, str] = {}
        sums: dict[str, float] = dict.fromkeys(self._eval.metrics, 0.0)
        for direction in directions:
            own = [i for i, pair in enumerate(self._pairs) if (pair.src_lang, pair.tgt_lang) == direction]
            report = evaluate(
                [hypotheses[i] for i in own],
                [[self._pairs[i].tgt for i in own]],
                self._eval.metrics,
                tokenize=self._eval.tokenize.get(direction[1]),
                tgt_lang=direction[1],
            )
            for metric in report.scores:
                sums[metric.name] += metric.score
                name = f"{metric.name}_{'_'.join(direction)}" if len(directions) > 1 else metric.name
                scores[name], signatures[name] = metric.score, metric.signature
        return {name: total / len(directions) for name, total in sums.items()} | scores, signatures

    @torch.no_grad()
    def _loss(self, ranks: Ranks) -> float:
        """Return the summed negative log-likelihood of this rank's labels, in nats."""
        src_lengths = np.array([len(ids) for ids in self._src], dtype=np.int32)
        tgt_lengths = np.array([len(ids) for ids in self._tgt], dtype=np.int32)
        total = torch.zeros((), dtype=torch.float64)
        batches = cut_update(
            np.array(self._for_loss, dtype=np.int64),
            src_lengths,
            tgt_lengths,
            num_ranks=ranks.num_ranks,
            micro_tokens=self.micro_tokens,
        )[ranks.rank]
        for pairs in batches:
            batch = collate([self._src[i] for i in pairs], [self._tgt[i] for i in pairs]).to(self._device)
            with (
                validation_fits("batch.micro_tokens", self.micro_tokens, self._device),
                autocast(self._device, self._precision),
            ):
                total += self._model(batch)[1].cpu()
        return float(total)

    def improves(self, scores: dict[str, float], state: TrainState) -> bool:
        """Return whether a validation is better than the best so far by ``train.best_metric``; count the others.

        Of equal scores the lower loss is better: BLEU may stand at 0 for long while the model learns.
        """
        value, loss = scores[self._best_metric], scores["loss"]
        is_better = state.best_score is None or (
            value < state.best_score if self._best_metric == "loss" else value > state.best_score
        )
        if value == state.best_score and self._best_metric != "loss":
            is_better = state.best_loss is None or loss < state.best_loss  # None in runs of version 0.1.0
        if is_better:
            state.best_score, state.best_loss, state.best_step = value, loss, state.step
            state.evals_without_improvement = 0
        else:
            state.evals_without_improvement += 1
        return is_better

    def out_of_patience(self, state: TrainState) -> bool:
        """Return whether ``train.patience`` validations in a row brought nothing better."""
        return 0 < self._patience <= state.evals_without_improvement


def _all_or_none(ranks: Ranks, work: Callable[[], _T]) -> Sequence[_T]:
    """Return every rank's result, on every rank. Where one fails all do, and none is left waiting.

    Raises:
        RunError: another rank has failed; StoppedError, if by a signal; or what this one's work raises.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    reason = str(failure) if isinstance(failure, TmtError) else repr(failure)
    kind = StoppedError if isinstance(failure, StoppedError) else RunError
    told = ranks.all_gather((result, kind, None if failure is None else reason))
    if failure is not None:
        raise failure
    for rank, (_, kind, reason) in enumerate(told):
        if reason is not None:
            raise kind(f"rank {rank}: {reason}")
    return [one for one, _, _ in told]
