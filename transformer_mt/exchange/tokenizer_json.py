"""Our tokenizers as one ``tokenizer.json``, the format of Hugging Face's ``tokenizers``.

The format has one table of ids for both directions. Where source and target have tables of their own, the target's ids
follow the source's, without our special symbols, which both share. A target's piece is written with a space before it:
normalised text has none, so no source ever becomes such a piece, and decoding takes the space off again.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Sequence
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from transformer_mt.errors import InputError
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import EOS_ID, SPECIALS, UNK_ID

_SPACE = "\u2581"  # SentencePiece's
# A symbol of the user is one character of a private plane while text is segmented, so that nothing can split it.
_FIRST_PRIVATE = 0xF0000
_DOTTED_I = "\U0010fffd"  # the last of the other private plane
# Times the lowest score of a unigram model: of pieces that no text becomes, so that none is ever the best way.
_NEVER = 50.0


def tokenizer_json(tokenizers: Tokenizers) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``: text to the source's ids and ``</s>``, and the target's ids to text.

    Raises:
        InputError: a tokenizer whose way with text the format does not have.
    """
    src = tokenizers.src
    proto = ModelProto.FromString(src.model)
    _check_expressible(src, proto)
    symbols = _symbols(src, proto)
    replacements = {symbol: chr(_FIRST_PRIVATE + i) for i, symbol in enumerate(symbols)}
    names = [replacements.get(piece, piece) for piece in sorted(src.table, key=src.table.__getitem__)]
    if not tokenizers.is_shared:
        tgt = tokenizers.tgt.table
        names += [f" {piece}" for piece in sorted(tgt, key=tgt.__getitem__)[len(SPECIALS) :]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(src.table[name], name) for name in (*SPECIALS, *src.tags)],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(proto, replacements)},
        "pre_tokenizer": None,  # a line is segmented as a whole, as SentencePiece does it
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": SPECIALS[EOS_ID], "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
            "special_tokens": {
                SPECIALS[EOS_ID]: {"id": SPECIALS[EOS_ID], "ids": [EOS_ID], "tokens": [SPECIALS[EOS_ID]]}
            },
        },
        "decoder": {"type": "Sequence", "decoders": _decoders(replacements)},
        "model": _model(proto, names, replacements),
    }


def _check_expressible(tokenizer: Tokenizer, proto: Any) -> None:
    if proto.trainer_spec.model_type == TrainerSpec.WORD:
        raise InputError("a SentencePiece model of words: tokenizer.json is made of bpe, unigram and char only")
    spec = proto.normalizer_spec
    if proto.trainer_spec.treat_whitespace_as_suffix or not spec.escape_whitespaces:
        raise InputError(
            "a SentencePiece model that writes spaces behind words or as they are: tokenizer.json is made only of "
            "those with U+2581 before words; translate with tmt"
        )
    normal, user_defined = ModelProto.SentencePiece.NORMAL, ModelProto.SentencePiece.USER_DEFINED
    lost = [piece.piece for piece in proto.pieces if piece.type == normal and piece.piece not in tokenizer.table]
    if lost:
        raise InputError(
            f"the source's vocab.json lacks {len(lost):,} pieces of its SentencePiece model, as {lost[0]!r}: "
            "tokenizer.json has one list for both; translate with tmt"
        )

    spaced = [piece.piece for piece in proto.pieces if piece.type == user_defined and _SPACE in piece.piece]
    if spaced:
        raise InputError(
            f"the symbol {spaced[0]!r} has a space: tokenizer.json would not see it at the start of a line; "
            "translate with tmt, or train with symbols without U+2581"
        )


def _symbols(tokenizer: Tokenizer, proto: Any) -> list[str]:
    """Return the user's symbols that text becomes, the longest first, as SentencePiece looks for them."""
    kind = ModelProto.SentencePiece.USER_DEFINED
    symbols = [piece.piece for piece in proto.pieces if piece.type == kind and piece.piece in tokenizer.table]
    return sorted(symbols, key=lambda symbol: (-len(symbol), symbol))


def _added(number: int, content: str) -> dict[str, Any]:
    """Describe a symbol that text may hold as it is: white space behind a tag is not the text's."""
    flags = {"single_word": False, "lstrip": False, "rstrip": content not in SPECIALS, "normalized": False}
    return {"id": number, "content": content, **flags, "special": True}


def _normalizers(proto: Any, replacements: dict[str, str]) -> list[dict[str, Any]]:
    spec = proto.normalizer_spec
    # SentencePiece keeps the user's symbols from normalisation, and sees those as well that it makes.
    symbols = [_replace(symbol, private) for symbol, private in replacements.items()]
    steps = list(symbols)
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        if "nfkc" in spec.name:  # ``tokenizers`` sees a letter's first mark only, and loses the second
            steps.append({"type": "NFC"})
        steps += [{"type": "Precompiled", "precompiled_charsmap": charsmap}, *_voiced_kana()]
        if spec.name.endswith("_cf"):
            # For transformers.js, which has NFKC for such tables. SentencePiece's leave the dotted capital I as it is.
            steps += [_replace("İ", _DOTTED_I), {"type": "Lowercase"}, _replace(_DOTTED_I, "İ")]
        steps += symbols
    if spec.remove_extra_whitespaces:
        steps += [_replace("^ +| +$", "", is_regex=True), _replace(" {2,}", " ", is_regex=True)]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    return [*steps, _replace(" ", _SPACE)]


def _voiced_kana() -> list[dict[str, Any]]:
    """Return what joins a kana and its mark: ``tokenizers`` normalises them one by one, as those of half width."""
    pairs = [chr(kana) + mark for kana in range(0x3041, 0x30FF) for mark in "\u3099\u309a"]
    joined = {pair: unicodedata.normalize("NFC", pair) for pair in pairs}
    return [_replace(pair, one) for pair, one in joined.items() if len(one) == 1]


def _decoders(replacements: dict[str, str]) -> list[dict[str, Any]]:
    return [
        _replace(" ", ""),
        *(_replace(private, symbol) for symbol, private in replacements.items()),
        _replace(_SPACE, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]


def _replace(pattern: str, content: str, is_regex: bool = False) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex" if is_regex else "String": pattern}, "content": content}


def _model(proto: Any, names: Sequence[str], replacements: dict[str, str]) -> dict[str, Any]:
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == ModelProto.SentencePiece.NORMAL}
    has_bytes = any(piece.type == ModelProto.SentencePiece.BYTE for piece in proto.pieces)
    if proto.trainer_spec.model_type == TrainerSpec.UNIGRAM:
        # A symbol's score is of no weight: no other piece has its character.
        scores = normal | dict.fromkeys(replacements.values(), 0.0)
        never = _NEVER * min(normal.values(), default=-1.0)
        vocab = [[name, scores.get(name, never)] for name in names]
        return {"type": "Unigram", "unk_id": UNK_ID, "vocab": vocab, "byte_fallback": has_bytes}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": SPECIALS[UNK_ID],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,  # SentencePiece has one <unk> for unknown characters in a row
        "byte_fallback": has_bytes,
        "ignore_merges": False,
        "vocab": {name: i for i, name in enumerate(names)},
        "merges": _merges(normal),
    }


def _merges(scores: dict[str, float]) -> list[list[str]]:
    """Return the pairs that SentencePiece would join, those of the best pieces first.

    It keeps no pairs: any two pieces join that make a third.
    """
    pairs = []
    for piece in sorted(scores, key=scores.__getitem__, reverse=True):
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        pairs += [[left, right] for left, right in halves if left in scores and right in scores]
    return pairs
