"""Lines of input as what is translated at once: most are short enough, a long one is cut into parts, and so is a text
with line ends in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformer_mt.decoding.arguments import LINE_END
from transformer_mt.system.console import Tell
from transformer_mt.text.sentences import CountTokens, Part, SplitLine, split_line
from transformer_mt.text.tokenizer import Tokenizer
from transformer_mt.text.vocabulary import EOS_ID


class Line(NamedTuple):
    """A line of input on its way: the parts that are translated by themselves, as numbers of a chunk's sources."""

    text: str
    split: SplitLine | None  # None: it is short enough
    parts: range


class LineCutter:
    """Cuts lines of more than ``max_source_tokens`` ids, tags and </s> included, with a warning each."""

    def __init__(self, tokenizer: Tokenizer, max_source_tokens: int, warn: Tell) -> None:
        self._tokenizer, self._max_source_tokens, self._warn = tokenizer, max_source_tokens, warn

    def cut(self, lines: Sequence[str], tags: Sequence[int], first_line: int) -> tuple[list[Line], list[list[int]]]:
        """Return what the lines are in parts, and the source ids of all parts, with tags and </s>."""
        tokenizer = self._tokenizer

        def num_tokens(texts: list[str]) -> list[int]:
            return [len(tags) + len(ids) + 1 for ids in tokenizer.encode(texts)]

        split: list[Line] = []
        sources: list[list[int]] = []
        for number, (line, ids) in enumerate(
            zip(lines, tokenizer.encode([line.strip() for line in lines]), strict=True), first_line
        ):
            own, part_ids = None, [ids] if ids else []
            if "\n" in line:
                own, part_ids = self._with_pieces(self._split_text(line, number, num_tokens))
            elif (length := len(tags) + len(ids) + 1) > self._max_source_tokens and ids:
                own, part_ids = self._with_pieces(self._split(line, length, number, num_tokens))
            split.append(Line(line, own, range(len(sources), len(sources) + len(part_ids))))
            sources += [[*tags, *part, EOS_ID] for part in part_ids]
        return split, sources

    def _with_pieces(self, split: SplitLine) -> tuple[SplitLine, list[list[int]]]:
        """A line's parts and their ids, without those that have none (of invisible characters, say): a model that is
        asked for a translation of nothing makes one up."""
        lead, parts, part_ids = split.lead, list[Part](), list[list[int]]()
        for part, ids in zip(split.parts, self._tokenizer.encode([part.text for part in split.parts]), strict=True):
            if ids:
                parts.append(part)
                part_ids.append(ids)
            elif parts:
                parts[-1] = Part(parts[-1].text, parts[-1].gap + part.gap)
            else:
                lead += part.gap
        return SplitLine(lead, parts), part_ids

    def _split(self, line: str, length: int, number: int, num_tokens: CountTokens) -> SplitLine:
        """A line of too many tokens in parts, with a warning."""
        own = split_line(line, num_tokens, self._max_source_tokens)
        self._warn(
            f"warning: line {number}: {length} source tokens, more than {self._max_source_tokens} "
            f"(search.max_source_tokens, or the longest trained on): translated in {len(own.parts)} parts"
        )
        return own

    def _split_text(self, text: str, number: int, num_tokens: CountTokens) -> SplitLine:
        """A text with line ends, as the parts of its lines: their line ends between them, nothing for blank ones."""
        lead, parts, start = "", list[Part](), 0
        ends = [(end.start(), end.end()) for end in LINE_END.finditer(text)]
        for end, after in (*ends, (len(text), len(text))):
            if line := text[start:end].strip():
                [length] = num_tokens([line])
                is_long = length > self._max_source_tokens
                parts += self._split(line, length, number, num_tokens).parts if is_long else [Part(line, "")]
            gap, start = text[end:after], after
            if parts:
                parts[-1] = Part(parts[-1].text, parts[-1].gap + gap)
            else:
                lead += gap
        return SplitLine(lead, parts)
