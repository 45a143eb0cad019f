"""The parts of a model's configuration that using the model takes, as `load_part` reads them.

How it was trained is settled: keys of that which this version does not know, or would refuse, do not make a model
useless.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.config.section import AsTuple, Section
from transformer_mt.config.sections import BatchConfig, ModelConfig, OptimConfig, SearchConfig, TokenizerConfig


class _Part(Section, extra="ignore"):
    """A section of which only these keys are read."""


class _SourceLanguages(_Part):
    src_lang: str | None = None
    tgt_lang: str | None = None


class _Languages(_Part):
    src_lang: str
    tgt_lang: str
    train: Annotated[tuple[_SourceLanguages, ...], AsTuple] = ()

    def directions(self) -> list[tuple[str, str]]:
        """The pairs of languages that the model was trained on, in order of the alphabet."""
        return sorted(set(map(self.languages, self.train or (_SourceLanguages(),))))

    def languages(self, source: _SourceLanguages) -> tuple[str, str]:
        """A source's languages: its own, or the corpus's."""
        return source.src_lang or self.src_lang, source.tgt_lang or self.tgt_lang


class _Tokenization(_Part):
    tokenize: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)


class DecodingConfig(_Part):
    """What translating and scoring with a model takes."""

    data: _Languages
    model: ModelConfig
    search: SearchConfig = SearchConfig()
    eval: _Tokenization = _Tokenization()


class InitialConfig(_Part):
    """What a run that starts from a model has in common with it."""

    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()


class _Source(_SourceLanguages, SourceConfig, extra="ignore"):
    """A source of text, to be named."""

    def __str__(self) -> str:
        is_possible = next(self.conflicts(), None) is None
        return super().__str__() if is_possible else "a source that this version does not know"


class _NamedData(_Languages):
    train: Annotated[tuple[_Source, ...], AsTuple] = ()
    valid: Annotated[tuple[_Source, ...], AsTuple] = ()


class _Batch(_Part):
    max_tokens: int


class _Train(_Part):
    max_steps: int
    seed: int
    best_metric: str = "bleu"
    init_from: str | None = None


class _Eval(_Part):
    beam_size: int


class DescribedConfig(_Part):
    """What `tmt info` tells of how a model was made."""

    data: _NamedData
    model: ModelConfig
    # An imported model has none of these three.
    batch: _Batch | None = None
    train: _Train | None = None
    eval: _Eval | None = None

    def conflicts(self) -> Iterator[str]:
        sections = {"batch": self.batch, "train": self.train, "eval": self.eval}
        lacking = [name for name, section in sections.items() if section is None]
        if 0 < len(lacking) < len(sections):
            yield f"{', '.join(lacking)}: missing; copy the model's config.yaml again"


class _Begun(_Part):
    init_from: str | None = None


class _Cleaning(_Part):
    drop_held_out: bool = False


class _AdaptedData(_NamedData):
    test: Annotated[tuple[_Source, ...], AsTuple] = ()
    clean: _Cleaning = _Cleaning()


class AdaptedConfig(_Part):
    """What adapting a model to other text takes: what it is, and how it was trained, and on what."""

    data: _AdaptedData
    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    train: _Begun = _Begun()
    search: SearchConfig = SearchConfig()
