"""Pieces, symbols and tags behind those of a trained vocabulary: what was there stays, what is new is used."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence

import pytest
import sentencepiece as spm
from harness import symbol_lines

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.text.added_pieces import grown, origins
from transformer_mt.text.subword_sampling import samplers
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.text.vocabulary import SPECIALS

ENGLISH = ["the cat sees a dog", "a small house is here", "dogs and cats eat", "she has an old boat"] * 30
GREEK = ["η γάτα βλέπει την πόρτα.", "η πόρτα είναι εδώ, η γάτα τρώει.", "42km προς την πόρτα; dog"] * 40
KINDS = pytest.mark.parametrize("kind", ["bpe", "unigram"])


def model(kind: str, lines: Sequence[str] = ENGLISH, **settings: object) -> Tokenizers:
    config = TokenizerConfig.model_validate({"type": kind, "vocab_size": 330, **settings})
    tokenizer, _ = train_tokenizer(lines, config)
    return Tokenizers(tokenizer, tokenizer)


def lines_of(*sides: Sequence[str]) -> Callable[[Sequence[int]], Iterator[str]]:
    return lambda numbers: itertools.chain.from_iterable(sides[number] for number in numbers)


def added(old: Tokenizer, new: Tokenizer) -> list[str]:
    return sorted(new.table.keys() - old.table.keys(), key=new.table.__getitem__)


@KINDS
def test_what_was_there_stays_and_what_is_new_is_used(kind: str) -> None:
    old = model(kind)
    settings = TokenizerConfig(add_pieces=40, user_symbols=("ACME-1",))
    new = grown(old, settings, ["<law>"], lines_of(GREEK, GREEK), 1)
    assert new.is_shared and new.src.tags == ["<law>"]
    names = added(old.src, new.src)
    assert names[:2] == ["<law>", "ACME-1"] and 20 < len(names) <= 42
    assert {**new.src.table, **old.src.table} == new.src.table
    # Text that no new piece stands in is cut as before; the new text into fewer pieces, which spell it all the same.
    assert new.src.encode(ENGLISH) == old.src.encode(ENGLISH)
    before, after = (sum(map(len, one.src.encode(GREEK))) for one in (old, new))
    assert after < 0.5 * before
    assert [new.src.decode(ids) for ids in new.src.encode(GREEK)] == [old.src.decode(i) for i in old.src.encode(GREEK)]
    used = {piece for line in GREEK for piece in new.src.encode_pieces(line)}
    assert len({*names[2:]} & used) > 0.6 * len(names[2:])  # of BPE's, some only lead to others
    assert "ACME-1" in new.src.encode_pieces("an ACME-1s")
    # Nothing is joined over a space, digits with letters, or letters with punctuation.
    words = [name.removeprefix("\u2581") for name in names[2:]]
    assert all(word.isalpha() or word.isdigit() or len(word) <= 1 for word in words), words
    again = grown(old, settings, ["<law>"], lines_of(GREEK, GREEK), 1)
    assert again.fingerprint == new.fingerprint
    keys = {"bpe_dropout": 0.5} if kind == "bpe" else {"unigram_alpha": 0.5}
    sampled = samplers(new, TokenizerConfig.model_validate({"type": kind, **keys}))
    assert sampled is not None
    ids = sampled[0].sample(new.src.encode([GREEK[0]])[0], iter([0.1, 0.7, 0.4] * 200).__next__)
    assert new.src.decode(ids) == GREEK[0]


@KINDS
def test_other_programs_cut_text_with_it_as_well(kind: str) -> None:
    """That their merges are found from the pieces, and that a symbol is one."""
    pytest.importorskip("google.protobuf")
    hugging_face = pytest.importorskip("tokenizers")
    from transformer_mt.exchange.tokenizer_json import tokenizer_json

    settings = TokenizerConfig(add_pieces=40, user_symbols=("ACME-1",))
    new = grown(model(kind), settings, ["<law>"], lines_of(GREEK, GREEK), 1)
    theirs = hugging_face.Tokenizer.from_str(json.dumps(tokenizer_json(new)))
    for line in (*ENGLISH[:4], *GREEK[:3], "an ACME-1 42 πόρτες and naïve 水"):
        assert theirs.encode(line).ids[:-1] == new.src.encode([line])[0], line


@KINDS
def test_a_new_row_comes_from_what_its_text_was_cut_into(kind: str) -> None:
    old = model(kind).with_tags(["<2en>", "<2fr>", "<web>"])
    settings = TokenizerConfig(add_pieces=20, user_symbols=("housecat",))
    new = grown(old, settings, ["<2it>", "<law>"], lines_of(GREEK, GREEK), 1)
    found = dict(zip(added(old.src, new.src), origins(old.src, new.src, new.src.tags), strict=True))
    assert old.src.pieces_of(found["<2it>"]) == ["<2en>", "<2fr>"] and old.src.pieces_of(found["<law>"]) == ["<web>"]
    for name, ids in found.items():
        if not name.startswith("<"):  # the pieces spell it, and nothing else
            assert old.src.decode(ids) == name.replace("\u2581", " ").removeprefix(" "), name
    untagged = model(kind)
    new = grown(untagged, TokenizerConfig(), ["<law>"], lines_of(), 1)
    assert origins(untagged.src, new.src, new.src.tags) == [[*range(len(SPECIALS), untagged.src.vocab_size)]]


@KINDS
def test_a_piece_becomes_a_symbol_and_keeps_its_id(kind: str) -> None:
    old = model(kind)
    texts = [p.text for p in old.src.pieces()[1] if p.is_normal]
    alone = [one for one in texts if kind == "bpe" or sum(one in text for text in texts) == 1]
    piece = next(one for one in alone if len(one) >= 2 and one.isascii())
    new = grown(old, TokenizerConfig(user_symbols=(piece,)), [], lines_of(), 1)
    assert new.src.table == old.src.table
    assert piece in new.src.encode_pieces(f"x{piece}{piece}x") and new.fingerprint != old.fingerprint
    assert grown(new, TokenizerConfig(user_symbols=(piece,)), [], lines_of(), 1).fingerprint == new.fingerprint


def test_a_symbol_within_a_longer_piece_of_a_unigram_model_is_refused() -> None:
    longer = max((p.text for p in model("unigram").src.pieces()[1] if p.is_normal), key=len)
    settings = TokenizerConfig(user_symbols=(longer[1:-1],))
    with pytest.raises(InputError, match=f"user_symbols {longer[1:-1]}: the unigram model has longer pieces with it"):
        grown(model("unigram"), settings, [], lines_of(), 1)
    assert longer[1:-1] in grown(model("bpe"), settings, [], lines_of(), 1).src.encode_pieces(longer[1:])


def test_two_models_with_one_table_keep_one_table() -> None:
    one, other = model("unigram").src, model("unigram", GREEK, vocab_size=300).src
    table = dict(one.table)
    for name in other.table:
        table.setdefault(name, len(table))
    old = Tokenizers(Tokenizer(one.model, table, []), Tokenizer(other.model, table, []))
    new = grown(old, TokenizerConfig(add_pieces=5), ["<law>"], lines_of(GREEK, ENGLISH), 1)
    assert new.src.table == new.tgt.table and len(table) < len(new.src.table) <= len(table) + 11
    assert sum(map(len, new.tgt.encode(ENGLISH))) < sum(map(len, old.tgt.encode(ENGLISH)))


def test_separate_vocabularies_grow_by_their_own_text() -> None:
    old = Tokenizers(model("bpe").src, model("bpe").src)
    old.tgt.table["x"] = len(old.tgt.table)  # so that they are two tables
    old = Tokenizers(old.src, Tokenizer(old.tgt.model, old.tgt.table, []))
    new = grown(old, TokenizerConfig(add_pieces=5), [], lines_of(ENGLISH, GREEK), 1)
    assert set("ηα") <= {*added(old.tgt, new.tgt)} and not set("ηα") & {*added(old.src, new.src)}


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (("<law>",), "tokenizer.user_symbols <law>: is a tag of sources; remove it there"),
        (("<0x41>",), "tokenizer.user_symbols '<0x41>': <0x41> stands for a byte"),
        (("<pad>",), "none may be empty or one of <pad>"),
    ],
)
def test_symbols_that_mean_something_else_are_refused(symbols: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grown(model("bpe").with_tags(["<law>"]), TokenizerConfig(user_symbols=symbols), [], lines_of(), 1)
    with pytest.raises(InputError, match="the tag <a> is a piece of the tokenizer already"):
        grown(model("bpe", user_symbols=["<a>"]), TokenizerConfig(), ["<a>"], lines_of(), 1)


def test_a_model_of_words_takes_no_pieces() -> None:
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH), model_writer=out, model_type="word", vocab_size=20, hard_vocab_limit=False
    )
    words = Tokenizer(out.getvalue())
    with pytest.raises(InputError, match="unigram and BPE models take further pieces, this is a word model"):
        grown(Tokenizers(words, words), TokenizerConfig(add_pieces=1), [], lines_of(ENGLISH, ENGLISH), 1)


def test_text_without_anything_new_adds_nothing() -> None:
    old = model("unigram", symbol_lines(200, seed=1), vocab_size=300)
    new = grown(old, TokenizerConfig(add_pieces=50), [], lines_of(["a b c"] * 200, []), 1)
    assert len(added(old.src, new.src)) <= 3
