"""Noise on source text, as people type it, drawn anew in each epoch (Belinkov and Bisk 2018; Karpukhin et al. 2019).

A model that has seen none translates "how are you" or "Wie gehts dir" worse than what stands in its corpus.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

from transformer_mt.config.data_sections import NoiseConfig
from transformer_mt.text.scripts import script_of
from transformer_mt.text.subword_sampling import Random, Sampler
from transformer_mt.text.tokenizer import Tokenizer

_VERSION = 3  # of the noise: another one, and a run that goes on would see other text
# Of Chinese and Japanese: a mark between two of their letters is not inside of a word. Others are written without
# spaces, too, but marks are parts of their words: Tibetan's tsheg, Burmese ၏.
_CHINESE_AND_JAPANESE = {"Han", "Hiragana", "Katakana", "Bopomofo"}


class SourceNoise:
    """Draws noise for a text that is there in pieces, and then the pieces of that, where these are drawn too.

    Pieces that are no text stay as they are: tags, symbols of the user, ``<unk>``.
    """

    def __init__(self, tokenizer: Tokenizer, config: NoiseConfig, sampler: Sampler | None) -> None:
        self._inside, self._config, self._sampler = tokenizer.without_prefix(), config, sampler
        text = {
            tokenizer.table[piece.text]
            for piece in tokenizer.pieces()[1]
            if piece.text in tokenizer.table and (piece.is_normal or re.fullmatch("<0x[0-9A-F]{2}>", piece.text))
        }
        self._symbols = {*range(tokenizer.vocab_size)} - text
        of_pieces = tokenizer.fingerprint if sampler is None else sampler.fingerprint
        settings = f"{_VERSION} {of_pieces} {config.model_dump_json()}"
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def sample(self, ids: Sequence[int], random: Random) -> list[int]:
        """Ids of the text with noise."""
        change = drawn(self._config, random)
        sampled: list[int] = []
        is_left = False
        for is_symbol, stretch in itertools.groupby(ids, self._symbols.__contains__):
            part = [*stretch]
            if not is_symbol:  # a text between symbols has the spaces at its ends that it had
                inside = self._inside.decode(part)
                text = inside.strip(" ")
                if (changed := change(text)) != text:
                    changed = " ".join(filter(None, changed.split(" ")))  # as SentencePiece does it with whole lines
                    start, end = " " * inside.startswith(" "), " " * inside.endswith(" ")
                    [part] = self._inside.encode([start + changed + end if changed else start or end])
                is_left |= changed != ""
            sampled += part
        if not is_left:
            sampled = [*ids]
        return sampled if self._sampler is None else self._sampler.sample(sampled, random)


def drawn(config: NoiseConfig, random: Random) -> Callable[[str], str]:
    """Draw the kinds of noise that a source has, and return what does this to its text."""
    kinds: list[Callable[[str], str]] = []
    if random() < config.case:
        kinds.append(str.upper if random() < 0.5 else str.lower)
    if random() < config.diacritics:
        kinds.append(without_diacritics)
    if random() < config.punctuation:
        kinds.append(without_punctuation)
    if config.typos > 0:
        kinds.append(lambda text: with_typos(text, config.typos, random))
    return lambda text: functools.reduce(lambda text, kind: kind(text), kinds, text)


def without_diacritics(text: str) -> str:
    """Return a text without the accents of its letters; of scripts in which marks are vowels, these stay."""
    letters: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        is_accent = unicodedata.category(character) == "Mn" and letters and _has_case(letters[-1])
        if not is_accent:
            letters.append(character)
    return unicodedata.normalize("NFC", "".join(letters))


def without_punctuation(text: str) -> str:
    """Return a text with white space for its punctuation, but for what stands inside of a word or a number."""
    kept = [
        " " if _is_mark(character) and not (_is_of_word(before) and _is_of_word(after)) else character
        for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False)
    ]
    return " ".join("".join(kept).split())


def with_typos(text: str, share: float, random: Random) -> str:
    """Return a text in which a share of the letters is left out, doubled, or has changed places with the next."""
    letters = list(text)
    typed: list[str] = []
    i = 0
    while i < len(letters):
        letter = letters[i]
        i += 1
        if not letter.isalpha() or random() >= share:
            typed.append(letter)
            continue
        kind = int(3 * random())
        if kind == 0 and i < len(letters) and letters[i].isalpha():
            typed += [letters[i], letter]
            i += 1
        elif kind == 1:
            typed += [letter, letter]
    return "".join(typed)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _is_of_word(character: str) -> bool:
    """Whether it is a letter, its accent or a digit, and marks beside it may be inside of a word."""
    return unicodedata.category(character)[0] in "LMN" and script_of(character) not in _CHINESE_AND_JAPANESE


def _has_case(character: str) -> bool:
    return character.lower() != character.upper()
