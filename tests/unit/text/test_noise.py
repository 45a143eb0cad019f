"""Each kind of noise by hand and in many languages; what a run sees of it depends on seed, epoch and pair only."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest

from transformer_mt.config.data_sections import NoiseConfig
from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.text.noise import SourceNoise, drawn, with_typos, without_diacritics, without_punctuation
from transformer_mt.text.subword_sampling import samplers
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer

LINES = ["A dog runs, fast.", "Two dogs run across a field!", "Ein Mädchen läuft über die Straße."] * 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wie geht's dir? Über Öl, Ça: Ñandú", "Wie geht's dir? Uber Ol, Ca: Nandu"),
        ("Ο σκύλος τρέχει", "Ο σκυλος τρεχει"),
        ("ёлка й", "елка и"),
        ("한국어 テスト が हिन्दी ไทย", "한국어 テスト が हिन्दी ไทย"),  # their marks are no accents
        ("", ""),
    ],
)
def test_accents_go_and_other_marks_stay(text: str, expected: str) -> None:
    assert without_diacritics(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Well, it's 3.5 km — isn't it?", "Well it's 3.5 km isn't it"),
        ("¿Qué? «Ja.»", "Qué Ja"),
        ("他说:“你好”。我爱你,你爱我!", "他说 你好 我爱你 你爱我"),
        ("Hello...world, yes?!No http://a.b", "Hello world yes No http a.b"),
        ("माता-पिता, cafe\u0301-bar.", "माता-पिता cafe\u0301-bar"),
        ("서울-부산, １２．５ km。", "서울-부산 １２．５ km"),
        ("བོད་སྐད། သူ၏အိမ်။", "བོད་སྐད သူ၏အိမ်"),
        ("...", ""),
    ],
)
def test_punctuation_goes_but_inside_of_words_and_numbers(text: str, expected: str) -> None:
    assert without_punctuation(text) == expected


def draws(*numbers: float) -> Any:
    return iter(numbers).__next__


def test_typos_by_hand() -> None:
    assert with_typos("abc", 0.5, draws(0.1, 0.0, 0.9)) == "bac"  # a changes places, c stays
    assert with_typos("abc", 0.5, draws(0.9, 0.1, 0.4, 0.9)) == "abbc"
    assert with_typos("abc", 0.5, draws(0.9, 0.1, 0.9, 0.9)) == "ac"
    assert with_typos("a 1", 0.5, draws(0.1, 0.0)) == " 1"  # nothing to change places with: left out
    text = "The quick brown fox jumps over the lazy dog. " * 200
    typed = with_typos(text, 0.1, random.Random(1).random)
    assert 0.97 < len(typed) / len(text) < 1.03 and typed != text


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("case", {"À la, CARTE!", "à la, carte!", "À LA, CARTE!"}),
        ("diacritics", {"À la, CARTE!", "A la, CARTE!"}),
        ("punctuation", {"À la, CARTE!", "À la CARTE"}),
    ],
)
def test_each_kind_comes_as_often_as_it_should(kind: str, expected: set[str]) -> None:
    config, generator = NoiseConfig.model_validate({kind: 0.25}), random.Random(1)
    found = [drawn(config, generator.random)("À la, CARTE!") for _ in range(4000)]
    assert {*found} == expected
    assert found.count("À la, CARTE!") == pytest.approx(3000, abs=120)
    if kind == "case":
        assert found.count("à la, carte!") == pytest.approx(500, abs=80)


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    tokenizer, _ = train_tokenizer(LINES, TokenizerConfig(vocab_size=330))
    return Tokenizers(tokenizer, tokenizer).with_tags(["<2de>"])


def sampled(noise: SourceNoise, ids: list[int]) -> Iterator[list[int]]:
    return (noise.sample(ids, random.Random(seed).random) for seed in range(30))


def test_pieces_spell_the_noisy_text_behind_the_tags(tokenizers: Tokenizers) -> None:
    config = NoiseConfig(case=0.3, diacritics=0.3, punctuation=0.3, typos=0.05)
    noise, tag = SourceNoise(tokenizers.src, config, None), tokenizers.src.table["<2de>"]
    for line in LINES[:3]:
        [pieces] = tokenizers.src.encode([line])
        found = [*sampled(noise, [tag, *pieces])]
        texts = [drawn(config, random.Random(seed).random)(line) for seed in range(30)]
        assert found == [[tag, *ids] for ids in tokenizers.src.encode(texts)]
        assert len({*map(tuple, found)}) > 5
        # As it arrives in another process, and in none but it with other settings.
        copy = pickle.loads(pickle.dumps(noise))
        assert [*sampled(copy, pieces)] == [ids[1:] for ids in found] and copy.fingerprint == noise.fingerprint
        assert SourceNoise(tokenizers.src, NoiseConfig(case=0.3), None).fingerprint != noise.fingerprint


def test_what_noise_leaves_empty_stays(tokenizers: Tokenizers) -> None:
    [pieces] = tokenizers.src.encode(["...!"])
    assert SourceNoise(tokenizers.src, NoiseConfig(punctuation=0.999999), None).sample(pieces, random.random) == pieces


def test_pieces_are_drawn_too(tokenizers: Tokenizers) -> None:
    both = samplers(tokenizers, TokenizerConfig(bpe_dropout=0.5))
    assert both is not None
    noise = SourceNoise(tokenizers.src, NoiseConfig(punctuation=0.999999), both[0])
    [pieces] = tokenizers.src.encode([LINES[0]])
    found = [*sampled(noise, pieces)]
    assert {tokenizers.src.decode(ids) for ids in found} == {"A dog runs fast"} and len({*map(tuple, found)}) > 5


def test_symbols_stay_wherever_they_stand() -> None:
    settings = TokenizerConfig(vocab_size=120, byte_fallback=False, user_symbols=("<2de>", "@name@"))
    tokenizer, _ = train_tokenizer(LINES, settings)
    config = NoiseConfig(diacritics=0.9, punctuation=0.9, typos=0.3)
    [pieces] = tokenizer.encode(["<2de> Two dogs, 漢 @name@ runs!"])
    symbols = [i for i in pieces if tokenizer.pieces_of([i])[0] in ("<2de>", "@name@", "<unk>")]
    assert len(symbols) == 3
    for ids in sampled(SourceNoise(tokenizer, config, None), pieces):
        assert ids != pieces and [i for i in ids if i in symbols] == symbols


@pytest.mark.parametrize("line", ["dogs@@run <x> fast", "<x> two dogs", "Two dogs <x>", "dog <x>@@ <x>run", "<x> <x>"])
def test_no_space_comes_or_goes_beside_symbols(line: str) -> None:
    tokenizer, _ = train_tokenizer(LINES, TokenizerConfig(vocab_size=330, user_symbols=("<x>", "@@")))
    [pieces], [expected] = tokenizer.encode([line]), tokenizer.encode([line.upper().replace("<X>", "<x>")])
    found = {tuple(ids) for ids in sampled(SourceNoise(tokenizer, NoiseConfig(case=0.9), None), pieces)}
    assert {tuple(expected), tuple(pieces)} - {tuple(tokenizer.encode([line.lower()])[0])} <= found
    assert found <= {
        tuple(tokenizer.encode([one])[0]) for one in (line, line.lower(), line.upper().replace("<X>", "<x>"))
    }
