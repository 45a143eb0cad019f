"""Validation during training: loss by teacher forcing, BLEU and chrF by real decoding, shared among the ranks."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time

import numpy as np
import torch

from transformer_mt.batching import cut_update
from transformer_mt.checkpoint import TrainState
from transformer_mt.cleaning import SentencePair
from transformer_mt.config import Config, DataConfig
from transformer_mt.device import autocast
from transformer_mt.distributed import Ranks
from transformer_mt.errors import InputError
from transformer_mt.evaluate import evaluate
from transformer_mt.layout import EOS_ID, collate
from transformer_mt.metrics import RunLog
from transformer_mt.model import Transformer
from transformer_mt.sources import read_pairs
from transformer_mt.tokenizer import Tokenizers
from transformer_mt.translator import Translator


def read_validation(data: DataConfig) -> list[SentencePair]:
    """The validation pairs of a run, as they are.

    Raises:
        InputError: text that cannot be read, or none at all where some is named.
    """
    pairs = [pair for source in data.valid for pair in read_pairs(source, data.src_lang, data.tgt_lang)]
    if data.valid and not pairs:
        raise InputError("data.valid: empty, no sentence pairs; check its files or remove it")
    return pairs


def fingerprint(pairs: list[SentencePair]) -> str:
    """Of validation pairs: scores of different ones cannot be compared."""
    text = json.dumps([[pair.src, pair.tgt] for pair in pairs])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Validation:
    """Scores a model on the validation pairs. Falsy where there are none."""

    def __init__(
        self, pairs: list[SentencePair], config: Config, tokenizers: Tokenizers, model: Transformer, precision: str
    ) -> None:
        self._pairs = pairs
        self._src = [[*ids, EOS_ID] for ids in tokenizers.src.encode([pair.src for pair in self._pairs])]
        self._tgt = [[*ids, EOS_ID] for ids in tokenizers.tgt.encode([pair.tgt for pair in self._pairs])]
        limit = config.model.max_positions if config.model.positions == "learned" else sys.maxsize
        for number, sides in enumerate(zip(self._src, self._tgt, strict=True), 1):
            if max(map(len, sides)) > limit:
                raise InputError(
                    f"data.valid, pair {number}: longer than model.max_positions {limit}; raise that or remove the pair"
                )
        self._model, self._precision = model, precision
        self._best_metric, self._metrics = config.train.best_metric, config.eval.metrics
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
        # Which of them are longer than the training text is no news at every validation: none is split.
        translator = Translator([self._model], self._tokenizers, self._search, longest_src_tokens=sys.maxsize)
        part = translator.translate([pair.src for pair in self._pairs[ranks.rank :: ranks.num_ranks]])
        parts = ranks.gather([translation.text for translation in part])
        signatures = {}
        if ranks.is_first:
            hypotheses = [parts[i % ranks.num_ranks][i // ranks.num_ranks] for i in range(len(self._pairs))]
            report = evaluate(hypotheses, [[pair.tgt for pair in self._pairs]], self._metrics)
            scores |= {metric.name: metric.score for metric in report.scores}
            signatures = {metric.name: metric.signature for metric in report.scores}
        scores = dict(ranks.first_says(scores))
        self._model.train()
        seconds = round(time.monotonic() - started, 1)
        log.record(kind="valid", step=step, **scores, signatures=signatures, seconds=seconds)
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        log.line(f"step {step:,}: validation {numbers} ({seconds:.0f} s)")
        return scores

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
