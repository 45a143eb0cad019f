"""What a model looks at, with the names of positions: of pieces and words, of one sentence and of many."""

from __future__ import annotations

import pytest
import torch

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding import attention_maps as module
from transformer_mt.decoding.attention_maps import AttentionMap, Positions, forced_weights
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError
from transformer_mt.model.attention import AttentionWeights
from transformer_mt.model.layout import Batch, collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.text.words import Word

SHAPE = ModelConfig(
    d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, positions="learned", max_positions=60
)


@pytest.fixture(scope="module")
def tagged(tokenizers: Tokenizers) -> Tokenizers:
    return tokenizers.with_tags(["<2de>"])


@pytest.fixture(scope="module")
def model(tagged: Tokenizers) -> Transformer:
    torch.manual_seed(1)
    return Transformer(SHAPE, tagged.src.vocab_size, tagged.tgt.vocab_size).eval()


@pytest.fixture(scope="module")
def translator(model: Transformer, tagged: Tokenizers) -> Translator:
    config = SearchConfig(workers=1, beam_size=2, max_extra_tokens=3, precision="float32")
    return Translator.of_models([model], tagged, config, 50, tags=tagged.tag_ids("de", None))


def test_positions_are_what_the_model_sees(translator: Translator, model: Transformer, tagged: Tokenizers) -> None:
    maps = translator.attention_maps(" A dog runs. ", "Ein Hund rennt.")
    src = [tagged.src.table["<2de>"], *tagged.src.encode(["A dog runs."])[0], EOS_ID]
    tgt = [*tagged.tgt.encode(["Ein Hund rennt."])[0], EOS_ID]
    weights = model.attention_weights(collate([src], [tgt]))
    src_pieces, tgt_pieces = (tagged.src.pieces_of(ids) for ids in (src, tgt))
    tgt_in = ["<s>", *tgt_pieces[:-1]]
    for found, queries, keys, expected in zip(
        maps,
        (src_pieces, tgt_in, tgt_pieces),
        (src_pieces, tgt_in, src_pieces),
        weights,
        strict=True,
    ):
        assert found is not None and expected is not None
        assert (found.queries.pieces, found.keys.pieces) == (queries, keys)
        torch.testing.assert_close(found.weights_YHLM, expected[:, 0])
    assert maps.cross is not None and maps.decoder is not None
    assert [word.text for word in maps.cross.keys.words] == ["<2de>", "A", "dog", "runs.", "</s>"]
    assert [word.text for word in maps.cross.queries.words] == ["Ein", "Hund", "rennt.", "</s>"]
    assert [word.text for word in maps.decoder.keys.words] == ["<s>", "Ein", "Hund", "rennt."]


def test_without_a_target_it_is_what_search_finds(translator: Translator) -> None:
    [translation] = translator.translate(["A dog runs."])
    maps = translator.attention_maps("A dog runs.")
    assert maps.cross is not None
    assert maps.cross.queries.pieces == [*translation.tokens, "</s>"]


def test_weights_of_words() -> None:
    """By hand: what a word's pieces get is added up, what they give is averaged."""
    queries = Positions(["▁a", "b", "</s>"], [Word("ab", range(2)), Word("</s>", range(2, 3))])
    keys = Positions(["▁c", "▁d", "e"], [Word("c", range(1)), Word("de", range(1, 3))])
    weights_LM = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.25, 0.5]])
    found = AttentionMap(queries, keys, weights_LM[None, None]).of_words()
    torch.testing.assert_close(found, torch.tensor([[[[0.3, 0.7], [0.25, 0.75]]]]))


def test_many_pairs_have_the_weights_that_each_has_alone(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    src = [[*range(4, 4 + length), EOS_ID] for length in (3, 9, 1, 5, 9)]
    tgt = [[*range(20, 20 + length), EOS_ID] for length in (4, 2, 8, 1, 3)]
    monkeypatch.setattr(module, "LONGEST_SHOWN", 15)  # two of the longest at once
    sizes = []
    original = model.attention_weights

    def counted(batch: Batch) -> AttentionWeights:
        sizes.append(batch.src.num_sequences)
        return original(batch)

    monkeypatch.setattr(model, "attention_weights", counted)
    found = dict(forced_weights(model, src, tgt))
    assert sizes == [2, 2, 1] and found.keys() == set(range(5))
    for i, weights in found.items():
        for one, alone in zip(weights, original(collate([src[i]], [tgt[i]])), strict=True):
            assert one is not None and alone is not None
            torch.testing.assert_close(one, alone[:, 0])


@pytest.mark.parametrize(
    ("source", "target", "part"),
    [
        (" ", None, "source: no text"),
        ("\u200b", None, "source: no text"),  # which normalization leaves nothing of
        ("A dog.", "", "target: no text"),
        ("A dog.\nA cat.", None, "source: several lines"),
        ("dog " * 60, None, "search.max_source_tokens="),
        ("A dog.", "Hund " * 60, "learned table of 60"),
        ("A dog.", "Hund " * 1100, "at most 1024"),
    ],
)
def test_refusals(translator: Translator, source: str, target: str | None, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        translator.attention_maps(source, target)
    assert "\n" not in str(caught.value)
