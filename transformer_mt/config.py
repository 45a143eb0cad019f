"""The configuration: typed, frozen sections, read strictly from one YAML 1.2 file.

A key that is not known is refused with its nearest neighbour, and all problems of a file are reported at once.
Each part of the program receives its own section (or a few numbers), never the whole `Config`. Every key is
explained in ``configs/reference.yaml``; a test keeps that file and these sections equal.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from transformer_mt.errors import InputError
from transformer_mt.textio import read_lines

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
# YAML has lists; a frozen section holds tuples. Only the container is converted, its items stay strict.
_AsTuple = Field(strict=False)
_KEYS_ONLY = "keys only"  # validation context: leave the conflicts between keys to the caller

MIN_UPDATE_TOKENS = 8  # an update below this holds no sentence worth the name


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversions, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[str]:
        """Values that are right by themselves but impossible together, each with a remedy."""
        yield from ()

    @model_validator(mode="after")
    def _is_possible(self, info: ValidationInfo) -> Self:
        if info.context != _KEYS_ONLY and (found := list(self.conflicts())):
            raise ValueError("; ".join(found))
        return self


AnySection = TypeVar("AnySection", bound=Section)

# What each kind of source reads: files, a Hugging Face dataset, the built-in grammar.
_SOURCE_KEYS = (
    ("src", "tgt"),
    ("hub", "split", "subset", "src_column", "tgt_column"),
    ("builtin", "split", "num_pairs", "seed"),
)


class SourceConfig(Section):
    """One corpus: two line-aligned files, a Hugging Face dataset, or the built-in grammar."""

    src: str | None = None
    tgt: str | None = None
    hub: str | None = None  # a dataset's name on the hub, or a local dataset directory
    split: str | None = None
    subset: str | None = None  # the hub's "configuration" of a dataset
    src_column: str | None = None  # default: the language code, in the column "translation" or as a column
    tgt_column: str | None = None
    builtin: Literal["grammar"] | None = None
    num_pairs: PositiveInt | None = None
    seed: Count = 1

    def conflicts(self) -> Iterator[str]:
        kinds = [self.src is not None or self.tgt is not None, self.hub is not None, self.builtin is not None]
        if sum(kinds) != 1:
            yield "give exactly one of: src and tgt (two files), hub (a dataset), builtin: grammar"
            return
        if kinds[0] and (self.src is None or self.tgt is None):
            yield "src and tgt go together: two files, line i of one belonging to line i of the other"
        if self.hub is not None and self.split is None:
            yield "a hub dataset needs its split, for example split: train"
        if self.builtin and (self.split not in ("train", "valid", "test") or self.num_pairs is None):
            yield "builtin: grammar needs split (train, valid or test) and num_pairs"
        own = _SOURCE_KEYS[kinds.index(True)]
        idle = [key for key, value in self if key not in own and value != SourceConfig.model_fields[key].default]
        if idle:
            yield f"{', '.join(idle)}: of no use here; this kind of source has {', '.join(own)}"

    def __str__(self) -> str:
        if self.src is not None:
            return f"{self.src} + {self.tgt}"
        if self.hub is not None:
            return f"{self.hub}[{self.split}]"
        return f"builtin grammar[{self.split}], {self.num_pairs:,} pairs"


class CleanConfig(Section):
    """Which sentence pairs are left out of training, counted by reason. A pair with an empty side always is."""

    max_src_tokens: PositiveInt = 256  # without </s>
    max_tgt_tokens: PositiveInt = 256
    max_chars: PositiveInt | None = 3000  # "too_long_characters": the longer side has more (Unicode code points)
    max_char_ratio: Annotated[float, Field(ge=1)] | None = None  # "length_ratio": longer side / shorter side
    max_word_chars: PositiveInt | None = None  # "word_too_long": a word between white space, on either side
    drop_identical: bool = False  # "identical": a copy instead of a translation


class DataConfig(Section):
    src_lang: str
    tgt_lang: str
    train: Annotated[tuple[SourceConfig, ...], _AsTuple]
    valid: Annotated[tuple[SourceConfig, ...], _AsTuple] = ()
    clean: CleanConfig = CleanConfig()
    cache_dir: str = "~/.cache/transformer_mt"  # prepared corpora, keyed by their content

    def conflicts(self) -> Iterator[str]:
        if not self.train:
            yield "train needs at least one source, for example train: [{src: train.en, tgt: train.de}]"


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

    def conflicts(self) -> Iterator[str]:
        if not self.sampling and self.n_best > self.beam_size:
            yield f"n_best {self.n_best} needs beam_size {self.n_best} at least, found {self.beam_size}"


class EvalConfig(Section):
    """Scores during training: validation text is decoded greedily unless beam_size says otherwise."""

    metrics: Annotated[tuple[Literal["bleu", "chrf", "ter"], ...], _AsTuple] = ("bleu", "chrf")
    beam_size: PositiveInt = 1


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
        if self.tokenizer.tgt_model is not None and self.tokenizer.shared:
            yield "tokenizer.tgt_model needs tokenizer.shared: false"
        if self.train.best_metric != "loss" and self.train.best_metric not in self.eval.metrics:
            yield f"train.best_metric {self.train.best_metric} is not among eval.metrics; add it there"


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file, apply ``key.path=value`` overrides, expand ``${NAME:-default}``, and check all of it.

    Raises:
        InputError: one line that holds every problem found, each with its key and a remedy.
    """
    text = "\n".join(read_lines(path))
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not a configuration (found {_found(tree)}, expected sections such as data:, model:)")
    for override in overrides:
        _apply_override(tree, override)
    return validate(tree, str(path))


def validate(tree: dict[str, Any], where: str) -> Config:
    """Build a `Config` from plain data; ``where`` names its origin in the refusal."""
    return _checked(Config, _expand(tree), (), f"{where}: ")


def _checked(kind: type[AnySection], values: Any, at: tuple[str, ...], origin: str) -> AnySection:
    """Build a section, or refuse it with all that is wrong; ``at`` is its place in the configuration."""
    problems: list[str] = []
    wrong: list[str] = []
    section: AnySection | None = None
    try:
        section = kind.model_validate(values, context=_KEYS_ONLY)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        for problem in errors:
            problems.append(_describe({**problem, "loc": (*at, *problem["loc"])}))
            if problem["type"] != "extra_forbidden":
                wrong.append(_dotted(at, problem["loc"]))
        # Without what is wrong by itself, the rest shows what is impossible together.
        rest = _without(values, {problem["loc"] for problem in errors})
        if kind is Config and isinstance(rest.setdefault("data", {}), dict):
            rest["data"] = {**_STAND_IN, **rest["data"]}
        with contextlib.suppress(ValidationError):
            section = kind.model_validate(rest, context=_KEYS_ONLY)
    for place, conflict in _all_conflicts(section, at) if section is not None else ():
        named = [_dotted(place, [word.rstrip(".")]) for word in re.findall(r"[\w.]+", conflict)]
        if not any(name == key or name.startswith(f"{key}.") for name in named for key in wrong):
            problems.append(f"{'.'.join(place)}: {conflict}" if place else conflict)
    if section is None or problems:
        count = "" if len(problems) == 1 else f"{len(problems)} problems: "
        raise InputError(f"{origin}{count}{'; '.join(problems)}")
    return section


# For the keys that have no default, where they are missing and the others are checked for conflicts.
_STAND_IN: dict[str, Any] = {"src_lang": "", "tgt_lang": "", "train": [{"src": "", "tgt": ""}]}


def _all_conflicts(section: Section, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(place, conflict) in the sections below, then in this one."""
    for key, value in section:
        items = [((*at, key), value)]
        if isinstance(value, tuple):
            items = [((*at, key, str(number)), item) for number, item in enumerate(value)]
        for place, item in items:
            if isinstance(item, Section):
                yield from _all_conflicts(item, place)
    yield from ((at, conflict) for conflict in section.conflicts())


def _without(value: Any, places: set[tuple[str | int, ...]], at: tuple[str | int, ...] = ()) -> Any:
    """Nested values less those at some places."""
    if isinstance(value, dict):
        return {k: _without(v, places, (*at, k)) for k, v in value.items() if (*at, k) not in places}
    if isinstance(value, list):
        return [_without(v, places, (*at, i)) for i, v in enumerate(value) if (*at, i) not in places]
    return value


def _dotted(at: Sequence[str], path: Sequence[str | int]) -> str:
    """The place of a key in words; an item of a list of values stands for the whole list."""
    keys = [*at, *map(str, path)]
    if path and isinstance(path[-1], int):
        keys.pop()
    return ".".join(keys)


def override_search(search: SearchConfig, overrides: Iterable[str]) -> SearchConfig:
    """Apply ``search.key=value`` overrides to the section that came with a model."""
    for override in (overrides := list(overrides)):
        if not override.startswith("search."):
            raise InputError(f"--set {override}: only search.* keys can be set for a trained model")
    return _validate_section("search", SearchConfig, search.model_dump(), overrides)


def tokenizer_config(values: dict[str, Any], overrides: Iterable[str]) -> TokenizerConfig:
    """A tokenizer section from plain values and ``tokenizer.key=value`` overrides."""
    return _validate_section("tokenizer", TokenizerConfig, values, overrides)


def _validate_section(
    name: str, kind: type[AnySection], values: dict[str, Any], overrides: Iterable[str]
) -> AnySection:
    tree: dict[str, Any] = {name: values}
    for override in overrides:
        _apply_override(tree, override)
    return _checked(kind, tree[name], (name,), "")


def to_yaml(config: Config) -> str:
    """The resolved configuration: every key with the value in force."""
    out = io.StringIO()
    yaml = YAML(typ="rt")
    yaml.width = 120
    # Left to itself the library breaks lines at NEL and U+2028, which then read as spaces.
    tree = _map_strings(
        lambda text: text if text.isprintable() else DoubleQuotedScalarString(text),
        config.model_dump(mode="json"),
    )
    yaml.dump(tree, out)
    return out.getvalue()


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{where}{line}: not valid YAML ({error.problem}); check indentation and quotes") from None
    except (YAMLError, ValueError) as error:
        raise InputError(f"{where}: not valid YAML ({str(error).splitlines()[0]})") from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override}: expected key.path=value, for example --set train.max_steps=2000")
    node = tree
    for i, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {'.'.join(keys[: i + 1])} is {_found(child)}, not a section")
        node = child
    node[keys[-1]] = _parse_yaml(text, f"--set {path}")


def _expand(value: Any) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}`` by the environment's value in every string."""
    return _map_strings(lambda text: re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", _environment_value, text), value)


def _map_strings(change: Callable[[str], str], value: Any) -> Any:
    """Nested values with every string (but no key) changed."""
    if isinstance(value, dict):
        return {key: _map_strings(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(change, item) for item in value]
    return change(value) if isinstance(value, str) else value


def _environment_value(match: re.Match[str]) -> str:
    name, default = match.groups()
    value = os.environ.get(name) or default
    if value is None:
        raise InputError(f"${{{name}}} is used in the configuration but not set; export {name}=...")
    return value


def _describe(error: Any) -> str:
    """One problem in one phrase: key, what was found, what to do."""
    keys = error["loc"]
    where = ".".join(str(key) for key in keys) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where}: missing; add it"
    if error["type"] == "value_error":
        return f"{where}: {message}"
    message = _PLAIN.get(error["type"], message[0].lower() + message[1:])
    return f"{where}: {message}, found {_found(error['input'])}"


# What pydantic says in terms of Python.
_PLAIN = {"model_type": "should be a section of keys", "tuple_type": "should be a list"}


def _known_keys(path: Sequence[str | int]) -> list[str]:
    node: Any = Config
    for key in path:
        if isinstance(key, int):
            node = SourceConfig  # the only lists of sections
        elif not (key in ("train", "valid") and node is DataConfig):
            node = node.model_fields[key].annotation
    return list(node.model_fields)


def _found(value: Any) -> str:
    """What a YAML value is, for a message; a scalar is best shown itself."""
    if value is None:
        return "nothing"
    return "a section" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else repr(value)
