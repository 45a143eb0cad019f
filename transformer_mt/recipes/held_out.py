"""Validation and test text: as somebody gives it, or drawn from a corpus that stays as it is, into files of its own."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_mt.curation.common import percent, share
from transformer_mt.curation.files import check_names, side_files
from transformer_mt.data.duplicate_keys import text_key
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.recipes.look import Look
from transformer_mt.recipes.sides import Files
from transformer_mt.recipes.writing import Choice
from transformer_mt.system.console import Tell, counted
from transformer_mt.system.lines import write_lines

PARTS = ("valid", "test")
_SEED = 1
_LEAST = 10  # fewer pairs score nothing
_MOST_READ = 100_000  # pairs of a given text that are looked for in the training text
_MOST_LOST = 0.01  # of the training pairs, for the sake of a given text
_MOST_LOST_BY_TEST = 0.2  # for that of a given test text, where validation text has to be drawn


class HeldOutText(NamedTuple):
    """What a configuration says of its validation and test text."""

    sources: list[Choice]  # keys of `data`
    rules: list[Choice]  # keys of `data.clean`
    lost: float  # the share of the training pairs that these leave out for the sake of given text
    drawn: dict[tuple[Path, Path], list[SentencePair]]  # by the two files to be written

    @property
    def num_drawn(self) -> int:
        return sum(map(len, self.drawn.values()))

    def with_old(self, sources: list[dict[str, Any]]) -> HeldOutText:
        """Return it with what the model that is adapted has never seen, which would else be in the old text."""
        if not sources:
            return self
        why = "what is called old is what the first model was scored on: it shows what is forgotten"
        test = next((one for one in self.sources if one.key == "test"), Choice("test", []))
        others = [one for one in self.sources if one.key != "test"]
        why_test = "; ".join(filter(None, (test.why, why)))
        rules = self.rules or [Choice("drop_held_out", True, "the old text still has what its model was scored on")]
        return self._replace(sources=[*others, Choice("test", [*test.value, *sources], why_test)], rules=rules)

    def write(self, cleanup: contextlib.ExitStack) -> None:
        """Write the files; ``cleanup`` removes them where the configuration is not written in the end."""
        for paths, pairs in self.drawn.items():
            for side, path in enumerate(paths):
                write_lines(path, (pair[side] for pair in pairs))
                cleanup.callback(path.unlink, missing_ok=True)


def hold_out(
    look: Look,
    kept: Sequence[bool],
    given: Mapping[str, Files],
    languages: tuple[str, str],
    output: Path,
    tell: Tell,
) -> HeldOutText:
    """Draw the parts that are not given, and say how they stay out of training.

    Args:
        kept: which pairs of the sample pass the rules of cleaning.
        output: the configuration, beside which the files will be.

    Raises:
        InputError: a given text that cannot be read; nothing can be drawn; a file is there already.
    """
    leaks, lost = _leaks(look, given, languages)
    parts = [part for part in PARTS if part not in given]
    if lost > _MOST_LOST and "valid" in given and parts:
        tell("no test text is held out: what keeps it out of training would leave out what leaks as well; name some")
        parts = []
    if lost > _MOST_LOST_BY_TEST and "valid" in parts:
        raise InputError(
            f"{percent(lost)} of the training pairs have a side of the test text, and would be "
            "left out where validation text is drawn; name validation text with --valid-src, or another test text"
        )
    drawn = _draw(look, kept, parts)
    why_not = "too few pairs have sides that are in no different pair"
    if look.num_repeated > len(look.src_keys) / 3:
        why_not += f" ({percent(look.num_repeated, len(look.src_keys))} of the pairs stand in the text once more)"
    if "valid" in parts and "valid" not in drawn:
        raise InputError(f"no validation text can be held out: {why_not}; name some with --valid-src and --valid-tgt")
    if "test" in parts and "test" not in drawn:
        tell(f"no test text is held out: {why_not}")
    ends = languages if languages[0] != languages[1] else ("src", "tgt")
    names = {part: side_files(f"{output.stem}.{part}", ends, "") for part in drawn}
    check_names(names.values())
    files = {part: (output.parent / src, output.parent / tgt) for part, (src, tgt) in names.items()}
    if there := [path for both in files.values() for path in both if path.exists()]:
        raise InputError(f"{there[0]}: is there already, and would be written; name another --output, or move it away")

    sources = []
    for part in PARTS:
        if part in given:
            sources.append(Choice(part, [given[part].settings]))
        elif part in drawn:
            src, tgt = map(str, files[part])
            num_drawn = counted(len(drawn[part]), "pair")
            why = f"{num_drawn} drawn (seed {_SEED}) from those whose sides are in no different pair"
            sources.append(Choice(part, [{"src": src, "tgt": tgt}], why))
            tell(f"held out: {num_drawn} in {src} and {tgt}")
    rules = _rules(bool(drawn), leaks, lost, tell)
    return HeldOutText(sources, rules, lost if rules else 0.0, {files[part]: pairs for part, pairs in drawn.items()})


def _rules(is_drawn: bool, leaks: list[str], lost: float, tell: Tell) -> list[Choice]:
    """Return what keeps text out of training that is drawn from it, or given and costs little; tell what leaks.

    Args:
        leaks: what given text has in common with the training text, in words.
        lost: the share of the training pairs that have something of it.
    """
    is_on = is_drawn or (bool(leaks) and lost <= _MOST_LOST)
    cost = f"{percent(lost)} of the training pairs"
    if leaks:
        what_then = f"what they share is left out, {cost}"
        if not is_on:
            what_then = f"so scores will be too good. data.clean.drop_held_out: true would leave {cost} out"
        leaks = [f"{'; '.join(leaks)}: {what_then}"]
        tell(leaks[0] if lost <= _MOST_LOST else f"warning: {leaks[0]}")
    if not is_on:
        return []
    why = "the training text still has the drawn pairs: this leaves them, and what is near to them, out of training"
    return [Choice("drop_held_out", True, "; ".join([why] * is_drawn + leaks))]


def _draw(look: Look, kept: Sequence[bool], parts: Sequence[str]) -> dict[str, list[SentencePair]]:
    """Draw the pairs of each part from those of the sample that cleaning keeps and whose sides are nowhere else.

    A part has a twentieth of a small corpus, 1,000 or 2,000 pairs of a larger one, and less where too few can be held
    out.
    """
    possible = [
        pair
        for pair, is_unique, is_kept in zip(look.sample, look.is_unique, kept, strict=True)
        if is_unique and is_kept
    ]
    usual = max(_LEAST, look.num_full // 20)
    size = min(usual, 1000 if look.num_full < 160_000 else 2000, len(possible) // 4)
    if size < _LEAST:
        return {}
    drawn = random.Random(_SEED).sample(range(len(possible)), size * len(parts))
    return {
        part: [possible[i] for i in sorted(drawn[number * size : (number + 1) * size])]
        for number, part in enumerate(parts)
    }


def _leaks(look: Look, given: Mapping[str, Files], languages: tuple[str, str]) -> tuple[list[str], float]:
    """Look for given text in the training text.

    Returns:
        What was found of each part, in words, and which share of the training pairs has a side of it.
    """
    in_training = np.unique(np.concatenate([look.src_keys, look.tgt_keys]))
    leaks, held_out = [], [np.empty(0, dtype=np.uint64)]
    for part, files in given.items():
        pairs = itertools.islice(read_pairs(files.source, *languages), _MOST_READ)
        keys = np.array(
            [[text_key(side, "near") for side in pair] for pair in pairs if pair.src.strip() and pair.tgt.strip()],
            dtype=np.uint64,
        ).reshape(-1, 2)
        if not len(keys):
            raise InputError(
                f"{files.source}: no pair with text on both sides; check the file, its columns, its languages"
            )
        held_out.append(keys.ravel())
        if num_leaks := int(np.isin(keys, in_training).any(axis=1).sum()):
            leaks.append(f"{share(num_leaks, len(keys))} of the pairs of {part} have a side in the training text")
    sides = np.unique(np.concatenate(held_out))
    return leaks, float((np.isin(look.src_keys, sides) | np.isin(look.tgt_keys, sides)).mean())
