"""A vocabulary that grows: the pieces of a trained model, and behind them tags, symbols and pieces of other text.

What is there keeps its id and is used as before. A unigram model takes the best pieces of another one, trained on the
new text. A BPE model goes on with its merges behind its own (as Purason et al. 2025, "Teaching Old Tokenizers New
Words"): pieces of a model that is trained elsewhere would often have no merges that lead to them.
"""

from __future__ import annotations

import functools
import io
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import sentencepiece as spm

from transformer_mt.config.sections import TokenizerConfig
from transformer_mt.errors import InputError
from transformer_mt.text.scripts import script_of
from transformer_mt.text.sentencepiece_file import Piece
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.tokenizer_training import check_symbols, sample_lines, train_tokenizer
from transformer_mt.text.vocabulary import SPECIALS, is_language_tag
from transformer_mt.text.words import SPACE, characters

_FIRST_PRIVATE = 0xF0000  # of two planes of characters that no text has

Lines = Callable[[Sequence[int]], Iterable[str]]  # the text of the source (0), the target (1), or both


def grown(initial: Tokenizers, settings: TokenizerConfig, tags: Collection[str], lines: Lines, seed: int) -> Tokenizers:
    """Return a model's tokenizers with what they lack of some tags, of ``settings.user_symbols`` and, of the text, of
    ``settings.add_pieces`` pieces a vocabulary.

    Raises:
        InputError: a tag or a symbol that has another meaning there, or a kind of model that takes no pieces.
    """
    check_symbols(settings)
    tokenizers = initial.with_tags(tags)
    if doubled := sorted({*settings.user_symbols} & {*tokenizers.src.tags}):
        raise InputError(f"tokenizer.user_symbols {', '.join(doubled)}: is a tag of sources; remove it there")
    sides = [(tokenizers.src, (0, 1))] if initial.is_shared else [(tokenizers.src, (0,)), (tokenizers.tgt, (1,))]
    larger = []
    for tokenizer, numbers in sides:
        one = tokenizer.with_symbols(settings.user_symbols)
        if settings.add_pieces:
            one = one.with_pieces(_learned(one, lines(numbers), settings, seed))
        larger.append(one)
    src, tgt = larger[0], larger[-1]
    if not initial.is_shared and initial.src.table == initial.tgt.table:  # two models that share the rows of one table
        table = dict(src.table)
        for name in tgt.table:
            table.setdefault(name, len(table))
        src, tgt = Tokenizer(src.model, table, src.tags), Tokenizer(tgt.model, table, tgt.tags)
    return Tokenizers(src, tgt)


def origins(old: Tokenizer, new: Tokenizer, tags: Collection[str]) -> list[list[int]]:
    """Return for each new id, in their order, the old ids whose rows it starts with the mean of.

    They are what the text of a piece was cut into before; for a tag the tags of its kind, languages or domains, and
    where there are none, all but the special symbols.
    """
    inside = old.without_prefix()
    everything = [*range(len(SPECIALS), old.vocab_size)]
    found = []
    for name in sorted(new.table, key=new.table.__getitem__)[old.vocab_size :]:
        if name in tags:
            ids = [old.table[tag] for tag in old.tags if is_language_tag(tag) == is_language_tag(name)]
        else:
            [ids] = inside.encode([name])
        found.append(ids or everything)
    return found


def _learned(tokenizer: Tokenizer, lines: Iterable[str], settings: TokenizerConfig, seed: int) -> list[Piece]:
    """Return at most ``add_pieces`` pieces that the text is worth, the most useful first."""
    kind, pieces = tokenizer.pieces()
    if kind not in ("unigram", "bpe"):
        raise InputError(
            f"tokenizer.add_pieces: unigram and BPE models take further pieces, this is a {kind} model; remove it"
        )
    learn = _of_unigram if kind == "unigram" else _of_bpe
    # A table that two models share may have pieces that this one lacks.
    own = {piece.text for piece in pieces if not piece.is_normal or piece.text in tokenizer.table}
    taken = {*own, *tokenizer.tags, *SPECIALS}
    new = (piece for piece in learn(tokenizer, lines, settings, seed) if piece.text not in taken)
    return [*itertools.islice({piece.text: piece for piece in new}.values(), settings.add_pieces)]


def _of_unigram(tokenizer: Tokenizer, lines: Iterable[str], settings: TokenizerConfig, seed: int) -> Iterator[Piece]:
    """Yield the pieces of another unigram model, the likeliest first, which win over what they are cut into now."""
    size = tokenizer.vocab_size + settings.add_pieces
    like_it = {"type": "unigram", "vocab_size": size, "byte_fallback": False}
    other, _ = train_tokenizer(lines, settings.model_copy(update=like_it), seed)
    own = (piece for piece in tokenizer.pieces()[1] if piece.is_normal and piece.text in tokenizer.table)
    scores = {piece.text: piece.score for piece in own}
    inside = tokenizer.without_prefix()
    for piece in sorted((one for one in other.pieces()[1] if one.is_normal), key=lambda one: -one.score):
        cut = inside.encode_pieces(piece.text)
        is_known = all(part in scores for part in cut)  # else it has characters that are unknown, or spelled as bytes
        if not is_known or piece.score > sum(scores[part] for part in cut):
            yield piece


def _of_bpe(tokenizer: Tokenizer, lines: Iterable[str], settings: TokenizerConfig, seed: int) -> Iterator[Piece]:
    """Yield the characters that are missing, as far as ``character_coverage`` asks for them, then further merges."""
    normal = {piece.text: piece.score for piece in tokenizer.pieces()[1] if piece.is_normal}
    sample = sample_lines(lines, settings.max_lines, seed)
    words = Counter(word for line in sample.lines for word in _words(tokenizer, line, normal.keys()))
    counts: Counter[str] = Counter()
    for word, number in words.items():
        for character in "".join(word):
            counts[character] += number
    missing = Counter({one: number for one, number in counts.items() if one not in normal})
    covered, score = counts.total() - missing.total(), min(normal.values(), default=0.0)
    for character, number in missing.most_common(settings.add_pieces):
        if covered >= settings.character_coverage * counts.total():
            break
        covered += number
        normal[character] = score = score - 1
        yield Piece(character, score, is_normal=True)
    usable = {word: number for word, number in words.items() if all(part in normal for part in word)}
    for text in _merges(usable, settings.add_pieces):
        score -= 1
        yield Piece(text, score, is_normal=True)


def _words(tokenizer: Tokenizer, line: str, normal: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield the stretches of a line that merges may join, in pieces and in characters that are none.

    They end before a space, between letters of two scripts, digits and other characters, and at symbols.
    """
    word: list[str] = []
    for text, _ in characters(tokenizer.encode_pieces(line)):
        # What is no piece is a character that was spelled as bytes, or several that were unknown; or else a symbol.
        is_symbol = text in tokenizer.table and text not in normal
        for part in [text] if text in normal or is_symbol else text:
            kinds = {_kind(word[-1][-1]), _kind(part[0])} - {None} if word else ()
            if word and (is_symbol or part.startswith(SPACE) or len(kinds) > 1):
                yield tuple(word)
                word = []
            if not is_symbol:
                word.append(part)
    if word:
        yield tuple(word)


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str | None:
    """Return what a character has in common with those it may be joined to; None: any, as accents and spaces are."""
    category = unicodedata.category(character)[0]
    if character == SPACE or category == "M":
        return None
    return script_of(character) if category == "L" else category


def _merges(words: dict[tuple[str, ...], int], count: int) -> Iterator[str]:
    """Yield what is joined, in the order in which BPE does it, by SentencePiece: a piece is a character to it."""
    names = {part: chr(_FIRST_PRIVATE + i) for i, part in enumerate({part: None for word in words for part in word})}
    if max(map(len, words), default=1) == 1:  # nothing to join
        return
    parts = {name: part for part, name in names.items()}
    spm.set_min_log_level(2)
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=(f"{''.join(names[part] for part in word)}\t{number}" for word, number in words.items()),
        input_format="tsv",
        model_writer=out,
        model_type="bpe",
        vocab_size=len(SPECIALS) - 1 + len(names) + count,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        add_dummy_prefix=False,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
    )
    for piece in Tokenizer(out.getvalue()).pieces()[1]:
        if piece.is_normal and len(piece.text) > 1:
            yield "".join(parts[name] for name in piece.text)
