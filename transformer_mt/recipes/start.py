"""`tmt init`: look at the text, hold some of it out, try some updates, write a configuration that says why."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config, TokenizerConfig
from transformer_mt.curation.common import percent
from transformer_mt.curation.repeated_texts import fillers_of
from transformer_mt.curation.stats import scripts_of
from transformer_mt.curation.text_faults import no_text
from transformer_mt.data.pairs import NamedSource
from transformer_mt.data.readers.sources import read_pairs, source_files
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError, RunError
from transformer_mt.evaluation.scores import DEFAULT_TOKENIZE, default_tokenize
from transformer_mt.recipes import adapting, sizes
from transformer_mt.recipes.adapting import Initial, adapted
from transformer_mt.recipes.cleaning import are_kept, rules_for
from transformer_mt.recipes.files import files_of
from transformer_mt.recipes.held_out import HeldOutText, hold_out
from transformer_mt.recipes.languages import (
    Direction,
    MaybeCodes,
    contradictions,
    direction,
    languages_of,
    languages_of_pairs,
)
from transformer_mt.recipes.look import Look, look_at
from transformer_mt.recipes.names import check_codes
from transformer_mt.recipes.replay import NOTHING, Amount, Replay, replay_for
from transformer_mt.recipes.sides import Files, MaybeColumns, right_way
from transformer_mt.recipes.sizes import Corpus
from transformer_mt.recipes.trial import seconds_per_update
from transformer_mt.recipes.writing import Choice, Choices, as_text, as_tree, values_of
from transformer_mt.system.console import Tell
from transformer_mt.system.device import describe, local_device
from transformer_mt.system.lines import OLD_LINE_ENDS, ends_at_cr
from transformer_mt.system.whole_files import check_writable, replaced_file
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.training.run_log import format_seconds

_LEAST_PAIRS = 100
_TRIED = 10_000  # pairs that a tokenizer is tried on
_OF_SYLLABLES = {"Han", "Hangul", "Hiragana", "Katakana"}


@dataclass(frozen=True)
class Asked:
    """What somebody asks for on the command line; None where nothing is said."""

    src: str
    tgt: str | None
    output: Path
    given: dict[str, tuple[str, str | None]]  # files of "valid", "test" and, for a model that is adapted, "replay"
    codes: MaybeCodes
    columns: MaybeColumns
    init_from: Path | None
    most_seconds: float  # that training may take


class _Inputs(NamedTuple):
    """The files that somebody has named, each with its sides the right way round."""

    train: Files
    given: dict[str, Files]
    look: Look  # at the training text
    languages: Direction


@dataclass(frozen=True)
class _Text:
    """The training text, as the choices of sizes need it."""

    num_pairs: int  # that training will see
    sample: list[SentencePair]
    num_characters: int  # different ones that make up nearly all of it
    have_syllables: tuple[bool, bool]  # a side is written in characters of which there are thousands

    @property
    def amount(self) -> Amount:
        return Amount(self.num_pairs, self.num_pairs * statistics.fmean(len(pair.tgt) for pair in self.sample))

    @property
    def estimate(self) -> Corpus:
        """How much it is, before there are pieces."""
        means = [statistics.fmean(map(len, side)) for side in zip(*self.sample, strict=True)]
        return Corpus(self.num_pairs, *map(sizes.tokens_of, means, self.have_syllables))


@dataclass(frozen=True)
class _Tried:
    """A configuration that fits into memory, and how long it takes."""

    choices: Choices
    config: Config
    seconds_per_update: float
    share_too_long: float  # of the pairs

    @property
    def seconds(self) -> float:
        return self.seconds_per_update * self.config.train.max_steps

    @property
    def shape(self) -> str:
        model = self.config.model
        return f"{model.num_encoder_layers} + {model.num_decoder_layers} layers, {model.d_model} wide"


def write_configuration(asked: Asked, tell: Tell) -> None:
    """Write a configuration for somebody's text, and what it holds out beside it; all of it, or nothing.

    Raises:
        InputError: text, options or a model that cannot be used; an output that is there already.
        RunError: the output cannot be written.
    """
    _check_output(asked.output)
    initial = None if asked.init_from is None else adapting.load_initial(asked.init_from)
    train, given, look, languages = _inputs(asked, (None, None) if initial is None else initial.codes)
    if initial is not None:
        adapting.check_direction(initial, languages.codes)
    sides = [f"columns {src} and {tgt}" for src, tgt in [train.columns] if "src_column" in train.settings]
    tell("; ".join([f"{train.source}: {look.counted()}", *sides, _described(look)]))
    tell(f"languages: {languages.described()}")
    for warning in contradictions(languages, look.sample):
        tell(warning)
    sample = look.sample[:: -(-len(look.sample) // _TRIED)]
    for reason, is_certain in no_text(sample, languages.codes):
        if is_certain:
            raise InputError(f"{train.source}: {reason}")
        tell(f"warning: {train.source}: {reason}")
    for filler in fillers_of(sample, NamedSource("warning", train.source, languages.codes)):
        tell(filler)

    rules = rules_for(look, languages.codes, tell)
    kept = are_kept(look.sample, rules, languages.codes)
    if not any(kept):
        raise InputError(
            f"{train.source}: all pairs have more than {CleanConfig().max_chars:,} characters on a side, or break the "
            "rules of cleaning; one sentence a line is expected, look at the line ends of the files"
        )
    old = given.pop("replay", None)
    held_out = hold_out(look, kept, given, languages.codes, asked.output, tell)
    text = _text_of(look, kept, held_out)
    replay = NOTHING if initial is None else replay_for(initial, old, train, languages.codes, text.amount, tell)
    held_out = held_out.with_old(replay.held_out)
    data = [
        *languages.choices(),
        Choice("train", [train.settings, *replay.sources], f"{look.counted()} {replay.why}".rstrip()),
        *held_out.sources,
    ]
    attempt = functools.partial(_attempt, text, data, [*held_out.rules, *rules], str(asked.output), asked.most_seconds)
    choices, time = _choose(_tries(text, initial, replay, attempt), asked.most_seconds, tell)
    if initial is None and text.estimate.is_little:
        why = "BLEU stands near 0 for long where there is so little text"
        choices["train"].append(Choice("best_metric", "chrf", why))
    if (tokenize := default_tokenize(languages.tgt)) != DEFAULT_TOKENIZE:
        why = "sacreBLEU's tokenisation for BLEU: what 13a, the default, takes for a word is none in this language"
        choices["eval"] = [Choice("tokenize", {languages.tgt: tokenize}, why)]
    heading = [
        f"{languages.src} to {languages.tgt}, by tmt init. Above each value stands why. All other keys keep the "
        "defaults, which are the paper's; configs/reference.yaml explains them.",
        f"Training takes {time}, besides scoring and saving.",
        f"    tmt train {shlex.quote(str(asked.output))}",
        f"    echo … | tmt translate {shlex.quote(str(Path('runs') / asked.output.stem))}",
    ]
    with contextlib.ExitStack() as cleanup:
        held_out.write(cleanup)
        with replaced_file(asked.output) as file:
            file.write(as_text(heading, choices).encode())
        cleanup.pop_all()
    tell(f"wrote {asked.output}; next: tmt train {shlex.quote(str(asked.output))}")


def _check_output(output: Path) -> None:
    if str(output) == "-":
        raise InputError("--output -: held-out text goes into files beside the configuration; name one, as my.yaml")
    check_writable(output)
    if output.exists():
        raise InputError(f"{output}: is there already; name another --output, or move it away")


def _inputs(asked: Asked, of_model: MaybeCodes) -> _Inputs:
    """Find out what the files are that somebody has named, and which languages they are in."""
    check_codes(asked.codes)
    train = files_of(asked.src, asked.tgt, asked.columns, asked.codes)
    if asked.tgt is not None and any(asked.columns):
        raise InputError("--src-column, --tgt-column: are for one file of pairs; leave them out beside --tgt")
    wanted = asked.codes[0] or train.codes[0], asked.codes[1] or train.codes[1]
    given = {}
    for part, (src, tgt) in asked.given.items():
        # Old text need not have the columns of the new.
        columns, codes = ((None, None), asked.codes) if part == "replay" else (asked.columns, wanted)
        given[part] = files_of(src, tgt, columns, codes)
        if part != "replay" and _are_the_same(given[part], train):
            raise InputError(
                f"--{part}-src {src}: is the text to train on; name other text, or leave it out: init holds some out"
            )
    codes_by_files = direction(asked.codes, train.codes, train.how).codes
    look = look_at(train.source, codes_by_files, str(train.source))
    if len(look.src_keys) < _LEAST_PAIRS:
        remedy = "some thousands are the least, some hundreds are enough to try it out"
        if any(map(ends_at_cr, source_files(train.source, *codes_by_files))):
            remedy = f"its lines {OLD_LINE_ENDS}"
        elif len(re.findall("[\x85\u2028]", "".join(map("".join, look.sample)))) > len(look.sample):
            remedy = r"its lines end with U+2028 or NEL; give them line feeds: perl -CSD -pe 's/[\x{2028}\x{85}]/\n/g'"
        raise InputError(
            f"{train.source}: pairs with text on both sides: {len(look.src_keys):,}, too few to learn from; {remedy}"
        )
    of_text = languages_of(look.stats, look.sample)
    languages = direction(asked.codes, train.codes, train.how, of_text, of_model)
    right_way(train, languages.codes, of_text)
    for part, files in given.items():
        of_part = languages_of_pairs(read_pairs(files.source, *languages.codes))
        given[part] = right_way(files, languages.codes, of_part, f"{part}-")
    return _Inputs(train, given, look, languages)


def _are_the_same(one: Files, other: Files) -> bool:
    """Return whether two names lead to the same files, and the same columns of them."""
    found = [
        (
            [Path(path).resolve() for path in source_files(files.source, *map(str, files.codes))],
            [files.settings.get(key) for key in ("src_column", "tgt_column")],
        )
        for files in (one, other)
    ]
    return found[0] == found[1]


def _described(look: Look) -> str:
    sides = (("source", look.stats.src), ("target", look.stats.tgt))
    return ", ".join(
        f"{side.words.mean:.1f} words a {name} line ({', '.join(scripts_of(side.classes)) or 'no letters'})"
        for name, side in sides
    )


def _text_of(look: Look, kept: Sequence[bool], held_out: HeldOutText) -> _Text:
    share_kept = sum(kept) / len(kept) * (1 - look.num_repeated / len(look.src_keys)) * (1 - held_out.lost)
    sample = [pair for pair, is_kept in zip(look.sample, kept, strict=True) if is_kept]
    sample = sample[:: -(-len(sample) // _TRIED)]
    counts = Counter("".join(side for pair in sample for side in pair))
    covered = itertools.accumulate(count for _, count in counts.most_common())
    num_characters = 1 + sum(one < sizes.COVERAGE * counts.total() for one in covered)
    src, tgt = (bool({*scripts_of(side.classes)} & _OF_SYLLABLES) for side in (look.stats.src, look.stats.tgt))
    num_pairs = max(1, round(look.num_full * share_kept) - held_out.num_drawn)
    return _Text(num_pairs, sample, num_characters, (src, tgt))


def _tries(
    text: _Text, initial: Initial | None, replay: Replay, attempt: Callable[..., _Tried | None]
) -> Iterator[_Tried | None]:
    """Try a model to start from or, one after the other, the shapes that the text is enough for, the largest first."""
    if initial is not None:
        adapt = functools.partial(adapted, initial, replayed=replay.share)
        least = CleanConfig().max_src_tokens if replay.sources else 0  # what is old may be longer
        yield attempt({}, initial.tokenizers, adapt, least)
        return
    has_syllables = any(text.have_syllables)
    for shape in sizes.shapes_for(text.estimate):
        pieces = sizes.vocabulary_for(shape, text.estimate, text.num_characters, has_syllables=has_syllables)
        settings = TokenizerConfig.model_validate(values_of(pieces))
        tokenizer, _ = train_tokenizer((side for pair in text.sample for side in pair), settings)
        sizes_of = functools.partial(sizes.sizes_for, shape)
        yield attempt({"tokenizer": pieces}, Tokenizers(tokenizer, tokenizer), sizes_of)


def _attempt(
    text: _Text,
    data: list[Choice],
    rules: list[Choice],
    label: str,
    most_seconds: float,
    fixed: Choices,
    tokenizers: Tokenizers,
    sizes_of: Callable[[Corpus, float], Choices],
    least_limit: int = 0,
) -> _Tried | None:
    """Return the configuration with some tokenizers, tried; None where it does not fit into memory.

    Args:
        data: choices of that section but for cleaning, which has ``rules`` and limits of length.
        fixed: choices of other sections.
        sizes_of: what chooses the rest for a corpus and the steps that there is time for.
        least_limit: of lengths, where they are limited.
    """
    src, tgt = (
        side.encode([pair[i] for pair in text.sample]) for i, side in enumerate((tokenizers.src, tokenizers.tgt))
    )
    lengths = [max(map(len, both)) for both in zip(src, tgt, strict=True)]
    limits = [one for one in sizes.token_limits(lengths) if one.value >= least_limit]
    cleaning = [*rules, *limits]
    fixed = {"data": [*data, Choice("clean", cleaning)] if cleaning else data, **fixed}
    most = limits[0].value if limits else CleanConfig().max_src_tokens
    are_short = [length <= most for length in lengths]
    share = sum(are_short) / len(lengths)
    src_tokens, tgt_tokens = (
        statistics.fmean(len(ids) + 1 for ids in itertools.compress(side, are_short)) if share else most
        for side in (src, tgt)
    )
    num_pairs = max(1, round(text.num_pairs * share))
    corpus = Corpus(num_pairs, src_tokens, tgt_tokens, estimated_size=text.estimate.size)
    seconds = seconds_per_update(validate(as_tree(fixed | sizes_of(corpus, math.inf)), label), tokenizers, src, tgt)
    if seconds is None:
        return None
    choices = fixed | sizes_of(corpus, most_seconds / seconds)
    return _Tried(choices, validate(as_tree(choices), label), seconds, 1 - share)


def _choose(tries: Iterable[_Tried | None], most_seconds: float, tell: Tell) -> tuple[Choices, str]:
    """Return the first choices that are trained in the time there is, or the last, and how long that takes, in words.

    Larger models, which have text enough but take longer, are told, and so is a last one that does.
    """
    tried: list[_Tried] = []
    for one in filter(None, tries):
        tried.append(one)
        if one.seconds <= most_seconds * sizes.BY_ROUNDING:
            break
    if not tried:
        raise RunError("not even a small batch fits into memory; end other programs, or take a machine with more")
    *larger, chosen = tried
    config, choices = chosen.config, chosen.choices
    if chosen.share_too_long > sizes.MOST_TOO_LONG:
        most = config.data.clean.max_src_tokens
        tell(
            f"{percent(chosen.share_too_long)} of the pairs have more than {most} tokens on a side and are left out; "
            "one sentence a line is expected"
        )
    time = f"about {format_seconds(chosen.seconds)} on this machine ({describe(local_device())})"
    tell(
        f"{chosen.shape}, {config.train.max_steps:,} steps of {config.batch.max_tokens:,} target tokens: {time}, "
        "as some updates took, if nothing else is running on it"
    )
    if chosen.seconds > most_seconds * sizes.BY_ROUNDING:
        tell(
            f"warning: in the {format_seconds(most_seconds)} that there is time for, such a model learns too little of "
            "this text; set train.max_steps lower to try that"
        )
    if larger:
        would = ", ".join(f"{one.shape} would take at least {format_seconds(one.seconds)}" for one in larger)
        shape, *others = choices["model"]
        why = f"{shape.why}. There is text enough for more, but here, {would}"
        choices["model"] = [shape._replace(why=why), *others]
    choices["train"] += sizes.checkpoints(config.train, chosen.seconds_per_update)
    return choices, time
