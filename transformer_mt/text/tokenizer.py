"""SentencePiece tokenizers: train, load, save, encode, decode, fingerprint.

SentencePiece only segments. The numbers that the model sees come from a table piece -> id of our own (``vocab.json``),
which starts with ``<pad> <unk> <s> </s>`` = 0-3, so that a vocabulary can be imported or extended without touching
the segmentation.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import sentencepiece as spm

from transformer_mt.errors import InputError
from transformer_mt.system.compression import READ_ERRORS, open_binary
from transformer_mt.system.whole_files import read_plain
from transformer_mt.text import sentencepiece_file
from transformer_mt.text.sentencepiece_file import Piece
from transformer_mt.text.vocabulary import SPECIALS, UNK_ID, domain_tag, is_language_tag, language_tag

# Of a file in a model directory: more than a million pieces take.
_MAX_FILE_BYTES = 1 << 26


class Tokenizer:
    """Text to ids and back, for one language or for two that share a vocabulary. Ids here exclude <s> and </s>."""

    def __init__(self, model: bytes, table: dict[str, int] | None = None, tags: Collection[str] | None = None) -> None:
        """Check that model, table and tags belong together.

        Args:
            model: a SentencePiece model, as its file has it.
            table: piece -> id; by default our specials, then the model's pieces in their order.
            tags: the symbols of the table that say a source's domain or the language wanted, which no text becomes; by
                default, as in models of 0.1.0, those that SentencePiece does not have.

        Raises:
            InputError: no SentencePiece model, no table, or a tag that the table lacks.
        """
        if not model:  # SentencePiece takes it for no model yet
            raise InputError("not a SentencePiece model (empty)")
        try:
            self._processor = spm.SentencePieceProcessor(model_proto=model)
        except RuntimeError:  # whose words are about SentencePiece's own source code
            raise InputError("not a SentencePiece model") from None
        self.model = model
        self.table = _table_of(self._processor) if table is None else table
        ids = list(self.table.values()) if isinstance(self.table, dict) else []
        if not ids or not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
            raise InputError("not a table of pieces with the ids from 0 to their number, each once")
        self.vocab_size = len(ids)
        pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        # Segmentation's ids -> ours, and back. Pieces outside the table are unknown; ids outside SentencePiece
        # (tags, unused rows) have no text.
        self._to_table = np.array([self.table.get(piece, UNK_ID) for piece in pieces], dtype=np.int64)
        self._from_table = np.full(self.vocab_size, -1, dtype=np.int64)
        for i, piece in enumerate(pieces):
            if piece in self.table and not self._processor.is_control(i):
                self._from_table[self.table[piece]] = i
        self._piece_of = {i: piece for piece, i in self.table.items()}
        self._is_identity = bool(np.array_equal(self._to_table, np.arange(len(pieces))))
        symbols = self.table.keys() - {*pieces, *SPECIALS}
        self.tags = sorted(symbols if tags is None else {*tags})
        if unknown := sorted({*self.tags} - symbols):
            raise InputError(f"the tag {unknown[0]} is not in vocab.json, or is a piece of text")

    def with_tags(self, tags: Collection[str]) -> Tokenizer:
        """The same with further tags, behind all other ids.

        Raises:
            InputError: a tag is a piece already.
        """
        table = dict(self.table)
        for tag in tags:
            if tag in table and tag not in self.tags:
                raise InputError(
                    f"the tag {tag} is a piece of the tokenizer already; choose another tag, or a tokenizer without it"
                )
            table.setdefault(tag, len(table))
        return self if len(table) == len(self.table) else Tokenizer(self.model, table, {*self.tags, *tags})

    def with_pieces(self, pieces: Sequence[Piece]) -> Tokenizer:
        """The same with further pieces of text, behind all other ids; what SentencePiece has gets an id only."""
        present = {self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())}
        table, model = dict(self.table), self.model
        for piece in pieces:
            table.setdefault(piece.text, len(table))
            if piece.text not in present:
                model += sentencepiece_file.written(piece)
        return Tokenizer(model, table, self.tags)

    def with_symbols(self, symbols: Sequence[str]) -> Tokenizer:
        """The same with further symbols of the user, which text never splits; pieces among them keep their ids.

        Raises:
            InputError: a symbol that SentencePiece has for something else, or would not find in its longer pieces.
        """
        processor, model = self._processor, self.model
        numbers = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
        kind, pieces = self.pieces()
        ordinary = {piece.text for piece in pieces if piece.is_normal}
        for symbol in symbols:
            number = numbers.get(symbol)
            if number is not None and (
                processor.is_control(number) or processor.is_unknown(number) or processor.is_byte(number)
            ):
                raise InputError(
                    f"tokenizer.user_symbols {symbol}: has a meaning of its own in the vocabulary; remove it"
                )
            if kind == "unigram" and (longer := [text for text in ordinary if symbol in text and symbol != text]):
                raise InputError(
                    f"tokenizer.user_symbols {symbol}: the unigram model has longer pieces with it, as {min(longer)}, "
                    "and would not split them; choose another symbol"
                )
            if symbol in ordinary or (number is not None and processor.is_unused(number)):
                model = sentencepiece_file.with_symbol(model, symbol)
        new = [Piece(symbol, 0.0, is_normal=False) for symbol in symbols]
        return Tokenizer(model, self.table, self.tags).with_pieces(new)

    def without_prefix(self) -> Tokenizer:
        """The same for what stands inside of a line: no space is put before a text, and none is taken off."""
        return Tokenizer(self.model + sentencepiece_file.WITHOUT_PREFIX, self.table, self.tags)

    def encode(self, texts: Sequence[str], num_threads: int = 1) -> list[list[int]]:
        """Piece ids of each text; an empty text has none."""
        encoded: list[list[int]] = self._processor.encode(list(texts), num_threads=num_threads)
        return encoded if self._is_identity else [self._to_table[ids].tolist() for ids in encoded]

    def encode_pieces(self, text: str) -> list[str]:
        pieces: list[str] = self._processor.encode(text, out_type=str)
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, on one line whatever bytes the pieces spell."""
        return _on_one_line(self._processor.decode(self._known(ids)))

    def _known(self, ids: Sequence[int]) -> list[int]:
        """SentencePiece's ids of those that it has."""
        return [int(i) for i in self._from_table[np.asarray(ids, dtype=np.int64)] if i >= 0]

    def starts(self, text: str) -> list[int]:
        """Where each piece of a text begins in it, in characters; white space before a word is the piece's."""
        return sentencepiece_file.starts(text, self._processor.encode(text, out_type="serialized_proto"))

    def starts_decoded(self, ids: Sequence[int]) -> list[int]:
        """Where each id's piece begins in the text that `decode` makes of all, in characters."""
        is_known = self._from_table[np.asarray(ids, dtype=np.int64)] >= 0
        message = self._processor.decode(self._known(ids), out_type="serialized_proto")
        starts = [*sentencepiece_file.starts(self.decode(ids), message), 0]
        numbers: list[int] = (np.cumsum(is_known) - is_known).tolist()
        return [starts[i] for i in numbers]  # an id without text is where the next one is

    def pieces_of(self, ids: Sequence[int]) -> list[str]:
        return [self._piece_of[i] for i in ids]

    def decode_pieces(self, pieces: Sequence[str]) -> str:
        return _on_one_line(self._processor.decode(list(pieces)))

    def specials_of_text(self) -> list[str]:
        """Our special symbols that a text may become, <unk> for what is unknown left aside."""
        processor = self._processor
        names = {processor.id_to_piece(i): i for i in range(processor.get_piece_size()) if not processor.is_control(i)}
        return [one for one in SPECIALS if one in names and not (one == "<unk>" and processor.is_unknown(names[one]))]

    def pieces(self) -> tuple[str, list[Piece]]:
        """The kind of the model (unigram, bpe, word or char) and its pieces in SentencePiece's order."""
        return sentencepiece_file.read(self.model)

    @property
    def fingerprint(self) -> str:
        table = json.dumps(self.table, ensure_ascii=False, sort_keys=True).encode()
        return hashlib.sha256(self.model + table).hexdigest()


class Tokenizers:
    """The source's and the target's tokenizer: one object twice where the vocabulary is shared."""

    def __init__(self, src: Tokenizer, tgt: Tokenizer) -> None:
        self.src, self.tgt = src, tgt
        self.is_shared = src is tgt
        self.fingerprint = hashlib.sha256((src.fingerprint + tgt.fingerprint).encode()).hexdigest()[:16]

    def with_tags(self, tags: Collection[str]) -> Self:
        """The same with further tags for sources."""
        src = self.src.with_tags(tags)
        return type(self)(src, src if self.is_shared else self.tgt)

    @property
    def has_languages(self) -> bool:
        """Whether sources say which of several languages is wanted."""
        return any(is_language_tag(one) for one in self.src.tags)

    def tag_ids(self, tgt_lang: str, tag: str | None) -> list[int]:
        """What a source starts with: the language wanted, where the vocabulary has several, and the domain, if any.

        Raises:
            InputError: there is no such language or domain.
        """
        names = [language_tag(tgt_lang)] if self.has_languages else []
        if tag is not None:
            names.append(domain_tag(tag))
        for name in names:
            if name not in self.src.tags:
                known = [one for one in self.src.tags if is_language_tag(one) == is_language_tag(name)]
                raise InputError(f"the vocabulary has no tag {name}; it has {', '.join(known) or 'none'}")
        return [self.src.table[name] for name in names]

    def files(self) -> dict[str, bytes]:
        """File name -> content, as every model directory holds them."""

        def table(tokenizer: Tokenizer) -> bytes:
            return (json.dumps(tokenizer.table, ensure_ascii=False, indent=0) + "\n").encode()

        if self.is_shared:
            return {"tokenizer.model": self.src.model, "vocab.json": table(self.src)}
        return {
            "source.model": self.src.model,
            "target.model": self.tgt.model,
            "vocab.json": table(self.src),
            "target_vocab.json": table(self.tgt),
        }

    @classmethod
    def from_files(cls, files: dict[str, bytes], tags: Collection[str] | None = None) -> Self:
        """From the content of such files, and the tags that sources may start with, as `Tokenizer` takes them."""
        is_shared = "tokenizer.model" in files
        model = files["tokenizer.model" if is_shared else "source.model"]
        src = Tokenizer(model, json.loads(files["vocab.json"]), tags)
        if is_shared:
            return cls(src, src)
        tgt_tags = None if tags is None else ()
        return cls(src, Tokenizer(files["target.model"], json.loads(files["target_vocab.json"]), tgt_tags))

    @classmethod
    def load(cls, directory: Path, tags: Collection[str] | None) -> Self:
        """From a model directory, whose manifest states the tags (None: it is one of 0.1.0).

        Raises:
            InputError: a file is missing or not what its name says, or a tag is not in the table.
        """
        names: tuple[str, ...] = ("tokenizer.model", "vocab.json")
        if not os.path.lexists(directory / "tokenizer.model"):
            names = ("source.model", "target.model", "vocab.json", "target_vocab.json")
        try:
            return cls.from_files({name: read_plain(directory / name, _MAX_FILE_BYTES) for name in names}, tags)
        except OSError as error:
            raise InputError(
                f"{error.filename}: cannot be read ({error.strerror}); a model directory needs it"
            ) from None
        except (InputError, ValueError, RecursionError) as error:
            raise InputError(f"{directory}: its tokenizer is damaged ({error}); copy the model again") from None


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a bare SentencePiece model file, with the table that its order gives.

    Raises:
        InputError: it cannot be read, is no such model, or makes our special symbols of text.
    """
    try:
        with open_binary(path) as file:
            tokenizer = Tokenizer(file.read())
    except READ_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}: cannot be read ({reason}); name a SentencePiece model file") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; name one, as tmt tokenizer writes it") from None
    if special := tokenizer.specials_of_text():
        raise InputError(
            f"{path}: it makes {' and '.join(special)} of text, which would be read as the end of a sentence or the "
            "like; train it again without these among its symbols"
        )
    return tokenizer


def _table_of(processor: spm.SentencePieceProcessor) -> dict[str, int]:
    """Our specials first, then SentencePiece's pieces in their order."""
    table = {piece: i for i, piece in enumerate(SPECIALS)}
    for i in range(processor.get_piece_size()):
        if not processor.is_control(i) and not processor.is_unknown(i):
            table.setdefault(processor.id_to_piece(i), len(table))
    return table


def _on_one_line(text: str) -> str:
    """Bytes are pieces too, so decoded text may hold line ends."""
    return text.replace("\r", " ").replace("\n", " ")
