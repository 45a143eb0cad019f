"""Text in, translations out: tokenise, sort by length, batch, search, restore the order.

`Translator` is what `tmt translate`, validation and other programs use. Line i of the result belongs to line i of the
input; a blank line stays blank; a translation does not depend on the lines around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from transformer_mt.checkpoint import load_model
from transformer_mt.config import SearchConfig, override_search
from transformer_mt.device import autocast, local_device, resolve_precision
from transformer_mt.layout import BOS_ID, EOS_ID, PAD_ID, UNK_ID, collate_source
from transformer_mt.model import DecoderState, Transformer
from transformer_mt.search import Hypothesis, search
from transformer_mt.tokenizer import Tokenizers

CHUNK_LINES = 4096  # lines read, sorted and translated together: memory stays bounded for any input


@dataclass(frozen=True)
class Translation:
    """The best translation of a line, and all that were asked for, best first, as (text, score)."""

    text: str
    score: float
    alternatives: list[tuple[str, float]]


class ModelScorer:
    """One Transformer as search sees it."""

    def __init__(self, model: Transformer, precision: str) -> None:
        self._model = model
        self._precision = precision

    @property
    def device(self) -> torch.device:
        return self._model.src_embed.weight.device

    def start(self, src: list[list[int]]) -> DecoderState:
        ids_P, layout = collate_source(src)
        with autocast(self.device, self._precision):
            return self._model.start(self._model.encode(ids_P.to(self.device), layout.to(self.device)))

    def step(self, state: DecoderState, last_BW: Tensor) -> Tensor:
        with autocast(self.device, self._precision):
            logits_BWV = self._model.step(state, last_BW)
        return torch.log_softmax(logits_BWV.float(), dim=-1)


class Translator:
    """A model ready to translate.

    ``longest_src_tokens``: the longest source seen in training; longer ones are translated with a warning.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizers: Tokenizers,
        config: SearchConfig,
        longest_src_tokens: int,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._tokenizers = tokenizers
        self._config = config
        self._longest_src_tokens = longest_src_tokens
        self._warn = warn
        self._max_positions = model.config.max_positions if model.config.positions == "learned" else None
        device = model.src_embed.weight.device
        self._scorer = ModelScorer(model, resolve_precision(config.precision, device))

    @classmethod
    def load(
        cls, path: str | Path, overrides: Iterable[str] = (), warn: Callable[[str], None] = lambda line: None
    ) -> Self:
        """Load MODEL onto the GPU where there is one. ``overrides`` (``search.key=value``) change the search settings
        that it was trained with.

        Raises:
            InputError: not a model, a damaged one, or an override that cannot be.
        """
        loaded = load_model(path)
        model = loaded.model.to(local_device())
        return cls(
            model, loaded.tokenizers, override_search(loaded.config.search, overrides), loaded.longest_src_tokens, warn
        )

    def translate(self, lines: Sequence[str], first_line: int = 1) -> list[Translation]:
        """Translate lines; blank ones come back blank. ``first_line`` is the number of the first, for warnings."""
        was_training = self._scorer._model.training
        self._scorer._model.eval()
        sources = self._encode(lines, first_line)
        found: dict[int, list[Hypothesis]] = {}
        for batch in self._batches(sources):
            hypotheses = search(
                self._scorer,
                [sources[i] for i in batch],
                self._config,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                forbidden_ids=(PAD_ID, UNK_ID, BOS_ID),
                max_length=self._max_positions,
            )
            found.update(zip(batch, hypotheses, strict=True))
        self._scorer._model.train(was_training)
        return [self._translation(found.get(i)) for i in range(len(lines))]

    def stream(self, lines: Iterable[str]) -> Iterator[Translation]:
        """Translate any number of lines in bounded memory, in order."""
        lines = iter(lines)
        first_line = 1
        while chunk := list(itertools.islice(lines, CHUNK_LINES)):
            yield from self.translate(chunk, first_line)
            first_line += len(chunk)

    def _encode(self, lines: Sequence[str], first_line: int) -> list[list[int]]:
        """Source ids with </s>; an empty list for a blank line."""
        sources = []
        for number, ids in enumerate(self._tokenizers.src.encode([line.strip() for line in lines]), first_line):
            length = len(ids) + 1
            if self._max_positions is not None and length > self._max_positions:
                self._warn(
                    f"warning: line {number}: {length} source tokens, cut to the {self._max_positions} positions that "
                    "the model has learned; split the line into sentences"
                )
                ids = ids[: self._max_positions - 1]
            elif length > self._longest_src_tokens:
                self._warn(
                    f"warning: line {number}: {length} source tokens, longer than the {self._longest_src_tokens} of "
                    "anything trained on; translated all the same, but splitting it into sentences may read better"
                )
            sources.append([*ids, EOS_ID] if ids else [])
        return sources

    def _batches(self, sources: list[list[int]]) -> Iterator[list[int]]:
        """Indices of similar length, longest first, so that a batch too large for memory shows at once."""
        order = sorted((i for i, ids in enumerate(sources) if ids), key=lambda i: -len(sources[i]))
        while order:
            rows = max(1, self._config.batch_tokens // len(sources[order[0]]))
            yield order[:rows]
            order = order[rows:]

    def _translation(self, hypotheses: list[Hypothesis] | None) -> Translation:
        if hypotheses is None:
            return Translation("", 0.0, [("", 0.0)])
        texts = [(self._tokenizers.tgt.decode(h.ids), h.score) for h in hypotheses]
        return Translation(*texts[0], texts)
