"""Our own models as a `Searcher`: on a GPU, or spread over the cores of a CPU, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_mt.checkpoints.model_directory import load_model
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import SearchConfig
from transformer_mt.decoding.attention_maps import AttentionMaps, attention_maps
from transformer_mt.decoding.engine import Engine
from transformer_mt.decoding.fitting import Batches, batch_tokens
from transformer_mt.decoding.given_targets import log_probs, next_ids
from transformer_mt.decoding.recurrent_scorer import RecurrentScorer
from transformer_mt.decoding.searcher import Found, SourcePart, Work, most_tokens
from transformer_mt.decoding.word_alignments import align_pairs, check_model
from transformer_mt.errors import InputError
from transformer_mt.model.recurrent import Recurrent
from transformer_mt.model.transformer import EncoderDecoder, Transformer
from transformer_mt.search.beam import search
from transformer_mt.search.ensemble import Ensemble
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.scorer import StepScorer
from transformer_mt.system.allocator import keep_freed_memory
from transformer_mt.system.console import Tell
from transformer_mt.system.device import local_device, resolve_precision
from transformer_mt.system.processes import ONE_AT_A_TIME, Workers, can_fork, num_cores
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID

_ADVICE = "lower search.batch_tokens, or set search.workers to 1"  # when a process is killed


class LoadedModels:
    """A model and those that translate together with it."""

    def __init__(self, path: str | Path, ensemble: Sequence[str | Path]) -> None:
        """Load them onto the CPU.

        Raises:
            InputError: not a model, a damaged one, or one with another vocabulary than the first.
        """
        keep_freed_memory()
        with ONE_AT_A_TIME:
            first, *others = self._loaded = [load_model(one) for one in (path, *ensemble)]
        for other in others:
            if other.tokenizers.fingerprint != first.tokenizers.fingerprint:
                raise InputError(
                    f"{other.path}: its vocabulary is not that of {first.path}; an ensemble needs models that were "
                    "trained with the same tokenizer (tokenizer.model in their configurations)"
                )
        self.path: Path = first.path
        self.config: DecodingConfig = first.config
        self.tokenizers: Tokenizers = first.tokenizers
        self.longest_src_tokens = min(one.longest_src_tokens for one in self._loaded)

    def searcher(self, config: SearchConfig, warn: Tell) -> ModelSearcher:
        """Move them onto the GPU, where there is one."""
        return ModelSearcher([one.model.to(local_device()) for one in self._loaded], self.tokenizers, config, warn)


class ModelSearcher:
    """Searches with one model, or with an ensemble of several; other tasks are the first one's."""

    is_pytorch = True
    num_at_once = 1  # with all threads of PyTorch

    def __init__(
        self, models: Sequence[EncoderDecoder], tokenizers: Tokenizers, config: SearchConfig, warn: Tell
    ) -> None:
        self._models, self._tokenizers, self._config = models, tokenizers, config
        learned = [model.config.max_positions for model in models if model.config.positions == "learned"]
        self.max_positions = min(learned, default=None)
        tgt = tokenizers.tgt
        self._forbidden_ids = (PAD_ID, UNK_ID, BOS_ID, *(tgt.table[tag] for tag in tgt.tags))
        self._pool: Workers[list[SourcePart], list[Found]] | None = None
        self._device = models[0].src_embed.weight.device
        with ONE_AT_A_TIME:
            engines = [_scorer(model, resolve_precision(config.precision, self._device)) for model in models]
        self._scorer: StepScorer[Any] = engines[0] if len(engines) == 1 else Ensemble(engines, config.ensemble)
        self._batches = Batches(engines, config, warn)

    def begin(self, num_lines: int, *, on_all_cores: bool) -> Work:
        wanted = self._config.workers or (num_cores() if on_all_cores else 1)
        num_processes = wanted if can_fork(self._device) else 1
        workers = self._workers(num_processes if num_lines >= 2 * num_processes else 1)
        # Processes translate one chunk, this one reads the next.
        return Work(lambda parts: self._submit(workers, parts), 1 if workers.num_processes > 1 else 0)

    def most_tokens(self, part: SourcePart) -> int:
        return most_tokens(part.src, self._config, self.max_positions)

    def log_probs(self, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]]) -> list[list[float] | None]:
        return log_probs(self._models[0], src, tgt, min(2 * batch_tokens(self._config, self._device), 65_536))

    def next_ids(self, src: list[int], prefix: list[int], count: int) -> list[tuple[int, float]]:
        return next_ids(self._models[0], src, prefix, (*self._forbidden_ids, EOS_ID), count)

    def check_alignable(self, longest: int) -> None:
        check_model(self._models[0], longest)

    def attention_maps(self, src: list[int], tgt: Sequence[int]) -> AttentionMaps:
        return attention_maps(self._models[0], self._tokenizers, src, tgt)

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _workers(self, num_processes: int) -> Workers[list[SourcePart], list[Found]]:
        """Processes stay for the next call: what they have prepared is worth keeping."""
        if num_processes < 2:
            return Workers(self._search, 1)
        with ONE_AT_A_TIME:
            pool = self._pool
            if pool is None or pool.is_closed or pool.num_processes != num_processes:
                # Those of another number end when no thread uses them any more.
                self._pool = pool = Workers(self._search, num_processes, _ADVICE)
            return pool

    def _submit(self, workers: Workers[list[SourcePart], list[Found]], parts: Sequence[SourcePart]) -> _Batched:
        batches = self._batches.cut([len(part.src) for part in parts], workers.num_processes)
        jobs = workers.submit([[parts[i] for i in batch] for batch in batches])
        return _Batched(workers, list(zip(batches, jobs, strict=True)))

    def _search(self, batch: list[SourcePart]) -> list[Found]:
        n_best = batch[0].n_best
        config = self._config if n_best is None else self._config.model_copy(update={"n_best": n_best})

        def at_once(parts: Sequence[SourcePart]) -> list[list[Hypothesis]]:
            return search(
                self._scorer,
                [part.src for part in parts],
                config,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                forbidden_ids=self._forbidden_ids,
                max_length=self.max_positions,
                prefixes=[part.prefix for part in parts],
            )

        with ONE_AT_A_TIME:
            found = self._batches.work(at_once, batch, max(len(part.src) for part in batch))
        pairs = [
            (part.src, part.words, hypothesis.ids)
            for part, hypotheses in zip(batch, found, strict=True)
            if part.words is not None
            for hypothesis in hypotheses
        ]
        links = iter(align_pairs(self._models[0], self._tokenizers.tgt, pairs))
        return [Found(hypotheses, list(itertools.islice(links, len(hypotheses)))) for hypotheses in found]


class _Batched:
    """A search that was begun in batches: the numbers of each one's parts, and of the job that searches them."""

    def __init__(self, workers: Workers[list[SourcePart], list[Found]], asked: list[tuple[list[int], int]]) -> None:
        self._workers, self._asked = workers, asked

    def result(self) -> list[Found]:
        found = [Found([], [])] * sum(len(batch) for batch, _ in self._asked)
        for batch, job in self._asked:
            for i, of_part in zip(batch, self._workers.result(job), strict=True):
                found[i] = of_part
        return found

    def drop(self) -> None:
        self._workers.drop(job for _, job in self._asked)


def _scorer(model: EncoderDecoder, precision: str) -> Engine | RecurrentScorer:
    """Return a model as search sees it."""
    if isinstance(model, Recurrent):
        return RecurrentScorer(model, precision)
    assert isinstance(model, Transformer)
    return Engine(model, precision)
