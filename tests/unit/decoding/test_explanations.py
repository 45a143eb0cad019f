"""Translations token by token: they are those of `translate`, with the numbers of the model's own forced pass."""

from __future__ import annotations

import pytest
import torch

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID, SPECIALS

SHAPE = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
TEXT = "  The red dog runs.\n\nA cat 😀 sleeps. \nTwo old men sing a very long song in the green garden today.\n"


@pytest.fixture(scope="module")
def translator(tokenizers: Tokenizers) -> Translator:
    """Lines of more than 20 tokens are split."""
    torch.manual_seed(1)
    model = Transformer(SHAPE, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
    config = SearchConfig(workers=1, beam_size=3, n_best=3, max_extra_tokens=3, max_source_tokens=20)
    return Translator.of_models([model], tokenizers, config, 50)


def test_it_is_the_translation_and_its_scores(translator: Translator) -> None:
    lines = [TEXT, "A dog.", "", " \n"]
    expected = translator.translate(lines, log_probs=True)
    for found, one in zip(translator.explain(lines), expected, strict=True):
        assert found.text == one.text == found.before + "".join(part.text + part.after for part in found.parts)
        assert found.alternatives == [
            text for text in dict.fromkeys(a.text for a in one.alternatives) if text != one.text
        ]
        tokens = [token for part in found.parts for token in part.tokens]
        assert [token.piece for token in tokens] == one.tokens
        assert [token.log_prob for token in tokens] == pytest.approx(one.alternatives[0].log_probs, abs=1e-5)
        for part in found.parts:
            assert "".join(token.text for token in part.tokens) == part.text
            assert [token.word for token in part.tokens] == sorted(token.word for token in part.tokens)
    assert len(translator.explain([TEXT])[0].parts) > 3


def test_parts_are_explained_as_they_were_together(translator: Translator) -> None:
    [whole] = translator.explain([TEXT])
    for part in whole.parts:
        [alone] = translator.explain([part.source])
        assert [token[:3] for token in alone.parts[0].tokens] == [token[:3] for token in part.tokens]


def test_candidates_are_the_likeliest_of_all_ids(translator: Translator, tokenizers: Tokenizers) -> None:
    source, tgt = "The red dog runs.", tokenizers.tgt
    [explanation] = translator.explain([source])
    tokens = explanation.parts[0].tokens
    src = [*tokenizers.src.encode([source])[0], EOS_ID]
    possible = [i for i in range(tgt.vocab_size) if tgt.pieces_of([i])[0] not in SPECIALS]
    for position in (0, 2, len(tokens) - 1):
        prefix = [token.piece for token in tokens[:position]]
        ids = [tgt.table[piece] for piece in prefix]
        each = translator._searcher.log_probs([src] * len(possible), [[*ids, one, EOS_ID] for one in possible])
        expected = sorted(
            ((own[position], tgt.pieces_of([one])[0]) for own, one in zip(each, possible, strict=True) if own),
            reverse=True,
        )
        [found] = translator.candidates([source], prefix, 6)
        best = {piece: log_prob for log_prob, piece in expected[:6]}
        assert found[0].piece == expected[0][1] and len(found) > 1
        for one in found:
            assert one.log_prob == pytest.approx(best[one.piece], abs=1e-5)
            [chosen] = translator.explain([source], prefix=[*prefix, one.piece])
            own = chosen.parts[0].tokens
            assert (chosen.text, [token.piece for token in own[: position + 1]]) == (one.text, [*prefix, one.piece])
            assert own[position].log_prob == pytest.approx(one.log_prob, abs=1e-5)
            assert one.word == "".join(token.text for token in own if token.word == own[position].word).strip()
        assert len({one.text for one in found}) == len(found)


def test_a_mark_is_a_word_of_its_own() -> None:
    from transformer_mt.decoding.explanations import _word_numbers

    assert _word_numbers(["▁Der", "▁Hund", "e", "halter", ".", "“"]) == [0, 1, 1, 1, 2, 2]
    assert _word_numbers(["▁„", "Ja", "!", "▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]) == [0, 1, 2, 3, 3, 3, 3, 3]
    assert _word_numbers(["▁猫", "が", "。"]) == [0, 1, 2]


def test_refusals(translator: Translator) -> None:
    for text in (TEXT, "", " \n"):
        with pytest.raises(InputError, match=r"a text of \d+ parts"):
            translator.explain([text], prefix=[])
    for piece in ("</s>", "<pad>", "<unk>", "no such piece" * 9):
        with pytest.raises(InputError, match=f"prefix: {piece[:40]} is no piece"):
            translator.candidates(["A dog."], [piece], 3)
    piece = translator.explain(["A dog."])[0].parts[0].tokens[0].piece
    with pytest.raises(InputError, match="may go on after"):
        translator.explain(["A dog."], prefix=[piece] * 99)
