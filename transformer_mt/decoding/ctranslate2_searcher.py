"""Exports for CTranslate2 (Klein et al. 2020) as a `Searcher`: its engine computes, and PyTorch is never imported.

It searches as we do with ``length_penalty_form: power`` and ``stop: beam_finished``, but for three things. What must
not be predicted is taken out before the softmax instead of behind it, also by `search.min_tokens` and
`search.no_repeat_ngram`. A prefix has no part in a score. And a translation that does not end is cut off without
</s> (never within its prefix), at `search.max_extra_tokens` rounded up, so that sentences of about the same length go
together.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ValidationError

from transformer_mt.checkpoints.exports import MANIFEST, check_export
from transformer_mt.checkpoints.manifest import CONFIG
from transformer_mt.config.loading import load_part
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.section import PositiveInt
from transformer_mt.config.sections import SearchConfig
from transformer_mt.decoding.searcher import Found, SourcePart, Work
from transformer_mt.errors import InputError
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.system.console import Tell
from transformer_mt.system.processes import num_cores
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIALS

if TYPE_CHECKING:
    from transformer_mt.decoding.attention_maps import AttentionMaps

# Rows of a table of sinusoids in an export; CTranslate2 refuses longer sequences.
NUM_POSITIONS = 2048

_BATCH_TOKENS = 8192  # source positions × hypotheses, unless `search.batch_tokens` says otherwise
_LIMIT_STEP = 16  # what the most tokens of a translation are rounded up to a multiple of
_MOST_SENT = 3  # batches that each of its threads has before it: those can not be taken back


class _Facts(BaseModel, strict=True):
    """What the list of an export says for those who translate with it."""

    quantization: str
    longest_src_tokens: PositiveInt
    tags: list[str]


class LoadedExport:
    """A directory that `tmt export --format ctranslate2` wrote."""

    def __init__(self, path: Path, ensemble: Sequence[str | Path]) -> None:
        """Check each file of it, and read all but the weights.

        Raises:
            InputError: an export of another kind or by an earlier version, a damaged one, or one of an ensemble.
        """
        facts = check_export(path)
        if facts["format"] != "ctranslate2":
            raise InputError(
                f"{path}: an export for {facts['format']}, which tmt does not run; name the model that it was made of, "
                "or export that for ctranslate2"
            )
        if ensemble:
            raise InputError(f"ensemble: {path} is an export, and CTranslate2 runs one model; name the models instead")
        try:
            own = _Facts.model_validate({name: facts.get(name) for name in _Facts.model_fields})
        except ValidationError:
            raise InputError(
                f"{path / MANIFEST}: lacks what translating takes, as in exports of earlier versions; export the model "
                "again"
            ) from None
        self.path = path
        self.config = load_part(path / CONFIG, DecodingConfig)
        self.tokenizers = Tokenizers.load(path, own.tags)
        self.longest_src_tokens = own.longest_src_tokens
        self._quantization = own.quantization

    def searcher(self, config: SearchConfig, warn: Tell) -> CTranslate2Searcher:
        """Load the weights, onto a GPU where CTranslate2 finds one."""
        self._check_expressible(config)
        try:
            import ctranslate2
        except ImportError:
            raise InputError(
                f"{self.path}: CTranslate2 is not installed; pip install 'transformer-mt[export]'"
            ) from None
        ctranslate2.set_log_level(logging.ERROR)  # that it has made float32 of bfloat16 is no news
        is_gpu = ctranslate2.get_cuda_device_count() > 0
        num_threads = 1 if is_gpu else config.workers or num_cores()
        try:
            engine = ctranslate2.Translator(
                str(self.path),
                device="cuda" if is_gpu else "cpu",
                # As it was written; what the machine has no fast products for becomes float32.
                compute_type="default" if config.precision == self._quantization else config.precision,
                inter_threads=num_threads,
                intra_threads=1,
            )
        except ValueError as error:  # a precision that the machine lacks
            raise InputError(f"search.precision {config.precision}: {error}; leave it out") from None
        except RuntimeError as error:
            raise InputError(f"{self.path}: CTranslate2 does not load it ({error}); export the model again") from None
        learned = self.config.model.max_positions if self.config.model.positions == "learned" else NUM_POSITIONS
        return CTranslate2Searcher(engine, self.tokenizers, config, learned, num_threads)

    def _check_expressible(self, config: SearchConfig) -> None:
        lacking = {
            "sampling": config.sampling,
            "length_penalty_form: gnmt": config.length_penalty_form == "gnmt",
            "stop: bound": config.stop == "bound",
        }
        if found := [f"search.{key}" for key, is_set in lacking.items() if is_set]:
            raise InputError(
                f"{' and '.join(found)}: not in CTranslate2, which runs {self.path}; leave it out, or translate with "
                "the model that was exported"
            )


class CTranslate2Searcher:
    """CTranslate2's engine, which works on several batches at once, one a thread."""

    is_pytorch = False

    def __init__(
        self, engine: Any, tokenizers: Tokenizers, config: SearchConfig, max_positions: int, num_threads: int
    ) -> None:
        self.max_positions: int | None = max_positions
        self.num_at_once = num_threads
        self._engine, self._config = engine, config
        self._src, self._tgt = tokenizers.src, tokenizers.tgt
        self._most_sent = _MOST_SENT * num_threads
        self._batch_tokens = config.batch_tokens or _BATCH_TOKENS
        suppressed = (SPECIALS[PAD_ID], SPECIALS[BOS_ID], *tokenizers.tgt.tags)
        self._options: dict[str, Any] = dict(
            beam_size=config.beam_size,
            length_penalty=config.length_penalty,
            no_repeat_ngram_size=config.no_repeat_ngram,
            disable_unk=True,
            suppress_sequences=[[piece] for piece in suppressed],
            max_input_length=0,  # nothing is cut: lines were split
            return_scores=True,
            asynchronous=True,
        )

    def begin(self, num_lines: int, *, on_all_cores: bool) -> Work:
        # Its threads translate one chunk, this one reads the next; but who sends single lines waits for each.
        return Work(self._submit, 1 if num_lines > 1 else 0)

    def most_tokens(self, part: SourcePart) -> int:
        return self._limit(part) + 1  # its limit is of ids without </s>

    def log_probs(self, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]]) -> list[list[float] | None]:
        filled = [i for i, ids in enumerate(src) if len(ids) > 1]
        found = self._engine.score_batch(
            [self._src.pieces_of(src[i][:-1]) for i in filled],
            [self._tgt.pieces_of(tgt[i][:-1]) for i in filled],
            max_batch_size=max(1, self._batch_tokens // self._config.beam_size),  # 0 would be no limit
            batch_type="tokens",
            max_input_length=0,
        )
        scores: list[list[float] | None] = [None] * len(src)
        for i, of_pair in zip(filled, found, strict=True):
            scores[i] = of_pair.log_probs
        return scores

    def next_ids(self, src: list[int], prefix: list[int], count: int) -> list[tuple[int, float]]:
        [found] = self._engine.translate_batch(
            [self._src.pieces_of(src[:-1])],
            [self._tgt.pieces_of(prefix)] if prefix else None,
            **self._options
            | dict(
                beam_size=1,
                num_hypotheses=count,
                return_alternatives=True,
                max_decoding_length=len(prefix) + 1,
                min_decoding_length=1,  # of what follows the prefix: not </s>
                no_repeat_ngram_size=0,
                asynchronous=False,
            ),
        )
        ids = [self._tgt.table[pieces[-1]] for pieces in found.hypotheses]
        # Its scores are of what must not be predicted taken out; these are the model's.
        log_probs = self.log_probs([src] * len(ids), [[*prefix, one, EOS_ID] for one in ids])
        return [(one, own[len(prefix)]) for one, own in zip(ids, log_probs, strict=True) if own]

    def check_alignable(self, longest: int) -> NoReturn:
        raise InputError("align: exports tell no attention to read word alignments from; use the model itself")

    def attention_maps(self, src: list[int], tgt: Sequence[int]) -> AttentionMaps:
        raise InputError("attention: exports do not tell it; use the model that was exported")

    def close(self) -> None:
        """Its threads end with it."""

    def _submit(self, parts: Sequence[SourcePart]) -> _Batched:
        return _Batched(parts, self._batches(parts), self._begin, self._most_sent)

    def _limit(self, part: SourcePart) -> int:
        """Return the most ids of a translation, by its own source and prefix alone."""
        most = max(len(part.src) + self._config.max_extra_tokens, len(part.prefix))
        assert self.max_positions is not None
        return min(-(-most // _LIMIT_STEP) * _LIMIT_STEP, self.max_positions - 1)

    def _batches(self, parts: Sequence[SourcePart]) -> Iterator[list[int]]:
        """Yield the numbers of the parts that are searched at once, the longest first."""
        order = sorted(range(len(parts)), key=lambda i: -len(parts[i].src))
        while order:
            length = len(parts[order[0]].src)
            rows = max(1, self._batch_tokens // (length * self._config.beam_size))
            limit = self._limit(parts[order[0]])
            is_now = [self._limit(parts[i]) == limit for i in order[:rows]]
            yield [i for i, now in zip(order, is_now, strict=False) if now]
            order[:rows] = [i for i, now in zip(order, is_now, strict=False) if not now]

    def _begin(self, parts: Sequence[SourcePart]) -> Callable[[], list[Found]]:
        """Begin to search one batch and return what waits for its end."""
        starts = [self._tgt.pieces_of(part.prefix) or None for part in parts]
        limit = self._limit(parts[0])
        asked = self._engine.translate_batch(
            [self._src.pieces_of(part.src[:-1]) for part in parts],  # </s> is its own
            starts if any(starts) else None,
            max_decoding_length=limit,
            min_decoding_length=min(self._config.min_tokens, limit),  # it refuses more
            num_hypotheses=self._config.n_best if (n_best := parts[0].n_best) is None else n_best,
            **self._options,
        )
        return lambda: [Found(self._hypotheses(one.result()), []) for one in asked]

    def _hypotheses(self, found: Any) -> list[Hypothesis]:
        hypotheses = []
        for pieces, score in zip(found.hypotheses, found.scores, strict=True):
            ids = [self._tgt.table[piece] for piece in pieces]
            hypotheses.append(Hypothesis(ids, score, score * (len(ids) + 1) ** self._config.length_penalty))
        return hypotheses


class _Batched:
    """A search in batches, of which a few are begun at a time: who wants no more does not wait for the rest."""

    def __init__(
        self,
        parts: Sequence[SourcePart],
        batches: Iterator[list[int]],
        begin: Callable[[Sequence[SourcePart]], Callable[[], list[Found]]],
        most_sent: int,
    ) -> None:
        self._parts, self._waiting, self._begin, self._most_sent = parts, batches, begin, most_sent
        self._sent: deque[tuple[list[int], Callable[[], list[Found]]]] = deque()
        self._send()

    def _send(self) -> None:
        while len(self._sent) < self._most_sent and (batch := next(self._waiting, None)) is not None:
            self._sent.append((batch, self._begin([self._parts[i] for i in batch])))

    def result(self) -> list[Found]:
        found = [Found([], [])] * len(self._parts)
        while self._sent:
            batch, wait = self._sent.popleft()
            for i, of_part in zip(batch, wait(), strict=True):
                found[i] = of_part
            self._send()
        return found

    def drop(self) -> None:
        self._sent.clear()
