"""Word alignments: whose weights count, which words they link, in lines of any kind; how many errors they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding import word_alignments as module
from transformer_mt.decoding.translations import Alternative
from transformer_mt.decoding.translator import Translator
from transformer_mt.decoding.word_alignments import alignment_weights, links_of
from transformer_mt.decoding.word_links import NO_WORD, Links, joined_links, source_words
from transformer_mt.errors import InputError
from transformer_mt.model.attention import AttentionWeights
from transformer_mt.model.layout import collate
from transformer_mt.model.recurrent import Recurrent
from transformer_mt.model.transformer import EncoderDecoder, Transformer
from transformer_mt.text.sentences import Part, SplitLine
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID

SHAPE = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2)
# Lines, and what their translations start with: a model that was not trained would write no words.
PAIRS = {
    "The old dog is sleeping.": "Der alte Hund schläft",
    "  A man\u00a0reads  the book ": "Ein Mann liest ein Buch",
    "": "",
    "No": "Nein",
    "\u200b": "",
    "I am not reading this newspaper in the kitchen today.": "Ich lese diese Zeitung heute nicht in der Küche.",
}
LINES, PREFIXES = list(PAIRS), list(PAIRS.values())


@pytest.fixture(scope="module")
def tagged(tokenizers: Tokenizers) -> Tokenizers:
    return tokenizers.with_tags(["<2de>"])


def model_of(tokenizers: Tokenizers, seed: int) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(SHAPE, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
    for name, weight in model.named_parameters():
        if "cross_attn.q_proj" in name:  # without training, attention is nearly the same everywhere
            weight.data *= 8
    return model


@pytest.fixture(scope="module")
def model(tagged: Tokenizers) -> Transformer:
    return model_of(tagged, 1)


def translator_of(models: Sequence[EncoderDecoder], tokenizers: Tokenizers, **settings: Any) -> Translator:
    config = SearchConfig(workers=1, beam_size=3, max_extra_tokens=5, precision="float32").model_copy(update=settings)
    return Translator.of_models(models, tokenizers, config, 60, tags=tokenizers.tag_ids("de", None))


def words_by_mark(pieces: Sequence[str]) -> list[int]:
    """The word of each piece of text with single spaces, where SentencePiece's mark begins one."""
    numbers: list[int] = []
    for piece in pieces:
        numbers.append(numbers[-1] + piece.startswith("▁") if numbers else 0)
    return numbers


def links_by_hand(model: Transformer, tokenizers: Tokenizers, line: str, alternative: Alternative) -> Links:
    """Number by number, of a pass over this pair alone."""
    src = [tokenizers.src.table["<2de>"], *tokenizers.src.encode([line.strip()])[0], EOS_ID]
    tgt = [tokenizers.tgt.table[piece] for piece in alternative.tokens]
    cross = model.attention_weights(collate([src], [tgt])).cross
    assert cross is not None
    heads_HLM = cross[-1, 0].tolist()
    src_words = words_by_mark(tokenizers.src.pieces_of(src)[1:-1])
    tgt_words = words_by_mark(alternative.tokens)
    links = []
    for i in range(src_words[-1] + 1):
        of_words = []
        for j in range(tgt_words[-1] + 1):
            first = tgt_words.index(j)
            columns = [1 + column for column, word in enumerate(src_words) if word == i]
            of_words.append(sum(head[first][column] for head in heads_HLM for column in columns))
        links.append((i, of_words.index(max(of_words))))
    return links


def test_each_translation_has_the_links_of_its_own_pass(
    model: Transformer, tagged: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator = translator_of([model], tagged, n_best=2)
    plain = translator.translate(LINES, PREFIXES)
    found = translator.translate(LINES, PREFIXES, align=True)
    distinct = set()
    for line, without, translation in zip(LINES, plain, found, strict=True):
        assert [a._replace(alignment=None) for a in translation.alternatives] == without.alternatives
        assert without.alignment is None
        assert translation.alignment == translation.alternatives[0].alignment
        for alternative in translation.alternatives:
            if line.strip(" \u200b"):
                assert alternative.alignment == links_by_hand(model, tagged, line, alternative)
                distinct |= {j for _, j in alternative.alignment}
            else:
                assert alternative.alignment == []
    assert len(distinct) > 3  # not always the same word
    monkeypatch.setattr(module, "_BATCH_CELLS", 1)  # one by one
    assert list(translator.stream(LINES, PREFIXES, align=True)) == found


def test_an_ensemble_is_aligned_by_its_first_model_in_float32(model: Transformer, tagged: Tokenizers) -> None:
    line = LINES[-1]
    translator = translator_of([model_of(tagged, 2), model], tagged, precision="int8")
    [found] = translator.translate([line], [PREFIXES[-1]], align=True)
    by_first = links_by_hand(model_of(tagged, 2), tagged, line, found.alternatives[0])
    assert found.alignment == by_first != links_by_hand(model, tagged, line, found.alternatives[0])


def test_lines_in_parts_have_the_links_of_their_parts(model: Transformer, tagged: Tokenizers) -> None:
    """Their words count through the line, also where a text has several lines."""
    parts = ["The old dog is sleeping.", "No!", "A man is reading the book."]
    alone = translator_of([model], tagged).translate(parts, align=True)
    longest = max(len(ids) for ids in tagged.src.encode(parts)) + 2
    split = translator_of([model], tagged, max_source_tokens=longest)
    lines = [f"  {parts[0]}  {parts[1]} {parts[2]}", "\n".join([parts[0], "", parts[1], parts[2]])]
    for translation in split.translate(lines, align=True):
        expected, i, j = [], 0, 0
        for part, one in zip(parts, alone, strict=True):
            assert one.alignment
            expected += [(i + own, j + other) for own, other in one.alignment]
            i, j = i + len(part.split()), j + len(one.text.split())
        assert translation.text.split() == " ".join(one.text for one in alone).split()
        assert translation.alignment == expected


def test_a_line_without_spaces_is_one_word(tokenizers: Tokenizers) -> None:
    """Also in parts: the links of its parts are those of this word."""
    split = SplitLine(" ", [Part("你好。", ""), Part("ab c。", "  "), Part("d", "")])
    line = " 你好。ab c。  d"
    assert split.join([part.text for part in split.parts]) == line
    words = source_words(line, split, tokenizers.src, 2)
    pieces = [tokenizers.src.encode_pieces(part.text) for part in split.parts]
    assert [len(own) for own in words] == [len(own) + 3 for own in pieces]
    assert [(own[:2], own[-1]) for own in words] == [([NO_WORD] * 2, NO_WORD)] * 3
    assert [sorted({*own} - {NO_WORD}) for own in words] == [[0], [0, 1], [2]]
    assert joined_links("x yz。", [0, 3], [[(0, 0), (1, 1)], [(1, 0), (2, 0)]]) == [(0, 0), (1, 1), (2, 1)]


def test_the_last_layer_counts_in_the_mean_of_its_heads() -> None:
    cross_YHLM = torch.rand(3, 2, 4, 5)
    weights = AttentionWeights(None, None, cross_YHLM)
    torch.testing.assert_close(alignment_weights(weights), (cross_YHLM[2, 0] + cross_YHLM[2, 1]) / 2)


def test_links_of_a_table() -> None:
    """Source words: a tag, 3 in two pieces, 4, 6 (5 has no piece), </s>; of the translation: 0 in two pieces, 2."""
    weights_LM = torch.tensor(
        [
            [0.9, 0.1, 0.3, 0.2, 0.1, 0.5],
            [0.0, 0.9, 0.9, 0.9, 0.9, 0.0],  # not the first piece
            [0.5, 0.3, 0.0, 0.3, 0.0, 0.9],
        ]
    )
    assert links_of(weights_LM, [NO_WORD, 3, 3, 4, 6, NO_WORD], [0, 0, 2]) == [(3, 0), (4, 2), (6, 0)]


def test_models_without_attention_and_pairs_too_long_are_refused_before_the_first_line(
    model: Transformer, tagged: Tokenizers
) -> None:
    def lines() -> Any:
        raise AssertionError("a line was read")
        yield

    def recurrent(kind: Literal["none", "additive"]) -> Translator:
        torch.manual_seed(1)
        shape = ModelConfig(
            kind="recurrent", recurrent_attention=kind, d_model=16, num_encoder_layers=1, num_decoder_layers=1
        )
        return translator_of([Recurrent(shape, tagged.src.vocab_size, tagged.tgt.vocab_size).eval()], tagged)

    with pytest.raises(InputError, match="no attention over its source"):
        next(recurrent("none").stream(lines(), align=True))
    [found] = recurrent("additive").translate([LINES[-1]], [PREFIXES[-1]], align=True)
    assert found.alignment is not None and [i for i, _ in found.alignment] == list(range(10))
    translator = translator_of([model], tagged, max_source_tokens=1020)
    with pytest.raises(InputError, match=r"1025 tokens .* 1024 can be aligned; lower search.max_source_tokens"):
        next(translator.stream(lines(), align=True))
    with pytest.raises(InputError, match=r"line 2: its prefix has \d+ tokens with </s>, too many to align; shorten it"):
        translator_of([model], tagged).translate(LINES[:2], ["", "the dog " * 600], align=True)
    with pytest.raises(InputError, match=r"source: '\\udcff' is half a character; give text in UTF-8"):
        translator_of([model], tagged).attention_maps("a \udcff dog")
    with pytest.raises(InputError, match=r"lines: number 2: '\\ud800' is half a character"):
        translator_of([model], tagged).translate(["a", "\ud800"])
