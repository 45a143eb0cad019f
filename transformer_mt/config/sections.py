"""The configuration: typed, frozen sections, each with its keys, their types and their defaults.

Each part of the program receives its own section (or a few numbers), never the whole `Config`. Every key is explained
in ``configs/reference.yaml``; a test keeps that file and these sections equal. `loading` reads and writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.section import (
    AsTuple,
    Count,
    NonNegative,
    PathName,
    Positive,
    PositiveInt,
    Probability,
    Section,
    Seed,
)

# Beyond these, searching takes more time, memory or digits than there are.
SEARCH_LIMITS: dict[str, tuple[float, float]] = {
    "beam_size": (1, 1000),
    "length_penalty": (-20, 20),
    "n_best": (1, 10_000),
    "max_extra_tokens": (0, 10_000),
    "temperature": (0.001, 1000),
}

MIN_UPDATE_TOKENS = 8  # an update below this holds no sentence worth the name
MICRO_TOKENS = 32768  # padded positions of a forward pass on a CPU, and of validation, where nothing else is asked for


class TokenizerConfig(Section):
    model: PathName | None = None  # a SentencePiece model to use as it is; with tgt_model, the source side's
    tgt_model: PathName | None = None
    type: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, Field(ge=8, le=2**31 - 1)] = 10000
    shared: bool = True
    normalization: Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"] = "nmt_nfkc"
    byte_fallback: bool = True
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9999
    max_lines: Annotated[int, Field(gt=100)] = 2_000_000  # lines sampled for training; SentencePiece wants over 100
    user_symbols: Annotated[tuple[str, ...], AsTuple] = ()
    add_pieces: Count = 0  # of the training text, to the vocabulary of train.init_from
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


# The paper's Table 3 "base" and "big" (with P_drop of the English-German column), the shape that Wu et al. (2021) use
# for corpora of some ten thousand pairs, and one for distilled models: its decoder, which runs once a token, is short.
PRESETS: dict[str, dict[str, int | float]] = {
    "tiny": dict(d_model=128, d_ff=256, num_heads=4, num_encoder_layers=4, num_decoder_layers=4, dropout=0.3),
    "base": dict(d_model=512, d_ff=2048, num_heads=8, num_encoder_layers=6, num_decoder_layers=6, dropout=0.1),
    "student": dict(d_model=256, d_ff=1536, num_heads=8, num_encoder_layers=6, num_decoder_layers=2, dropout=0.1),
    "big": dict(d_model=1024, d_ff=4096, num_heads=16, num_encoder_layers=6, num_decoder_layers=6, dropout=0.3),
}


# Keys of the model that say nothing of a recurrent one.
_OF_TRANSFORMERS = (
    *("d_ff", "num_heads", "d_k", "d_v", "attention_dropout", "activation_dropout", "activation", "norm", "positions"),
    *("max_positions", "attention_bias"),
)


class ModelConfig(Section):
    """The Transformer's shape. Without further keys: the paper's, of the preset's size."""

    kind: Literal["transformer", "recurrent"] = "transformer"
    preset: Literal["tiny", "student", "base", "big"] = "base"
    d_model: PositiveInt = 512
    d_ff: PositiveInt = 2048
    num_heads: PositiveInt = 8
    d_k: PositiveInt | None = None  # default: d_model / num_heads
    d_v: PositiveInt | None = None
    num_encoder_layers: Annotated[int, Field(ge=1, le=1024)] = 6
    num_decoder_layers: Annotated[int, Field(ge=1, le=1024)] = 6
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.0
    activation_dropout: Probability = 0.0
    activation: Literal["relu", "gelu", "swish"] = "relu"
    norm: Literal["post", "pre"] = "post"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_positions: PositiveInt = 1024  # rows of the learned table; sinusoids have no limit
    tie_embeddings: Literal["all", "target", "none"] = "all"
    attention_bias: bool = False
    output_bias: bool = False  # a number for each piece, added to its logit
    recurrent_attention: Literal["none", "additive", "dot"] = "additive"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = {**PRESETS.get(str(values.get("preset", "base")), {}), **values}
        d_model, num_heads = filled.get("d_model"), filled.get("num_heads")
        if filled.get("kind") == "recurrent":
            return filled
        if (
            isinstance(d_model, int)
            and isinstance(num_heads, int)
            and min(d_model, num_heads) > 0
            and d_model % num_heads == 0
        ):
            for key in ("d_k", "d_v"):
                if filled.get(key) is None:
                    filled[key] = d_model // num_heads
        return filled

    def conflicts(self) -> Iterator[str]:
        if self.kind == "recurrent":
            yield from self._conflicts_of_recurrent()
            return
        if self.recurrent_attention != type(self).model_fields["recurrent_attention"].default:
            yield f"recurrent_attention {self.recurrent_attention} needs kind: recurrent; set it, or remove this key"
        if self.d_k is None or self.d_v is None:
            yield (
                f"num_heads {self.num_heads} does not divide d_model {self.d_model}; "
                "choose a number of heads that does, or give d_k and d_v"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            yield f"d_model {self.d_model} is odd; sinusoidal positions need an even one"

    def _conflicts_of_recurrent(self) -> Iterator[str]:
        # A configuration that a run has written has all keys, so what counts is another value than the preset's.
        usual = {key: type(self).model_fields[key].default for key in _OF_TRANSFORMERS} | PRESETS[self.preset]
        if idle := [key for key in _OF_TRANSFORMERS if getattr(self, key) != usual[key]]:
            yield f"{', '.join(idle)}: of no meaning with kind: recurrent; remove {'it' if len(idle) == 1 else 'them'}"
        if self.d_model % 2:
            yield f"d_model {self.d_model} is odd; the encoder's two directions have half of it each"


class BatchConfig(Section):
    max_tokens: Annotated[int, Field(ge=MIN_UPDATE_TOKENS)] = 4096  # labels of one update, over all ranks
    max_source_tokens: Annotated[int, Field(ge=MIN_UPDATE_TOKENS)] | None = None  # default: max_tokens
    # Padded positions of one forward pass. Default: `MICRO_TOKENS` on a CPU, on a GPU an update, or what of it fits.
    micro_tokens: Annotated[int, Field(ge=MIN_UPDATE_TOKENS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("max_source_tokens") is None:
            max_tokens = values.get("max_tokens", 4096)
            if isinstance(max_tokens, int) and max_tokens >= MIN_UPDATE_TOKENS:  # else it is refused itself
                return {**values, "max_source_tokens": max_tokens}
        return values

    @property
    def budget(self) -> tuple[int, int]:
        """How many ids of the source and of the target, </s> included, the pairs of an update may have in all."""
        return self.max_source_tokens or self.max_tokens, self.max_tokens


class OptimConfig(Section):
    optimizer: Literal["adam", "muon"] = "adam"
    schedule: Literal["paper", "inverse_sqrt", "cosine", "linear", "stable"] = "paper"
    lr: Positive | None = None  # the peak; the paper's schedule has its own, from d_model and warmup_steps
    warmup_steps: PositiveInt = 4000
    decay_steps: PositiveInt | None = None  # of the schedule stable: the last ones of a run, in which the rate falls
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
        if self.schedule == "stable" and self.decay_steps is None:
            yield "schedule: stable needs decay_steps, for example a fifth of train.max_steps"
        if self.schedule != "stable" and self.decay_steps is not None:
            yield f"decay_steps has no meaning with schedule: {self.schedule}; remove it, or set schedule: stable"


class TrainConfig(Section):
    max_steps: PositiveInt = 100_000
    label_smoothing: Probability = 0.1
    eval_steps: PositiveInt = 1000
    checkpoint_steps: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 10
    log_steps: PositiveInt = 50
    best_metric: Literal["bleu", "chrf", "loss"] = "bleu"
    patience: Count = 0  # validations without improvement before stopping; 0: never
    seed: Seed = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = (
        None  # of this process, on a CPU; default: PyTorch's, one for each core
    )
    deterministic: bool = True
    compile: bool = False  # the layers, with torch.compile
    recompute_activations: bool = False  # of each layer in the backward pass: less memory, a third more work
    ema_decay: Probability = 0.0  # of the average of weights that is validated and saved; 0: the weights themselves
    init_from: PathName | None = None  # a model whose weights and tokenizer the run starts with
    # Weights of that model that stay as they are.
    freeze: Annotated[tuple[Literal["embeddings", "encoder", "decoder"], ...], AsTuple] = ()
    tensorboard: bool = False  # event files in the run directory
    tracker: str | None = None  # package.module:function, called with every record of metrics.jsonl

    def conflicts(self) -> Iterator[str]:
        if self.freeze and self.init_from is None:
            yield "freeze would keep random weights; set init_from, the model whose weights shall stay, or remove it"
        if {*self.freeze} == {"embeddings", "encoder", "decoder"}:
            yield "freeze: leaves nothing to train; remove one of its parts"
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
    seed: Seed = 1
    # Source positions × hypotheses translated at once, padding included; default: 8192 on a CPU, on a GPU what fits.
    batch_tokens: PositiveInt | None = None
    workers: Count = 0  # processes that translate, on a CPU; 0: one for each core
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "float32"
    tgt_lang: str | None = None  # of a model with several target languages; default: data.tgt_lang
    tag: str | None = None  # a domain that the model was trained with; default: none

    @property
    def num_hypotheses(self) -> int:
        """How many hypotheses of each source are followed at once."""
        return self.n_best if self.sampling else self.beam_size

    def conflicts(self) -> Iterator[str]:
        for key, (lowest, highest) in SEARCH_LIMITS.items():
            if not lowest <= getattr(self, key) <= highest:
                yield f"{key} should be from {lowest:,} to {highest:,}, found {getattr(self, key)}"
        if not self.sampling and self.n_best > self.beam_size:
            yield f"n_best {self.n_best} needs beam_size {self.n_best} at least, found {self.beam_size}"


class EvalConfig(Section):
    """Scores during training: validation text is decoded greedily unless beam_size says otherwise."""

    metrics: Annotated[tuple[Literal["bleu", "chrf", "ter"], ...], AsTuple] = ("bleu", "chrf")
    # sacreBLEU's tokenisation for BLEU by target language; default: by language
    tokenize: dict[str, str] = {}  # noqa: RUF012
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

    def with_micro_tokens(self, micro_tokens: int | None) -> Self:
        """Return the same configuration with another ``batch.micro_tokens``."""
        return self.model_copy(update={"batch": self.batch.model_copy(update={"micro_tokens": micro_tokens})})

    def conflicts(self) -> Iterator[str]:
        if self.model.tie_embeddings == "all" and not self.tokenizer.shared:
            yield "model.tie_embeddings: all needs tokenizer.shared: true; set it, or tie_embeddings: target"
        longest = max(self.data.clean.max_src_tokens, self.data.clean.max_tgt_tokens) + 1
        if self.model.positions == "learned" and self.model.max_positions < longest:
            yield f"model.max_positions {self.model.max_positions} is less than data.clean allows, {longest} with </s>"
        if self.data.train and self.train.init_from is None:  # else the vocabulary is another model's
            tags, languages = {None, *self.data.tags()}, {None, *self.data.tgt_langs()}
            asked = [("search", self.search.tag, self.search.tgt_lang)]
            for part, sources in (("data.valid", self.data.valid), ("data.test", self.data.test)):
                asked += [(part, source.tag, self.data.languages(source)[1]) for source in sources]
            for section, tag, language in asked:
                if tag not in tags:
                    yield f"{section}: no training source has the tag {tag}; set it there, or remove it here"
                if language not in languages:
                    yield f"{section}: no training source has the tgt_lang {language}; set it there, or remove it here"
            if self.tokenizer.model is None:
                symbols = [f"<{tag}>" for tag in self.data.tags()]
                if len(self.data.tgt_langs()) > 1:
                    symbols += [f"<2{language}>" for language in self.data.tgt_langs()]
                if doubled := sorted({*symbols} & {*self.tokenizer.user_symbols}):
                    yield (
                        f"tokenizer.user_symbols {', '.join(doubled)}: tags and target languages in data.train become "
                        "symbols by themselves; remove it there"
                    )
            if self.tokenizer.add_pieces:
                yield "tokenizer.add_pieces adds to the vocabulary of train.init_from; set that, or vocab_size instead"
        if self.model.kind == "recurrent":
            for key in ("compile", "recompute_activations"):
                if getattr(self.train, key):
                    yield f"train.{key} is for model.kind: transformer; remove it, or set that"
            if self.optim.optimizer == "muon":
                yield "optim.optimizer: muon is for model.kind: transformer; set adam, or that"
        if self.train.patience > 0 and not self.data.valid:
            yield "train.patience counts validations, and there is no data.valid; add it, or remove patience"
        if self.tokenizer.tgt_model is not None and self.tokenizer.shared:
            yield "tokenizer.tgt_model needs tokenizer.shared: false"
        if self.train.best_metric != "loss" and self.train.best_metric not in self.eval.metrics:
            yield f"train.best_metric {self.train.best_metric} is not among eval.metrics; add it there"
