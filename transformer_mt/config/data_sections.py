"""The section ``data``: sources of sentence pairs, their weights, and the rules that they are cleaned by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from transformer_mt.config.section import (
    AsTuple,
    NonNegative,
    PathName,
    Paths,
    PositiveInt,
    Probability,
    Section,
    Seed,
)

# What each kind of source reads, by the key that tells the kind. Columns are named where there are some.
_COLUMNS = ("src_column", "tgt_column")


SOURCE_KINDS: dict[str, tuple[str, ...]] = {
    "src": ("src", "tgt"),
    "moses": ("moses",),
    "tsv": ("tsv", "header", *_COLUMNS),
    "csv": ("csv", "header", "delimiter", *_COLUMNS),
    "jsonl": ("jsonl", *_COLUMNS),
    "parquet": ("parquet", *_COLUMNS),
    "tmx": ("tmx",),
    "xliff": ("xliff",),
    "po": ("po",),
    "hub": ("hub", "split", "subset", "streaming", *_COLUMNS),
    "test_set": ("test_set",),
    "back_translate": ("back_translate", "model", "search"),
    "distill": ("distill", "model", "search"),
    "builtin": ("builtin", "split", "num_pairs", "seed"),
}


TAB = ("tab", r"\t", "\t")  # how a delimiter may be written


_NO_TAGS = ("pad", "unk", "s")  # their symbols would be those that every vocabulary starts with


_ANY_KIND = ("name", "weight", "tag", "src_lang", "tgt_lang", "license")


class SourceConfig(Section):
    """One corpus, of one of the kinds of ``SOURCE_KINDS``. Where one file may stand, several may."""

    src: Paths | None = None  # two files: line i of one belongs to line i of the other
    tgt: Paths | None = None
    moses: Paths | None = None  # two files named PREFIX.src_lang and PREFIX.tgt_lang
    tsv: Paths | None = None  # one pair a line, columns separated by tabs
    csv: Paths | None = None  # a table with quotes around fields, as spreadsheets write it
    delimiter: str | None = None  # between the fields of a CSV; default: a comma
    # Whether the first line of a TSV or CSV has the columns' names; default: where columns are named, or it has the
    # language codes.
    header: bool | None = None
    jsonl: Paths | None = None  # one JSON object a line
    parquet: Paths | None = None
    tmx: Paths | None = None  # a translation memory
    xliff: Paths | None = None  # XLIFF 1.2 or 2.x
    po: Paths | None = None  # a catalogue of messages, by gettext
    hub: PathName | None = None  # a dataset's name on the hub, or a local dataset directory
    split: str | None = None
    subset: str | None = None  # the hub's "configuration" of a dataset
    streaming: bool = False  # read it once, without keeping a copy
    test_set: str | None = None  # published: sacreBLEU's name of it; the first of its references
    # A column's name, or its number from 1 in a TSV or CSV. Default: the language code, as a column or inside the
    # column "translation"; 1 and 2 in a TSV that does not begin with those, and in a CSV without a header.
    src_column: str | int | None = None
    tgt_column: str | int | None = None
    back_translate: Paths | None = None  # text of the target language, whose sources `model` makes
    distill: Paths | None = None  # text of the source language, whose targets `model` makes
    model: Paths | None = None  # several translate together
    search: dict[str, bool | int | float | str] = {}  # noqa: RUF012 (pydantic copies it); changes to that model's search settings
    builtin: Literal["grammar"] | None = None
    num_pairs: PositiveInt | None = None
    seed: Seed = 1
    name: str | None = None  # how data.stages call it
    weight: NonNegative | None = None  # how often each pair is seen in an epoch; default 1
    tag: str | None = None  # a domain, or "back-translated": sources start with the symbol <tag>
    src_lang: str | None = None  # default: data.src_lang
    tgt_lang: str | None = None
    license: str | None = None  # of the text: for the card of a model that is exported

    @property
    def kind(self) -> str:
        """The key that tells what it is."""
        return next(kind for kind in SOURCE_KINDS if getattr(self, kind) is not None)

    def conflicts(self) -> Iterator[str]:
        kinds = [kind for kind in SOURCE_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            if not kinds and self.tgt is not None:
                yield "src and tgt go together: two files, line i of one belonging to line i of the other"
            else:
                yield f"give exactly one of: src and tgt, {', '.join(list(SOURCE_KINDS)[1:])}"
            return
        [kind] = kinds
        if kind == "src" and self.tgt is None:
            yield "src and tgt go together: two files, line i of one belonging to line i of the other"
        if kind == "hub" and self.split is None:
            yield "a hub dataset needs its split, for example split: train"
        if kind == "builtin" and (self.split not in ("train", "valid", "test") or self.num_pairs is None):
            yield "builtin: grammar needs split (train, valid or test) and num_pairs"
        if kind in ("back_translate", "distill") and self.model is None:
            yield f"{kind} needs model, the one that translates the text"
        if kind in ("tsv", "csv"):
            for key in _COLUMNS:
                column = getattr(self, key)
                if isinstance(column, int) and column < 1:
                    yield f"{key} is a column's name, or its number from 1; found {column}"
                if isinstance(column, str) and self.header is False:
                    yield f"{key} {column!r} is a name, which a table has in its header; give a number, or header: true"
            if (self.src_column is None) != (self.tgt_column is None):
                yield "src_column and tgt_column of a table go together: give both, or none"
        if self.delimiter not in (None, *TAB) and not re.fullmatch(r'[^"\r\n]', str(self.delimiter)):
            yield f"delimiter is one character, or the word tab; found {self.delimiter!r}"
        if self.src_column is not None and self.src_column == self.tgt_column:
            yield f"src_column and tgt_column are both {self.src_column!r}; name the column of each language"
        if self.tag in _NO_TAGS:
            yield f"tag {self.tag}: <{self.tag}> is a symbol of the tokenizer's own; choose another tag"
        if self.tag is not None and not re.fullmatch(r"[^\W\d][\w.-]*", self.tag):
            yield f"tag should be a letter or _, then letters, digits, _, - and ., found {self.tag!r}"
        own = SOURCE_KINDS[kind]
        idle = [
            key
            for key, value in self
            if key not in (*own, *_ANY_KIND) and value != SourceConfig.model_fields[key].default
        ]
        if idle:
            yield f"{', '.join(idle)}: of no use here; this kind of source has {', '.join(own)}"

    def __str__(self) -> str:
        if self.kind == "src":
            return f"{_in_words(self.src)} + {_in_words(self.tgt)}"
        if self.kind == "hub":
            return f"{self.hub}[{self.split}]"
        if self.kind == "test_set":
            return f"test set {self.test_set}"
        if self.kind == "builtin":
            return f"builtin grammar[{self.split}], {self.num_pairs:,} pairs"
        path = _in_words(getattr(self, self.kind))
        return path if self.model is None else f"{path} ({self.kind} by {_in_words(self.model)})"


def _in_words(paths: str | tuple[str, ...] | None) -> str:
    """Return a file or pattern, and how many follow it in a list."""
    if not isinstance(paths, tuple):
        return str(paths)
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


class StageConfig(Section):
    """A part of the training with weights of its own for the sources that it names."""

    steps: PositiveInt | None = None  # how long; None, for the last: until the end
    weights: dict[str, NonNegative]


class CleanConfig(Section):
    """Which sentence pairs are left out of training, counted by reason. A pair with an empty side always is."""

    max_src_tokens: PositiveInt = 256  # without </s>
    max_tgt_tokens: PositiveInt = 256
    max_chars: PositiveInt | None = 3000  # "too_long_characters": the longer side has more (Unicode code points)
    max_char_ratio: Annotated[float, Field(ge=1)] | None = None  # "length_ratio": longer side / shorter side
    max_word_ratio: Annotated[float, Field(ge=1)] | None = None  # "word_ratio": the same in words
    max_word_chars: PositiveInt | None = None  # "word_too_long": a word between white space, on either side
    drop_identical: bool = False  # "identical": a copy instead of a translation
    duplicates: Literal["keep", "exact", "near"] = "keep"  # "duplicate", "near_duplicate": seen before in the corpus
    drop_held_out: bool = False  # "held_out": a side stands in the validation or test text, or one near to it
    min_number_overlap: Annotated[float, Field(ge=0, le=1)] | None = None  # "number_mismatch": fewer in both sides
    match_urls: bool = False  # "url_mismatch": web and e-mail addresses differ
    max_repeats: Annotated[int, Field(ge=2)] | None = None  # "repeated_ngram": more of the same words in a row
    # "wrong_script": fewer of a side's letters than min_script_share are of its language's scripts, by their Unicode
    # names, for example {ko: [Hangul], ja: [Han, Hiragana, Katakana]}
    scripts: dict[str, Annotated[tuple[str, ...], AsTuple]] = {}  # noqa: RUF012
    min_script_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    drop_html: bool = False  # "html": tags or character references
    drop_control_characters: bool = False  # "control_characters": also U+FFFD and private-use characters
    min_language_probability: Annotated[float, Field(gt=0, lt=1)] | None = None  # "wrong_language" (extra `langid`)
    # "low_score": less log-probability a token of the target, in the mean, by a model; for `tmt data clean` alone
    min_score: Annotated[float, Field(lt=0)] | None = None
    score_model: str | None = None

    def conflicts(self) -> Iterator[str]:
        if (self.min_score is None) != (self.score_model is None):
            yield "min_score and score_model belong together: set both, or neither"


class NoiseConfig(Section):
    """Noise on the sources of training, drawn anew in each epoch."""

    case: Probability = 0.0  # of a source in lower case or, as often, in capitals
    diacritics: Probability = 0.0  # of a source without accents
    punctuation: Probability = 0.0  # of a source without punctuation
    typos: Probability = 0.0  # of each letter: left out, doubled, or exchanged with the next


class DataConfig(Section):
    src_lang: str
    tgt_lang: str
    train: Annotated[tuple[SourceConfig, ...], AsTuple]
    valid: Annotated[tuple[SourceConfig, ...], AsTuple] = ()
    test: Annotated[tuple[SourceConfig, ...], AsTuple] = ()  # not seen by training; scored once, when it has ended
    temperature: Annotated[float, Field(ge=1)] | None = (
        None  # weights by size: share of a source ~ size^(1/temperature)
    )
    stages: Annotated[tuple[StageConfig, ...], AsTuple] = ()
    clean: CleanConfig = CleanConfig()
    noise: NoiseConfig = NoiseConfig()
    cache_dir: str = "~/.cache/transformer_mt"  # prepared corpora, keyed by their content

    def conflicts(self) -> Iterator[str]:
        if not self.train:
            yield "train needs at least one source, for example train: [{src: train.en, tgt: train.de}]"
            return  # the rest would follow from it
        languages = {language for source in self.train for language in self.languages(source)}
        if unused := sorted(self.clean.scripts.keys() - languages):
            known = ", ".join(sorted(languages))
            yield f"clean.scripts: no source is in {', '.join(unused)}; the languages are {known}"
        for part in ("train", "valid", "test"):
            for number, source in enumerate(getattr(self, part)):
                src, tgt = self.languages(source)
                is_by_language = source.src_column is None or source.tgt_column is None
                has_names = any(getattr(source, kind) is not None for kind in ("csv", "jsonl", "parquet", "hub"))
                has_names = has_names and source.header is not False
                if has_names and is_by_language and (source.src_column or src) == (source.tgt_column or tgt):
                    yield (
                        f"{part}.{number}: both sides would be the column {source.src_column or src!r} (default: "
                        "src_lang and tgt_lang); give src_column and tgt_column"
                    )
        names = [source.name for source in self.train if source.name is not None]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            yield f"train: two sources have the name {', '.join(repeated)}; give each its own"
        weighted = any(source.weight is not None for source in self.train)
        if self.temperature is not None and (weighted or self.stages):
            yield "temperature takes the place of weights; remove it, or each weight and stages"
        if all(source.weight == 0 for source in self.train):
            yield "train: every weight is 0; let one source be seen"
        for number, stage in enumerate(self.stages):
            if unknown := sorted(stage.weights.keys() - set(names)):
                yield f"stages.{number}: no source has the name {', '.join(unknown)}; set name in data.train"
            if (stage.steps is None) != (number == len(self.stages) - 1):
                yield f"stages.{number}: give steps to each stage but the last, which goes on until the end"
            if not any(self.weights(number)):
                yield f"stages.{number}: every weight is 0; let one source be seen"

    def weights(self, stage: int | None = None) -> list[float]:
        """Of each training source, without `temperature`, in a stage or where there are none."""
        special = {} if stage is None else self.stages[stage].weights
        own = [1.0 if source.weight is None else source.weight for source in self.train]
        return [special.get(source.name or "", weight) for source, weight in zip(self.train, own, strict=True)]

    def tags(self) -> list[str]:
        """The domains of the training sources, in order of the alphabet."""
        return sorted({source.tag for source in self.train if source.tag is not None})

    def tgt_langs(self) -> list[str]:
        """The target languages of the training sources, in order of the alphabet."""
        return sorted({self.languages(source)[1] for source in self.train})

    def languages(self, source: SourceConfig) -> tuple[str, str]:
        """A source's languages: its own, or the corpus's."""
        return source.src_lang or self.src_lang, source.tgt_lang or self.tgt_lang
