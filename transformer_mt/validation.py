"""Validation during training: loss by teacher forcing, BLEU and chrF by real decoding, shared among the ranks."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from transformer_mt.batching import cut_update
from transformer_mt.checkpoint import TrainState
from transformer_mt.config import Config, DataConfig, EvalConfig
from transformer_mt.device import autocast
from transformer_mt.distributed import Ranks
from transformer_mt.errors import InputError
from transformer_mt.evaluate import check_tokenizer, evaluate
from transformer_mt.layout import EOS_ID, collate
from transformer_mt.metrics import RunLog
from transformer_mt.model import Transformer
from transformer_mt.sources import read_pairs
from transformer_mt.tokenizer import Tokenizers
from transformer_mt.translator import Translator


class ValidationPair(NamedTuple):
    src: str
    tgt: str
    src_lang: str
    tgt_lang: str
    tag: str | None


def read_validation(data: DataConfig, scoring: EvalConfig) -> list[ValidationPair]:
    """The validation pairs of a run, as they are.

    Raises:
        InputError: text that cannot be read, or none at all where some is named; a tokenisation that is not there.
    """
    for tokenize in scoring.tokenize.values():
        check_tokenizer(tokenize)
    pairs = []
    for source in data.valid:
        languages = data.languages(source)
        pairs += [ValidationPair(*pair, *languages, source.tag) for pair in read_pairs(source, *languages)]
    if data.valid and not pairs:
        raise InputError("data.valid: empty, no sentence pairs; check its files or remove it")
    return pairs


def fingerprint(pairs: list[ValidationPair]) -> str:
    """Of validation pairs: scores of different ones cannot be compared."""
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


class Validation:
    """Scores a model on the validation pairs. Falsy where there are none."""

    def __init__(
        self, pairs: list[ValidationPair], config: Config, tokenizers: Tokenizers, model: Transformer, precision: str
    ) -> None:
        self._pairs = pairs
        tags = {kind: tokenizers.tag_ids(*kind) for kind in {(pair.tgt_lang, pair.tag) for pair in pairs}}
        self._tags = [tags[pair.tgt_lang, pair.tag] for pair in pairs]
        src = tokenizers.src.encode([pair.src for pair in pairs])
        self._src = [[*tags, *ids, EOS_ID] for tags, ids in zip(self._tags, src, strict=True)]
        self._tgt = [[*ids, EOS_ID] for ids in tokenizers.tgt.encode([pair.tgt for pair in self._pairs])]
        limit = config.model.max_positions if config.model.positions == "learned" else sys.maxsize
        for number, sides in enumerate(zip(self._src, self._tgt, strict=True), 1):
            if max(map(len, sides)) > limit:
                raise InputError(
                    f"data.valid, pair {number}: longer than model.max_positions {limit}; raise that or remove the pair"
                )
        self._model, self._precision = model, precision
        self._best_metric, self._eval = config.train.best_metric, config.eval
        self._patience = config.train.patience
        self._micro_tokens = config.batch.micro_tokens
        self._tokenizers = tokenizers
        self._search = config.search.model_copy(
            update={
                "beam_size": config.eval.beam_size,
                "n_best": 1,
                "sampling": False,
                "precision": precision,
                "workers": 1,
                "max_source_tokens": None,
            }
        )

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def run(self, step: int, ranks: Ranks, log: RunLog) -> dict[str, float]:
        """Score the model as it is; log and return the numbers, the same on every rank."""
        started = time.monotonic()
        self._model.eval()
        nll, num_labels = self._loss(ranks)
        scores = {"loss": nll / num_labels, "perplexity": math.exp(min(nll / num_labels, 700.0))}
        # Rank r decodes sentences r, r + R, …; rank 0 puts them together and scores them.
        parts = ranks.gather(self._translate(range(ranks.rank, len(self._pairs), ranks.num_ranks)))
        signatures: dict[str, str] = {}
        if ranks.is_first:
            hypotheses = [parts[i % ranks.num_ranks][i // ranks.num_ranks] for i in range(len(self._pairs))]
            found, signatures = self._score(hypotheses)
            scores |= found
        scores = dict(ranks.first_says(scores))
        self._model.train()
        seconds = round(time.monotonic() - started, 1)
        log.record(kind="valid", step=step, **scores, signatures=signatures, seconds=seconds)
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        log.line(f"step {step:,}: validation {numbers} ({seconds:.0f} s)")
        return scores

    def _translate(self, numbers: Sequence[int]) -> list[str]:
        """The translations of some of the sources."""
        # Which of them are longer than the training text is no news at every validation: none is split.
        translator = Translator([self._model], self._tokenizers, self._search, longest_src_tokens=sys.maxsize)
        texts: dict[int, str] = {}
        for tags, same in itertools.groupby(sorted(numbers, key=self._tags.__getitem__), self._tags.__getitem__):
            of_these = list(same)
            found = translator.translate([self._pairs[i].src for i in of_these], tags=tags)
            texts.update(zip(of_these, (translation.text for translation in found), strict=True))
        return [texts[i] for i in numbers]

    def _score(self, hypotheses: list[str]) -> tuple[dict[str, float], dict[str, str]]:
        """Scores and their signatures. Of several directions each has its own, and the score is their mean."""
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
            )
            for metric in report.scores:
                sums[metric.name] += metric.score
                name = f"{metric.name}_{'_'.join(direction)}" if len(directions) > 1 else metric.name
                scores[name], signatures[name] = metric.score, metric.signature
        return {name: total / len(directions) for name, total in sums.items()} | scores, signatures

    @torch.no_grad()
    def _loss(self, ranks: Ranks) -> tuple[float, int]:
        """The summed negative log-likelihood of all labels, and their number."""
        src_lengths = np.array([len(ids) for ids in self._src], dtype=np.int32)
        tgt_lengths = np.array([len(ids) for ids in self._tgt], dtype=np.int32)
        where = self._model.src_embed.weight.device
        total = torch.zeros((), dtype=torch.float64)
        batches = cut_update(
            np.arange(len(self._pairs)),
            src_lengths,
            tgt_lengths,
            num_ranks=ranks.num_ranks,
            micro_tokens=self._micro_tokens,
        )[ranks.rank]
        for pairs in batches:
            batch = collate([self._src[i] for i in pairs], [self._tgt[i] for i in pairs]).to(where)
            with autocast(where, self._precision):
                total += self._model(batch)[1].cpu()
        return sum(ranks.gather(float(total))), int(tgt_lengths.sum())

    def improves(self, scores: dict[str, float], state: TrainState) -> bool:
        """Compare with the best so far by ``train.best_metric``, and count what did not improve."""
        value = scores[self._best_metric]
        is_better = state.best_score is None or (
            value < state.best_score if self._best_metric == "loss" else value > state.best_score
        )
        if is_better:
            state.best_score, state.best_step, state.evals_without_improvement = value, state.step, 0
        else:
            state.evals_without_improvement += 1
        return is_better

    def out_of_patience(self, state: TrainState) -> bool:
        """Whether ``train.patience`` validations in a row brought nothing better."""
        return 0 < self._patience <= state.evals_without_improvement
