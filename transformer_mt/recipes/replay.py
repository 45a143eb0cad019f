"""Old text that is mixed into the new, so that a model that is adapted does not forget what it could before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.errors import InputError
from transformer_mt.recipes.adapting import Initial
from transformer_mt.recipes.sides import Files
from transformer_mt.system.console import Tell

# Kinds whose text is here: of data sets, published sets and text that a model makes that cannot be seen, or only by
# a download.
_OF_FILES = ("src", "moses", "tsv", "csv", "jsonl", "parquet", "tmx", "xliff", "po", "builtin")


class Replay(NamedTuple):
    """What is replayed, and what of it in an epoch."""

    sources: list[dict[str, Any]]  # as a configuration has them
    share: float  # old text in an epoch, by the new
    why: str
    held_out: list[dict[str, Any]]  # what the model's own training has left out of the sources


NOTHING = Replay([], 0.0, "", [])


class Amount(NamedTuple):
    """How much text there is."""

    pairs: int
    characters: float  # of the targets


def replay_for(
    initial: Initial, given: Files | None, new: Files, languages: tuple[str, str], amount: Amount, tell: Tell
) -> Replay:
    """Return the old text that goes with the new: that which is given, or what is left of the model's own.

    An epoch has as many old pairs as new ones, as in mixed fine-tuning (Chu et al. 2017), or all where there are fewer.
    Old sources keep their proportions.

    Args:
        given: old text in the languages of the new; None: the sources in the model's own configuration.
        languages: of the new text.
        amount: of it.

    Raises:
        InputError: given text that cannot be read.
    """
    found = (
        [(given.settings, 1.0, _amount(given.source, languages))] if given else [*_own(initial, new, languages, tell)]
    )
    weighted = sum(weight * old.pairs for _, weight, old in found)
    if not weighted:
        tell(
            f"warning: there is no text of {initial.name} to replay, and the model may forget what it could before; "
            "name some with --replay-src and --replay-tgt"
        )
        return NOTHING
    scale = min(1.0, amount.pairs / weighted)
    sources = [{**settings, "weight": float(f"{weight * scale:.2g}")} for settings, weight, _ in found]
    num_old, an_epoch = sum(old.pairs for *_, old in found), weighted * scale
    seen = f"of which their weight lets an epoch see about {an_epoch:,.0f}, others each time"
    if weighted <= amount.pairs:
        seen = "fewer than new ones, so that an epoch sees them as often as before"
    why = (
        f"and {num_old:,} old pairs, {seen}: "
        f"what {initial.name} could before is not forgotten (mixed fine-tuning, Chu et al. 2017; docs/adapting.md)"
    )
    tell(f"replay: {num_old:,} old pairs, about {an_epoch:,.0f} of them an epoch")
    share = scale * sum(weight * old.characters for _, weight, old in found) / amount.characters
    return Replay(sources, share, why, [] if given else [*_held_out(initial, languages, tell)])


def _own(
    initial: Initial, new: Files, languages: tuple[str, str], tell: Tell
) -> Iterator[tuple[dict[str, Any], float, Amount]]:
    """Yield the sources that a model was trained on and that are still there, with their weights and amounts."""
    data = initial.config.data
    for source in data.train:
        weight = 1.0 if source.weight is None else source.weight
        if not _is_of_files(source) or weight == 0 or _is_same(source, new.source):
            continue
        own = data.languages(source)
        try:
            amount = _amount(source, own)
        except InputError as error:
            tell(f"warning: not replayed: {error}")
            continue
        yield _settings(source, own, languages), weight, amount


def _held_out(initial: Initial, languages: tuple[str, str], tell: Tell) -> Iterator[dict[str, Any]]:
    """Yield the validation and test text that a model's training has left out of its sources, each with a name."""
    data = initial.config.data
    if not data.clean.drop_held_out:
        return
    for part, sources in (("valid", data.valid), ("test", data.test)):
        for number, source in enumerate(filter(_is_of_files, sources)):
            own = data.languages(source)
            try:
                _amount(source, own)
            except InputError as error:
                tell(f"warning: the old text may have lines that {initial.name} was never trained on: {error}")
                continue
            yield {**_settings(source, own, languages), "name": f"old_{part}" + f"_{number}" * (number > 0)}


def _is_of_files(source: SourceConfig) -> bool:
    return source.kind in _OF_FILES and next(source.conflicts(), None) is None


def _settings(source: SourceConfig, own: tuple[str, str], languages: tuple[str, str]) -> dict[str, Any]:
    """Return a model's source, in its own languages, as a configuration of other ones has it."""
    keys = source.model_dump(mode="json", exclude_defaults=True, exclude={"name", "weight", "src_lang", "tgt_lang"})
    named = zip(("src_lang", "tgt_lang"), own, languages, strict=True)
    return {**keys, **{key: code for key, code, usual in named if code != usual}}


def _is_same(source: SourceConfig, new: SourceConfig) -> bool:
    return source.kind == new.kind and getattr(source, source.kind) == getattr(new, new.kind)


def _amount(source: SourceConfig, languages: Sequence[str]) -> Amount:
    num_pairs = num_characters = 0
    for pair in read_pairs(source, *languages):
        num_pairs += 1
        num_characters += len(pair.tgt)
    return Amount(num_pairs, num_characters)
