"""SentencePiece's file, one protocol-buffer message: what its library does not tell or write.

It tells no piece of ordinary text from a symbol of the user, does not name the kind of a model, and adds no pieces to
one. Field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

_MODEL_PIECES, _MODEL_TRAINER = 1, 2
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_TRAINER_KIND = 3
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_NORMAL = _UNIGRAM = 1  # what stands where the field is left out
_AS_SYMBOL = b"\x18\x04"  # the type (3) of a symbol of the user (4)
# Normaliser (3): no space before a text (3), white space as it is (4). A field that comes again counts.
WITHOUT_PREFIX = b"\x1a\x04\x18\0\x20\0"
_TEXT_PIECES, _PIECE_BEGIN = 2, 4  # of sentencepiece.proto: a text in pieces


class Piece(NamedTuple):
    """A piece of a SentencePiece model as its file has it."""

    text: str
    score: float  # unigram: its log-probability; BPE: minus its place in the order of merges
    is_normal: bool  # ordinary text, not <unk>, a control symbol, a symbol of the user or a byte


def read(model: bytes) -> tuple[str, list[Piece]]:
    """Return the kind of a model (unigram, bpe, word or char) and its pieces in their order."""
    kind, pieces = _UNIGRAM, []
    for number, message in _fields(model):
        if number == _MODEL_PIECES:
            fields = dict(_fields(message))
            score = struct.unpack("<f", fields.get(_PIECE_SCORE, b"\0" * 4))[0]
            is_normal = fields.get(_PIECE_TYPE, _NORMAL) == _NORMAL
            pieces.append(Piece(fields[_PIECE_TEXT].decode("utf-8"), score, is_normal))
        elif number == _MODEL_TRAINER:
            kind = dict(_fields(message)).get(_TRAINER_KIND, _UNIGRAM)
    return _KINDS[kind], pieces


def written(piece: Piece) -> bytes:
    """Return a piece as the file has it: appended to a model, it is its last."""
    message = _field(_PIECE_TEXT, piece.text.encode("utf-8")) + b"\x15" + struct.pack("<f", piece.score)
    return _field(_MODEL_PIECES, message if piece.is_normal else message + _AS_SYMBOL)


def with_symbol(model: bytes, symbol: str) -> bytes:
    """Return a model in which one of its pieces is a symbol of the user."""
    for number, message in _fields(model):
        if number == _MODEL_PIECES and dict(_fields(message))[_PIECE_TEXT].decode("utf-8") == symbol:
            return model.replace(_field(number, message), _field(number, message + _AS_SYMBOL), 1)
    raise AssertionError(symbol)


def _field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol-buffer message with bytes in it."""
    size, length = bytearray(), len(content)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of the fields of a protocol-buffer message: an integer, or the bytes of anything else."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire_type = divmod(varint(), 8)
        if wire_type == 0:
            yield number, varint()
        else:
            size = {1: 8, 5: 4}.get(wire_type) or varint()
            yield number, message[at : at + size]
            at += size


def starts(text: str, message: bytes) -> list[int]:
    """Return where the pieces of a SentencePieceText message begin, which counts the bytes of its text."""
    data = text.encode("utf-8")
    pieces = [dict(_fields(piece)) for number, piece in _fields(message) if number == _TEXT_PIECES]
    return [len(data[: piece.get(_PIECE_BEGIN, 0)].decode("utf-8")) for piece in pieces]
