"""Noise on source text, as people type it, drawn anew in each epoch (Belinkov and Bisk 2018; Karpukhin et al. 2019).

A model that has seen none translates "how are you" or "Wie gehts dir" worse than what stands in its corpus.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Sequence

from transformer_mt.config.data_sections import NoiseConfig
from transformer_mt.text.subword_sampling import Random, Sampler
from transformer_mt.text.tokenizer import Tokenizer

_VERSION = 1  # of the noise: another one, and a run that goes on would see other text


class SourceNoise:
    """Draws noise for a text that is there in pieces, and then the pieces of that, where these are drawn too."""

    def __init__(self, tokenizer: Tokenizer, config: NoiseConfig, sampler: Sampler | None) -> None:
        self._tokenizer, self._config, self._sampler = tokenizer, config, sampler
        self._tags = {tokenizer.table[tag] for tag in tokenizer.tags}
        of_pieces = tokenizer.fingerprint if sampler is None else sampler.fingerprint
        settings = f"{_VERSION} {of_pieces} {config.model_dump_json()}"
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def sample(self, ids: Sequence[int], random: Random) -> list[int]:
        """Ids of the text with noise, behind the tags that it begins with."""
        text = self._tokenizer.decode(ids)
        changed = noisy(text, self._config, random)
        if changed != text and (pieces := self._tokenizer.encode([changed])[0]):
            ids = [*itertools.takewhile(self._tags.__contains__, ids), *pieces]
        return [*ids] if self._sampler is None else self._sampler.sample(ids, random)


def noisy(text: str, config: NoiseConfig, random: Random) -> str:
    """Return a text with each kind of noise that is drawn for it."""
    if random() < config.case:
        text = text.upper() if random() < 0.5 else text.lower()
    if random() < config.diacritics:
        text = without_diacritics(text)
    if random() < config.punctuation:
        text = without_punctuation(text)
    if config.typos > 0:
        text = with_typos(text, config.typos, random)
    return text


def without_diacritics(text: str) -> str:
    """Return a text without the accents of its letters; of scripts in which marks are vowels, these stay."""
    letters: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        is_accent = unicodedata.category(character) == "Mn" and letters and _has_case(letters[-1])
        if not is_accent:
            letters.append(character)
    return unicodedata.normalize("NFC", "".join(letters))


def without_punctuation(text: str) -> str:
    """Return a text without its punctuation, but for what stands inside of a word or a number."""
    kept = [
        character
        for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False)
        if not unicodedata.category(character).startswith("P") or (before.isalnum() and after.isalnum())
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


def _has_case(character: str) -> bool:
    return character.lower() != character.upper()
