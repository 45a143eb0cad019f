"""The configuration: typed, frozen sections, each with its keys, their types and their defaults.

Each part of the program receives its own section (or a few numbers), never the whole `Config`. Every key is explained
in ``configs/reference.yaml``; a test keeps that file and these sections equal. `config_file` reads and writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
# Beyond these, searching takes more time, memory or digits than there are.
SEARCH_LIMITS: dict[str, tuple[float, float]] = {
    "beam_size": (1, 1000),
    "length_penalty": (-20, 20),
    "n_best": (1, 10_000),
    "max_extra_tokens": (0, 10_000),
    "temperature": (0.001, 1000),
}
# YAML has lists; a frozen section holds tuples. Only the container is converted, its items stay strict.
_AsTuple = Field(strict=False)
KEYS_ONLY = "keys only"  # validation context: leave the conflicts between keys to the caller

MIN_UPDATE_TOKENS = 8  # an update below this holds no sentence worth the name


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversions, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[str]:
        """Values that are right by themselves but impossible together, each with a remedy."""
        yield from ()

    @model_validator(mode="after")
    def _is_possible(self, info: ValidationInfo) -> Self:
        if info.context != KEYS_ONLY and (found := list(self.conflicts())):
            raise ValueError("; ".join(found))
        return self


# What each kind of source reads, by the key that tells the kind. Columns are named where there are some.
_COLUMNS = ("src_column", "tgt_column")
SOURCE_KINDS: dict[str, tuple[str, ...]] = {
    "src": ("src", "tgt"),
    "moses": ("moses",),
    "tsv": ("tsv", *_COLUMNS),
    "jsonl": ("jsonl", *_COLUMNS),
    "parquet": ("parquet", *_COLUMNS),
    "tmx": ("tmx",),
    "hub": ("hub", "split", "subset", "streaming", *_COLUMNS),
    "back_translate": ("back_translate", "model", "search"),
    "distill": ("distill", "model", "search"),
    "builtin": ("builtin", "split", "num_pairs", "seed"),
}
_NO_TAGS = ("pad", "unk", "s")  # their symbols would be those that every vocabulary starts with
_ANY_KIND = ("name", "weight", "tag", "src_lang", "tgt_lang")


class SourceConfig(Section):
    """One corpus, of one of the kinds of ``SOURCE_KINDS``."""

    src: str | None = None  # two files: line i of one belongs to line i of the other
    tgt: str | None = None
    moses: str | None = None  # two files named PREFIX.src_lang and PREFIX.tgt_lang
    tsv: str | None = None  # one pair a line, columns separated by tabs
    jsonl: str | None = None  # one JSON object a line
    parquet: str | None = None
    tmx: str | None = None  # a translation memory
    hub: str | None = None  # a dataset's name on the hub, or a local dataset directory
    split: str | None = None
    subset: str | None = None  # the hub's "configuration" of a dataset
    streaming: bool = False  # read it once, without keeping a copy
    # A column's name, or its number from 1 in a TSV. Default: 1 and 2 in a TSV; else the language code, as a column or
    # inside the column "translation".
    src_column: str | int | None = None
    tgt_column: str | int | None = None
    back_translate: str | None = None  # text of the target language, whose sources `model` makes
    distill: str | None = None  # text of the source language, whose targets `model` makes
    model: str | None = None
    search: dict[str, bool | int | float | str] = {}  # changes to that model's search settings
    builtin: Literal["grammar"] | None = None
    num_pairs: PositiveInt | None = None
    seed: Count = 1
    name: str | None = None  # how data.stages call it
    weight: NonNegative | None = None  # how often each pair is seen in an epoch; default 1
    tag: str | None = None  # a domain, or "back-translated": sources start with the symbol <tag>
    src_lang: str | None = None  # default: data.src_lang
    tgt_lang: str | None = None

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
        if kind == "tsv":
            for key in _COLUMNS:
                column = getattr(self, key)
                if column is not None and (not isinstance(column, int) or column < 1):
                    yield f"{key} of a TSV is a column's number, from 1; found {column!r}"
            if (self.src_column is None) != (self.tgt_column is None):
                yield "src_column and tgt_column of a TSV go together: give both, or none for columns 1 and 2"
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
            return f"{self.src} + {self.tgt}"
        if self.kind == "hub":
            return f"{self.hub}[{self.split}]"
        if self.kind == "builtin":
            return f"builtin grammar[{self.split}], {self.num_pairs:,} pairs"
        path = str(getattr(self, self.kind))
        return path if self.model is None else f"{path} ({self.kind} by {self.model})"


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
    min_number_overlap: Annotated[float, Field(ge=0, le=1)] | None = None  # "number_mismatch": fewer in both sides
    match_urls: bool = False  # "url_mismatch": web and e-mail addresses differ
    max_repeats: Annotated[int, Field(ge=2)] | None = None  # "repeated_ngram": more of the same words in a row
    # "wrong_script": fewer of a side's letters than min_script_share are of its language's scripts, by their Unicode
    # names, for example {ko: [Hangul], ja: [Han, Hiragana, Katakana]}
    scripts: dict[str, Annotated[tuple[str, ...], _AsTuple]] = {}
    min_script_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    drop_html: bool = False  # "html": tags or character references
    drop_control_characters: bool = False  # "control_characters": also U+FFFD and private-use characters
    min_language_probability: Annotated[float, Field(gt=0, lt=1)] | None = None  # "wrong_language" (extra `langid`)


class DataConfig(Section):
    src_lang: str
    tgt_lang: str
    train: Annotated[tuple[SourceConfig, ...], _AsTuple]
    valid: Annotated[tuple[SourceConfig, ...], _AsTuple] = ()
    test: Annotated[tuple[SourceConfig, ...], _AsTuple] = ()  # for `tmt data`: not seen by training
    temperature: Annotated[float, Field(ge=1)] | None = (
        None  # weights by size: share of a source ~ size^(1/temperature)
    )
    stages: Annotated[tuple[StageConfig, ...], _AsTuple] = ()
    clean: CleanConfig = CleanConfig()
    cache_dir: str = "~/.cache/transformer_mt"  # prepared corpora, keyed by their content

    def conflicts(self) -> Iterator[str]:
        if not self.train:
            yield "train needs at least one source, for example train: [{src: train.en, tgt: train.de}]"
        languages = {language for source in self.train for language in self.languages(source)}
        if unused := sorted(self.clean.scripts.keys() - languages):
            known = ", ".join(sorted(languages))
            yield f"clean.scripts: no source is in {', '.join(unused)}; the languages are {known}"
        for part in ("train", "valid", "test"):
            for number, source in enumerate(getattr(self, part)):
                src, tgt = self.languages(source)
                is_by_language = source.src_column is None or source.tgt_column is None
                has_names = any(getattr(source, kind) is not None for kind in ("jsonl", "parquet", "hub"))
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
        if self.train and all(source.weight == 0 for source in self.train):
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


class TokenizerConfig(Section):
    model: str | None = None  # a SentencePiece model to use as it is; with tgt_model, the source side's
    tgt_model: str | None = None
    type: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, Field(ge=8)] = 10000
    shared: bool = True
    normalization: Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"] = "nmt_nfkc"
    byte_fallback: bool = True
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9999
    max_lines: Annotated[int, Field(gt=100)] = 2_000_000  # lines sampled for training; SentencePiece wants over 100
    user_symbols: Annotated[tuple[str, ...], _AsTuple] = ()
    bpe_dropout: Probability = 0.0  # p of Provilkov et al. (2020); 0: every epoch sees the same pieces
    unigram_alpha: Positive | None = None  # α of Kudo (2018); None: every epoch sees the same pieces

    def conflicts(self) -> Iterator[str]:
        if self.tgt_model is not None and self.model is None:
            yield "tgt_model needs model (the source side's tokenizer)"
        if self.bpe_dropout > 0 and self.unigram_alpha is not None:
            yield "bpe_dropout and unigram_alpha are for different tokenizers; set the one for yours"
        elif self.model is None and self.type == "unigram" and self.bpe_dropout > 0:
            yield "bpe_dropout is for type: bpe; set unigram_alpha instead, or the other type"
        elif self.model is None and self.type == "bpe" and self.unigram_alpha is not None:
            yield "unigram_alpha is for type: unigram; set bpe_dropout instead, or the other type"


# The paper's Table 3 "base" and "big" (with P_drop of the English-German column), and the shape that Wu et al.
# (2021) use for corpora of some ten thousand pairs.
PRESETS: dict[str, dict[str, int | float]] = {
    "tiny": dict(d_model=128, d_ff=256, num_heads=4, num_encoder_layers=4, num_decoder_layers=4, dropout=0.3),
    "base": dict(d_model=512, d_ff=2048, num_heads=8, num_encoder_layers=6, num_decoder_layers=6, dropout=0.1),
    "big": dict(d_model=1024, d_ff=4096, num_heads=16, num_encoder_layers=6, num_decoder_layers=6, dropout=0.3),
}


class ModelConfig(Section):
    """The Transformer's shape. Without further keys: the paper's, of the preset's size."""

    preset: Literal["tiny", "base", "big"] = "base"
    d_model: PositiveInt = 512
    d_ff: PositiveInt = 2048
    num_heads: PositiveInt = 8
    d_k: PositiveInt | None = None  # default: d_model / num_heads
    d_v: PositiveInt | None = None
    num_encoder_layers: PositiveInt = 6
    num_decoder_layers: PositiveInt = 6
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.0
    activation_dropout: Probability = 0.0
    activation: Literal["relu", "gelu", "swish"] = "relu"
    norm: Literal["post", "pre"] = "post"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_positions: PositiveInt = 1024  # rows of the learned table; sinusoids have no limit
    tie_embeddings: Literal["all", "target", "none"] = "all"
    attention_bias: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = {**PRESETS.get(str(values.get("preset", "base")), {}), **values}
        d_model, num_heads = filled.get("d_model"), filled.get("num_heads")
        if isinstance(d_model, int) and isinstance(num_heads, int) and num_heads > 0 and d_model % num_heads == 0:
            for key in ("d_k", "d_v"):
                if filled.get(key) is None:
                    filled[key] = d_model // num_heads
        return filled

    def conflicts(self) -> Iterator[str]:
        if self.d_k is None or self.d_v is None:
            yield (
                f"num_heads {self.num_heads} does not divide d_model {self.d_model}; "
                "choose a number of heads that does, or give d_k and d_v"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            yield f"d_model {self.d_model} is odd; sinusoidal positions need an even one"


class BatchConfig(Section):
    max_tokens: Annotated[int, Field(ge=MIN_UPDATE_TOKENS)] = 4096  # labels of one update, over all ranks
    max_source_tokens: Annotated[int, Field(ge=MIN_UPDATE_TOKENS)] | None = None  # default: max_tokens
    micro_tokens: Annotated[int, Field(ge=MIN_UPDATE_TOKENS)] = 32768  # padded positions of one forward pass

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("max_source_tokens") is None:
            max_tokens = values.get("max_tokens", 4096)
            if isinstance(max_tokens, int) and max_tokens >= MIN_UPDATE_TOKENS:  # else it is refused itself
                return {**values, "max_source_tokens": max_tokens}
        return values


class OptimConfig(Section):
    schedule: Literal["paper", "inverse_sqrt", "cosine"] = "paper"
    lr: Positive | None = None  # the peak; the paper's schedule has its own, from d_model and warmup_steps
    warmup_steps: PositiveInt = 4000
    beta1: Probability = 0.9
    beta2: Probability = 0.98
    eps: Positive = 1e-9
    weight_decay: NonNegative = 0.0
    clip_norm: NonNegative = 0.0  # 0: no clipping

    def conflicts(self) -> Iterator[str]:
        if self.schedule == "paper" and self.lr is not None:
            yield "lr has no meaning with schedule: paper; remove it, or set schedule: inverse_sqrt"
        if self.schedule != "paper" and self.lr is None:
            yield f"schedule: {self.schedule} needs lr, the peak learning rate, for example lr: 0.0007"


class TrainConfig(Section):
    max_steps: PositiveInt = 100_000
    label_smoothing: Probability = 0.1
    eval_steps: PositiveInt = 1000
    checkpoint_steps: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 10
    log_steps: PositiveInt = 50
    best_metric: Literal["bleu", "chrf", "loss"] = "bleu"
    patience: Count = 0  # validations without improvement before stopping; 0: never
    seed: Count = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: PositiveInt | None = None  # of this process, on a CPU; default: PyTorch's, one for each core
    deterministic: bool = True
    compile: bool = False  # the layers, with torch.compile
    recompute_activations: bool = False  # of each layer in the backward pass: less memory, a third more work
    ema_decay: Probability = 0.0  # of the average of weights that is validated and saved; 0: the weights themselves
    init_from: str | None = None  # a model whose weights and tokenizer the run starts with
    tensorboard: bool = False  # event files in the run directory
    tracker: str | None = None  # package.module:function, called with every record of metrics.jsonl

    def conflicts(self) -> Iterator[str]:
        if self.tracker is not None and not re.fullmatch(r"[\w.]+:\w+", self.tracker):
            yield f"tracker should be package.module:function, found {self.tracker!r}"


class SearchConfig(Section):
    """How translations are searched for (paper, section 6.1)."""

    beam_size: PositiveInt = 4
    length_penalty: float = 0.6
    length_penalty_form: Literal["gnmt", "power"] = "gnmt"
    stop: Literal["bound", "beam_finished"] = "bound"
    n_best: PositiveInt = 1
    max_extra_tokens: Count = 50  # a translation has at most this many tokens more than its source, </s> in both
    min_tokens: Count = 0  # pieces of a translation at least, without </s>
    no_repeat_ngram: Count = 0  # no n-gram of so many pieces twice in a translation; 0: no such rule
    max_source_tokens: PositiveInt | None = None  # longer lines are split; default: the longest source trained on
    ensemble: Literal["linear", "log_linear"] = "linear"  # mean of the models' probabilities, or of their logarithms
    sampling: bool = False
    temperature: Positive = 1.0
    top_k: Count = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Count = 1
    batch_tokens: PositiveInt = 8192  # source positions × hypotheses translated at once, padding included
    workers: Count = 0  # processes that translate, on a CPU; 0: one for each core
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "float32"
    tgt_lang: str | None = None  # of a model with several target languages; default: data.tgt_lang
    tag: str | None = None  # a domain that the model was trained with; default: none

    def conflicts(self) -> Iterator[str]:
        for key, (lowest, highest) in SEARCH_LIMITS.items():
            if not lowest <= getattr(self, key) <= highest:
                yield f"{key} should be from {lowest:,} to {highest:,}, found {getattr(self, key)}"
        if not self.sampling and self.n_best > self.beam_size:
            yield f"n_best {self.n_best} needs beam_size {self.n_best} at least, found {self.beam_size}"


class EvalConfig(Section):
    """Scores during training: validation text is decoded greedily unless beam_size says otherwise."""

    metrics: Annotated[tuple[Literal["bleu", "chrf", "ter"], ...], _AsTuple] = ("bleu", "chrf")
    tokenize: dict[str, str] = {}  # sacreBLEU's tokenisation for BLEU by target language; default: by language
    beam_size: Annotated[int, Field(gt=0, le=SEARCH_LIMITS["beam_size"][1])] = 1


class Config(Section):
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    search: SearchConfig = SearchConfig()
    eval: EvalConfig = EvalConfig()

    def conflicts(self) -> Iterator[str]:
        if self.model.tie_embeddings == "all" and not self.tokenizer.shared:
            yield "model.tie_embeddings: all needs tokenizer.shared: true; set it, or tie_embeddings: target"
        longest = max(self.data.clean.max_src_tokens, self.data.clean.max_tgt_tokens) + 1
        if self.model.positions == "learned" and self.model.max_positions < longest:
            yield f"model.max_positions {self.model.max_positions} is less than data.clean allows, {longest} with </s>"
        if self.train.init_from is None:  # else the vocabulary is another model's
            tags, languages = {None, *self.data.tags()}, {None, *self.data.tgt_langs()}
            asked = [("data.valid", source.tag, self.data.languages(source)[1]) for source in self.data.valid]
            for where, tag, language in [*asked, ("search", self.search.tag, self.search.tgt_lang)]:
                if tag not in tags:
                    yield f"{where}: no training source has the tag {tag}; set it there, or remove it here"
                if language not in languages:
                    yield f"{where}: no training source has the tgt_lang {language}; set it there, or remove it here"
            if self.tokenizer.model is None:
                symbols = [f"<{tag}>" for tag in self.data.tags()]
                if len(self.data.tgt_langs()) > 1:
                    symbols += [f"<2{language}>" for language in self.data.tgt_langs()]
                if doubled := sorted({*symbols} & {*self.tokenizer.user_symbols}):
                    yield (
                        f"tokenizer.user_symbols {', '.join(doubled)}: tags and target languages in data.train become "
                        "symbols by themselves; remove it there"
                    )
        if self.train.patience > 0 and not self.data.valid:
            yield "train.patience counts validations, and there is no data.valid; add it, or remove patience"
        if self.tokenizer.tgt_model is not None and self.tokenizer.shared:
            yield "tokenizer.tgt_model needs tokenizer.shared: false"
        if self.train.best_metric != "loss" and self.train.best_metric not in self.eval.metrics:
            yield f"train.best_metric {self.train.best_metric} is not among eval.metrics; add it there"
