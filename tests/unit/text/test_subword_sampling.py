"""Subword sampling against the papers: BPE-dropout's algorithm 1 and unigram sampling, both written out."""

from __future__ import annotations

import itertools
import math
import pickle
import random
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import sentencepiece as spm

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.text import subword_sampling
from transformer_mt.text.subword_sampling import SubwordSampler, samplers
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import UNK_ID

Split = tuple[str, ...]
NUM_DRAWS = 20_000


# ---------------------------------------------------------------- tokenizers of known pieces

_UNIGRAM, _BPE, _WORD = 1, 2, 3  # sentencepiece_model.proto
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3


def model_of(kind: int, scores: Mapping[str, float]) -> bytes:
    """SentencePiece's model of these pieces, as its protocol-buffer definition has it; nothing is normalised."""

    def field(number: int, value: bytes | int | float) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        if isinstance(value, float):
            return bytes([number << 3 | 5]) + struct.pack("<f", value)
        assert len(value) < 128
        return bytes([number << 3 | 2, len(value)]) + value

    specials = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    pieces = [*specials, *((piece, score, _NORMAL) for piece, score in scores.items())]
    model = b"".join(field(1, field(1, p.encode()) + field(2, s) + field(3, t)) for p, s, t in pieces)
    plain = field(1, b"identity") + field(3, 0) + field(4, 0) + field(5, 1)  # no dummy prefix; all spaces; ▁ for them
    return model + field(2, field(3, kind)) + field(3, plain)


def bpe_of(alphabet: str, merges: Sequence[str]) -> Tokenizer:
    """Merges by priority, then the single characters, as SentencePiece numbers them."""
    return Tokenizer(model_of(_BPE, {piece: -float(i) for i, piece in enumerate([*merges, *alphabet])}))


def unigram_of(probabilities: Mapping[str, float]) -> Tokenizer:
    return Tokenizer(model_of(_UNIGRAM, {piece: math.log(p) for piece, p in probabilities.items()}))


def drawn(tokenizer: Tokenizer, text: str, *, dropout: float = 0.0, alpha: float | None = None) -> dict[Split, float]:
    """How often each segmentation of a text comes."""
    sampler = SubwordSampler(tokenizer, dropout, alpha)
    generator = random.Random(1)
    ids = tokenizer.encode([text])[0]
    names = {i: piece for piece, i in tokenizer.table.items()}
    counts = Counter(tuple(names[i] for i in sampler.sample(ids, generator.random)) for _ in range(NUM_DRAWS))
    return {split: count / NUM_DRAWS for split, count in counts.items()}


def difference(found: Mapping[Split, float], expected: Mapping[Split, float]) -> float:
    """Total variation."""
    return sum(abs(found.get(split, 0.0) - expected.get(split, 0.0)) for split in {*found, *expected}) / 2


# About sqrt(K / 2πN) is to be expected of K equally likely segmentations in N draws: 0.013 for 20 of them.
CLOSE = 0.02


# ---------------------------------------------------------------- BPE-dropout


def algorithm_1(word: str, merges: Sequence[str], p: float) -> dict[Split, float]:
    """Provilkov et al. 2020, algorithm 1, over all outcomes: any subset of the possible merges may be dropped."""
    outcomes: dict[Split, float] = {}

    def go_on(split: Split, probability: float) -> None:
        possible = [i for i in range(len(split) - 1) if split[i] + split[i + 1] in merges]
        for is_dropped in itertools.product([False, True], repeat=len(possible)):
            chance = probability * math.prod(p if dropped else 1 - p for dropped in is_dropped)
            left = [i for i, dropped in zip(possible, is_dropped, strict=True) if not dropped]
            if left:
                best = min(left, key=lambda i: merges.index(split[i] + split[i + 1]))
                go_on((*split[:best], split[best] + split[best + 1], *split[best + 2 :]), chance)
            else:
                outcomes[split] = outcomes.get(split, 0.0) + chance

    go_on(tuple(word), 1.0)
    return outcomes


def dropped_once_for_all(word: str, merges: Sequence[str], p: float) -> dict[Split, float]:
    """Another rule, SentencePiece's: a possible merge is dropped or not when its turn comes, and not asked again."""
    outcomes: dict[Split, float] = {}

    def go_on(split: Split, asked: frozenset[tuple[int, str]], probability: float) -> None:
        starts = [0, *itertools.accumulate(map(len, split))]
        possible = [
            (merges.index(merged), i, (starts[i], merged))
            for i in range(len(split) - 1)
            if (merged := split[i] + split[i + 1]) in merges and (starts[i], merged) not in asked
        ]
        if not possible:
            outcomes[split] = outcomes.get(split, 0.0) + probability
            return
        _, i, place = min(possible)
        go_on((*split[:i], split[i] + split[i + 1], *split[i + 2 :]), asked, probability * (1 - p))
        go_on(split, asked | {place}, probability * p)

    go_on(tuple(word), frozenset(), 1.0)
    return outcomes


MERGES = ["ab", "cd", "bc", "aba", "abcd", "da"]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("word", ["ab", "abcd", "ababc", "abcdab"])
def test_bpe_dropout_is_algorithm_1(word: str, p: float) -> None:
    expected = algorithm_1(word, MERGES, p)
    assert sum(expected.values()) == pytest.approx(1)
    assert difference(drawn(bpe_of("abcd", MERGES), word, dropout=p), expected) < CLOSE


def test_words_are_drawn_by_themselves() -> None:
    """A space is one, and so is what no piece reaches across: d and b never stand side by side in a piece."""
    first, second = algorithm_1("abcd", MERGES, 0.5), algorithm_1("bcd", MERGES, 0.5)
    for text, between in [("abcd bcd", ("▁",)), ("abcdbcd", ())]:
        pairs = itertools.product(first.items(), second.items())
        expected = {(*x, *between, *y): p * q for (x, p), (y, q) in pairs}
        assert difference(drawn(bpe_of("abcd▁", MERGES), text, dropout=0.5), expected) < 1.5 * CLOSE


def test_bpe_dropout_by_hand() -> None:
    """Two merges that do not touch, ab before cd: what was dropped gets another chance after a merge."""
    p = 0.4
    expected = {
        ("a", "b", "c", "d"): p * p,
        ("ab", "c", "d"): (1 - p) * p,
        ("a", "b", "cd"): p * (1 - p) * p,
        ("ab", "cd"): (1 - p) * (1 - p) + p * (1 - p) * (1 - p),
    }
    assert algorithm_1("abcd", ["ab", "cd"], p) == pytest.approx(expected)
    # The last merge can never be made here; it makes one word of the four letters.
    assert difference(drawn(bpe_of("abcd", ["ab", "cd", "xbc"]), "abcd", dropout=p), expected) < CLOSE
    other = dropped_once_for_all("abcd", ["ab", "cd"], p)
    assert difference(expected, other) > 3 * CLOSE, "the test tells the two rules apart"


def test_sentencepieces_rule_is_the_other_one() -> None:
    """The reason why its sampling is not used: half the dropped merges come back in the paper's algorithm."""
    tokenizer, p = bpe_of("abcd", MERGES), 0.5
    processor = spm.SentencePieceProcessor(model_proto=tokenizer.model)
    found: Counter[Split] = Counter()

    def draw() -> None:
        for _ in range(NUM_DRAWS):
            found[tuple(processor.encode("abcdab", out_type=str, enable_sampling=True, nbest_size=-1, alpha=p))] += 1

    in_a_fresh_thread(draw)
    shares = {split: count / NUM_DRAWS for split, count in found.items()}
    assert difference(shares, dropped_once_for_all("abcdab", MERGES, p)) < CLOSE
    assert difference(shares, algorithm_1("abcdab", MERGES, p)) > 3 * CLOSE


def in_a_fresh_thread(draw: Callable[[], None]) -> None:
    """SentencePiece's generator takes the seed at its first use in a thread."""
    spm.set_random_generator_seed(1)
    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()


def test_no_dropout_is_sentencepieces_segmentation(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    sampler = SubwordSampler(tokenizers.src, 1e-12, None)
    for ids in tokenizers.src.encode(grammar_lines):
        assert sampler.sample(ids, random.random) == ids


def test_full_dropout_is_characters(tokenizers: Tokenizers, grammar_lines: list[str]) -> None:
    sampler = SubwordSampler(tokenizers.src, 1.0, None)
    names = {i: piece for piece, i in tokenizers.src.table.items()}
    for line, ids in zip(grammar_lines[:100], tokenizers.src.encode(grammar_lines[:100]), strict=True):
        pieces = [names[i] for i in sampler.sample(ids, random.random)]
        assert [piece for piece in pieces if not piece.startswith("<0x")] == list(f"▁{line}".replace(" ", "▁"))


# ---------------------------------------------------------------- unigram sampling

PROBABILITIES = {"a": 0.1, "b": 0.2, "c": 0.05, "ab": 0.25, "bc": 0.1, "abc": 0.05, "ba": 0.03, "▁": 0.1, "▁a": 0.12}


def segmentations(text: str, pieces: Mapping[str, float]) -> Iterator[Split]:
    if not text:
        yield ()
    for end in range(1, len(text) + 1):
        if text[:end] in pieces:
            yield from ((text[:end], *rest) for rest in segmentations(text[end:], pieces))


def smoothed(text: str, alpha: float) -> dict[Split, float]:
    """Kudo 2018, section 3.3: P(x | X) = P(x)^α / Σ P(x')^α with P(x) = Π p(x_i), over all segmentations."""
    weights = {x: math.prod(PROBABILITIES[piece] for piece in x) ** alpha for x in segmentations(text, PROBABILITIES)}
    return {x: weight / sum(weights.values()) for x, weight in weights.items()}


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("text", ["abc", "abab", "ab abc b"])
def test_unigram_sampling_is_the_papers_formula(text: str, alpha: float) -> None:
    """A text of several words too: the pieces that they are cut between leave no other segmentations out."""
    expected = smoothed(text.replace(" ", "▁"), alpha)
    tolerance = max(CLOSE, 1.5 * math.sqrt(len(expected) / (2 * math.pi * NUM_DRAWS)))
    assert difference(drawn(unigram_of(PROBABILITIES), text, alpha=alpha), expected) < tolerance


def test_unigram_sampling_is_sentencepieces() -> None:
    tokenizer = unigram_of(PROBABILITIES)
    processor = spm.SentencePieceProcessor(model_proto=tokenizer.model)
    found: Counter[Split] = Counter()

    def draw() -> None:
        for _ in range(NUM_DRAWS):
            found[tuple(processor.encode("ababc", out_type=str, enable_sampling=True, nbest_size=-1, alpha=0.3))] += 1

    in_a_fresh_thread(draw)
    shares = {split: count / NUM_DRAWS for split, count in found.items()}
    assert difference(drawn(tokenizer, "ababc", alpha=0.3), shares) < 1.5 * CLOSE  # both are samples


def test_a_high_alpha_is_the_likeliest_segmentation(grammar_lines: list[str]) -> None:
    tokenizer, _ = train_tokenizer(grammar_lines, TokenizerConfig(vocab_size=400, type="unigram"))
    scores = {piece.text: piece.score for piece in tokenizer.pieces()[1]}
    names = {i: piece for piece, i in tokenizer.table.items()}
    sampler = SubwordSampler(tokenizer, 0.0, 1e6)
    for ids in tokenizer.encode(grammar_lines[:300]):
        sampled = sampler.sample(ids, random.random)
        likelihoods = [sum(scores[names[i]] for i in x) for x in (sampled, ids)]
        assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-6)  # another one may be as likely


def test_a_long_word_does_not_underflow() -> None:
    word = "abc" * 2000
    tokenizer = unigram_of(PROBABILITIES)
    sampled = SubwordSampler(tokenizer, 0.0, 1.0).sample(tokenizer.encode([word])[0], random.Random(1).random)
    assert tokenizer.decode(sampled) == word


# ---------------------------------------------------------------- both


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request: pytest.FixtureRequest, grammar_lines: list[str]) -> tuple[Tokenizer, TokenizerConfig]:
    chosen = {"bpe": {"bpe_dropout": 0.3}, "unigram": {"unigram_alpha": 0.2}}[request.param]
    settings = {"vocab_size": 500, "type": request.param, "user_symbols": ["<2de>", "ein"], **chosen}
    config = TokenizerConfig.model_validate(settings)
    return train_tokenizer(grammar_lines, config)[0], config


def sampler_of(trained: tuple[Tokenizer, TokenizerConfig]) -> SubwordSampler:
    found = samplers(Tokenizers(trained[0], trained[0]), trained[1])
    assert found is not None
    return found[0]


def test_pieces_are_as_sentencepiece_has_them(trained: tuple[Tokenizer, TokenizerConfig]) -> None:
    tokenizer, config = trained
    kind, pieces = tokenizer.pieces()
    assert kind == config.type
    processor = spm.SentencePieceProcessor(model_proto=tokenizer.model)
    numbers = range(processor.get_piece_size())
    assert [piece.text for piece in pieces] == [processor.id_to_piece(i) for i in numbers]
    assert [piece.score for piece in pieces] == [processor.get_score(i) for i in numbers]
    others = {"<pad>", "<unk>", "<s>", "</s>", "<2de>", "ein", *(f"<0x{byte:02X}>" for byte in range(256))}
    assert {piece.text for piece in pieces if not piece.is_normal} == others


def test_the_text_stays_the_same(trained: tuple[Tokenizer, TokenizerConfig], grammar_lines: list[str]) -> None:
    tokenizer, sampler = trained[0], sampler_of(trained)
    generator = random.Random(1)
    encoded = tokenizer.encode(grammar_lines)
    sampled = [sampler.sample(ids, generator.random) for ids in encoded]
    assert [tokenizer.decode(ids) for ids in sampled] == grammar_lines
    assert sum(map(len, sampled)) > 1.05 * sum(map(len, encoded))
    assert sampler.sample([], generator.random) == []


def test_what_is_no_ordinary_text_stays_whole(trained: tuple[Tokenizer, TokenizerConfig]) -> None:
    tokenizer, sampler = trained[0], sampler_of(trained)
    ids = tokenizer.encode(["<2de> kein 🙂 Hund"])[0]
    atoms = {i for piece, i in tokenizer.table.items() if piece in ("<2de>", "ein") or piece.startswith("<0x")}
    expected = [i for i in ids if i in atoms]
    assert len(expected) == 2 + 4  # two symbols, four bytes
    for seed in range(50):
        sampled = sampler.sample(ids, random.Random(seed).random)
        assert [i for i in sampled if i in atoms] == expected
        assert tokenizer.decode(sampled) == "<2de> kein 🙂 Hund"


def test_unknown_pieces_stay() -> None:
    tokenizer = bpe_of("abcd", MERGES)
    ids = tokenizer.encode(["abXab"])[0]
    assert UNK_ID in ids
    for seed in range(20):
        assert SubwordSampler(tokenizer, 0.5, None).sample(ids, random.Random(seed).random).count(UNK_ID) == 1


def test_a_draw_depends_on_its_numbers_only(
    trained: tuple[Tokenizer, TokenizerConfig], grammar_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on what was drawn before, nor on how much of it is remembered, nor on the process."""
    encoded = trained[0].encode(grammar_lines[:200])

    def draw(sampler: SubwordSampler, numbers: Sequence[int]) -> dict[int, list[int]]:
        return {number: sampler.sample(encoded[number], random.Random(number).random) for number in numbers}

    expected = draw(sampler_of(trained), range(200))
    used = sampler_of(trained)
    draw(used, range(50, 100))
    assert draw(used, range(199, -1, -1)) == expected
    assert draw(pickle.loads(pickle.dumps(sampler_of(trained))), range(200)) == expected
    monkeypatch.setattr(subword_sampling, "_MEMORY_SYMBOLS", 40)
    assert draw(sampler_of(trained), range(200)) == expected


def test_what_is_remembered_is_limited(
    trained: tuple[Tokenizer, TokenizerConfig], grammar_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subword_sampling, "_MEMORY_SYMBOLS", 2000)
    sampler = sampler_of(trained)
    method = sampler._draw
    memory = method._splits if isinstance(method, subword_sampling._BpeDropout) else method._lattices  # type: ignore[attr-defined]
    for ids in trained[0].encode(grammar_lines[:300]):
        sampler.sample(ids, random.random)
        assert sum(map(len, memory)) <= 2000
    assert memory


def test_no_unknown_piece_where_the_table_lacks_some(grammar_lines: list[str]) -> None:
    """A vocabulary may hold fewer pieces than SentencePiece's model: merges lead through those, but never end there."""
    full, _ = train_tokenizer(grammar_lines, TokenizerConfig(vocab_size=500))
    used = {i for ids in full.encode(grammar_lines) for i in ids}
    kept = [piece for piece, i in full.table.items() if i < 4 or i in used or len(piece) == 1]
    assert len(kept) < 0.9 * full.vocab_size
    tokenizer = Tokenizer(full.model, {piece: i for i, piece in enumerate(kept)})
    sampler = SubwordSampler(tokenizer, 0.3, None)
    generator = random.Random(1)
    for line, ids in zip(grammar_lines[:300], tokenizer.encode(grammar_lines[:300]), strict=True):
        sampled = sampler.sample(ids, generator.random)
        assert UNK_ID not in sampled
        assert tokenizer.decode(sampled) == line


# ---------------------------------------------------------------- settings


def test_without_settings_there_is_no_sampler(tokenizers: Tokenizers) -> None:
    assert samplers(tokenizers, TokenizerConfig()) is None


def test_sides_share_a_sampler_where_they_share_a_tokenizer(grammar_lines: list[str], tokenizers: Tokenizers) -> None:
    config = TokenizerConfig(bpe_dropout=0.1)
    shared = samplers(tokenizers, config)
    assert shared is not None and shared[0] is shared[1]
    other, _ = train_tokenizer(grammar_lines, TokenizerConfig(vocab_size=420))
    separate = samplers(Tokenizers(tokenizers.src, other), config)
    assert separate is not None
    ids = other.encode(grammar_lines[:1])[0]
    assert other.decode(separate[1].sample(ids, random.random)) == grammar_lines[0]
    assert len({sampler.fingerprint for sampler in separate}) == 2


@pytest.mark.parametrize(
    ("kind", "settings", "refusal"),
    [
        (
            _UNIGRAM,
            {"bpe_dropout": 0.1},
            "bpe_dropout is for a BPE model, this is a unigram model; set it to 0, and un",
        ),
        (_BPE, {"unigram_alpha": 0.1}, "unigram_alpha is for a unigram model, this is a bpe model; remove it, and set"),
        (_WORD, {"bpe_dropout": 0.1}, "bpe_dropout is for a BPE model, this is a word model; set it to 0"),
    ],
)
def test_a_model_of_another_kind_is_refused(kind: int, settings: dict[str, float], refusal: str) -> None:
    tokenizer = Tokenizer(model_of(kind, {"a": -1.0, "b": -2.0}))
    config = TokenizerConfig.model_validate({"model": "given.model", **settings})
    with pytest.raises(InputError) as caught:
        samplers(Tokenizers(tokenizer, tokenizer), config)
    assert f"tokenizer.{refusal}" in str(caught.value)
