"""Text in, translations out: split, tokenise, sort by length, batch, search, restore the order.

`Translator` is what `tmt translate`, validation and other programs use. Line i of the result belongs to line i of the
input; a blank line stays blank; a translation does not depend on the lines around it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from transformer_mt.checkpoints.exports import is_export
from transformer_mt.config.loading import override_search
from transformer_mt.config.sections import SearchConfig
from transformer_mt.decoding.arguments import (
    LONGEST_SCORED,
    check_length,
    check_lengths,
    check_unicode,
    checked_list,
    checked_pairs,
    checked_prefixes,
    checked_texts,
    line_pairs,
)
from transformer_mt.decoding.explanations import Candidate, Explanation, explained, find_candidates, prefix_ids
from transformer_mt.decoding.line_cutting import Line, LineCutter
from transformer_mt.decoding.searcher import Found, Loaded, Pending, Searcher, SourcePart, most_tokens
from transformer_mt.decoding.translations import ScoredTokens, Translation, joined
from transformer_mt.decoding.word_links import source_words
from transformer_mt.errors import InputError
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.system.console import Tell, tell_nobody
from transformer_mt.system.processes import ONE_AT_A_TIME
from transformer_mt.text.tokenizer import Tokenizer, Tokenizers
from transformer_mt.text.vocabulary import EOS_ID

if TYPE_CHECKING:
    from transformer_mt.decoding.attention_maps import AttentionMaps
    from transformer_mt.model.transformer import EncoderDecoder

# What is read, sorted and translated together, so that memory stays bounded for any input: so many lines, or fewer
# where they have more characters than this.
CHUNK_LINES, CHUNK_CHARACTERS = 4096, 1 << 22


class Translator:
    """A model, or an ensemble of several, ready to translate.

        with Translator.load("runs/quickstart") as translator:
            print(translator.translate(["A dog runs."])[0].text)

    Any number of threads may use one. They take turns, batch by batch. After a fork, parent and child each have
    processes of their own; a stream goes on only in the process that began it.

    A string may have line ends in it, and its translation has the same ones. Each of its lines is translated by itself.

    ``longest_src_tokens``: the longest source seen in training; longer lines are split, with a warning.
    """

    tgt_lang: str | None = None  # of the translations; known of a model that was loaded
    directions: Sequence[tuple[str, str]] = ()  # that it was trained on; known of a model that was loaded
    tokenize: str | None = None  # the model's own tokenisation for BLEU of that language (`eval.tokenize`)

    def __init__(
        self,
        searcher: Searcher,
        tokenizers: Tokenizers,
        config: SearchConfig,
        longest_src_tokens: int,
        warn: Tell = tell_nobody,
        tags: Sequence[int] = (),
    ) -> None:
        """``tags``: the ids that every source starts with."""
        self._searcher = searcher
        self._tags = tags
        self._tokenizers = tokenizers
        self._config = config
        self.precision = config.precision
        self._warn = warn
        self._max_positions = searcher.max_positions
        self._max_source_tokens = config.max_source_tokens or longest_src_tokens
        if self._max_positions is not None:
            self._max_source_tokens = min(self._max_source_tokens, self._max_positions)
        self._cutter = LineCutter(tokenizers.src, self._max_source_tokens, warn)

    @classmethod
    def of_models(
        cls,
        models: Sequence[EncoderDecoder],
        tokenizers: Tokenizers,
        config: SearchConfig,
        longest_src_tokens: int,
        warn: Tell = tell_nobody,
        tags: Sequence[int] = (),
    ) -> Self:
        """Of a model in memory, or several that translate together, where they are."""
        from transformer_mt.decoding.model_searcher import ModelSearcher

        searcher = ModelSearcher(models, tokenizers, config, warn)
        return cls(searcher, tokenizers, config, longest_src_tokens, warn, tags)

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Iterable[str] = (),
        warn: Tell = tell_nobody,
        ensemble: Sequence[str | Path] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load MODEL onto the GPU where there is one: ours, or an export for CTranslate2, which does without PyTorch.

        Args:
            overrides: ``search.key=value``, changes to the search settings that it was trained with.
            warn: called with one line about each line of input that is too long.
            ensemble: further models with the same vocabulary, that translate together with the first.
            settings: values of search keys, as ``{"beam_size": 1}``; overrides come after them.

        Raises:
            InputError: not a model, a damaged one, another vocabulary, or an override that cannot be.
        """
        overrides, ensemble = list(checked_texts("overrides", overrides)), list(checked_list("ensemble", ensemble))
        loaded = _load(path, ensemble)
        search_config = override_search(loaded.config.search, overrides, settings)
        own = loaded.config.data.tgt_lang
        wanted = search_config.tgt_lang or own
        if wanted != own and not loaded.tokenizers.has_languages:
            raise InputError(
                f"search.tgt_lang {wanted}: {loaded.path} translates into {own} only; choose another model"
            )
        tags = loaded.tokenizers.tag_ids(wanted, search_config.tag)
        searcher = loaded.searcher(search_config, warn)
        translator = cls(searcher, loaded.tokenizers, search_config, loaded.longest_src_tokens, warn, tags)
        translator.tgt_lang, translator.tokenize = wanted, loaded.config.eval.tokenize.get(wanted)
        translator.directions = loaded.config.data.directions()
        return translator

    def tags_into(self, tgt_lang: str) -> list[int]:
        """Return the ids that sources start with for translations into one of the model's languages.

        Raises:
            InputError: it has several, and not this one.
        """
        return self._tokenizers.tag_ids(tgt_lang, self._config.tag)

    @property
    def num_at_once(self) -> int:
        """How many threads may translate at the same time; more take turns."""
        return self._searcher.num_at_once

    @property
    def is_pytorch(self) -> bool:
        """Whether PyTorch computes, for which each thread that asks has threads of its own."""
        return self._searcher.is_pytorch

    @property
    def can_align(self) -> bool:
        """Whether `translate` can add word alignments."""
        return self._is_alignable(self._most_tokens_at_once)

    @property
    def tells_attention(self) -> bool:
        """Whether `attention_maps` has any to tell, of sentences that are not too long."""
        return self._is_alignable(1)

    def _is_alignable(self, longest: int) -> bool:
        try:
            self._searcher.check_alignable(longest)
        except InputError:
            return False
        return True

    @property
    def _most_tokens_at_once(self) -> int:
        """Those that a side of what is searched as one may have."""
        return self._max_source_tokens + self._config.max_extra_tokens

    def translate(
        self,
        lines: Sequence[str],
        prefixes: Sequence[str] | None = None,
        tags: Sequence[int] | None = None,
        align: bool = False,
        log_probs: bool = False,
        n_best: int | None = None,
    ) -> list[Translation]:
        """Translate lines, in this process unless `search.workers` says otherwise; blank ones come back blank.

        Args:
            prefixes: what each translation starts with; "" for nothing.
            tags: the ids that these sources start with; the translator's where there are none.
            align: add word alignments, from the attention of the first model (`word_alignments`).
            log_probs: add the log-probability of each token, by another pass of the first model.
            n_best: how many translations of each line, where not `search.n_best`; at most the beam has them. Of
                samples there are always as many as `search.n_best` says.
        """
        tags = self._tags if tags is None else tags
        return list(
            self._stream(
                checked_texts("lines", lines),
                checked_prefixes(prefixes),
                tags,
                on_all_cores=False,
                align=align,
                log_probs=log_probs,
                n_best=n_best,
            )
        )

    def stream(
        self,
        lines: Iterable[str],
        prefixes: Iterable[str] | None = None,
        chunk_lines: int = CHUNK_LINES,
        align: bool = False,
        log_probs: bool = False,
    ) -> Iterator[Translation]:
        """Translate any number of lines in bounded memory, in order, on all cores where there is enough to do.

        The first translation comes when one chunk of lines is read, or two where several processes translate. With
        ``chunk_lines`` of 1, each line is answered before the next one is read. ``align`` and
        ``log_probs`` add what they do in `translate`.
        """
        return self._stream(
            checked_texts("lines", lines),
            checked_prefixes(prefixes),
            self._tags,
            on_all_cores=True,
            chunk_lines=chunk_lines,
            align=align,
            log_probs=log_probs,
        )

    def translate_ids(self, sources: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
        """Translate source ids, each with its `</s>` and none of them empty, on all cores, into target ids."""
        parts = [SourcePart(list(source), []) for source in sources]
        asked = self._searcher.begin(len(parts), on_all_cores=True).submit(parts)
        try:
            return [found.hypotheses for found in asked.result()]
        finally:
            asked.drop()

    def close(self) -> None:
        """End the processes that translate, if there are any; they are started again when they are needed."""
        self._searcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a Translator cannot be copied or pickled; load the model where it is needed, or use one in several threads"
        )

    def score(self, sources: Sequence[str], targets: Sequence[str], first_line: int = 1) -> list[float | None]:
        """The log-probability of each target given its source: the sum of what `score_tokens` returns."""
        scored = self.score_tokens(sources, targets, first_line)
        return [None if one is None else sum(one.log_probs) for one in scored]

    def score_tokens(
        self, sources: Sequence[str], targets: Sequence[str], first_line: int = 1
    ) -> list[ScoredTokens | None]:
        """The log-probability of each token of a target given its source; None where the source is blank.

        By the first model where there are several, in float32 whatever `search.precision` is (of an export, in its
        own). ``first_line`` is the number of the first line, for warnings and refusals. A pair is scored as a whole,
        also where the source is so long that `translate` would split it, whose score is then another: a warning says
        so. Of strings with line ends in them each line is scored by itself, as `translate` translates it, one after the
        other. Memory is bounded: it grows with the square of a side, of at most 4,096 tokens.

        Raises:
            InputError: a side is longer than that, or than the positions that the model has learned; there are not as
                many targets as sources, or not as many lines in both; a blank line's target is none.
        """
        sources, targets = list(checked_texts("sources", sources)), list(checked_texts("targets", targets))
        if len(sources) != len(targets):
            raise InputError(f"{len(sources)} sources, {len(targets)} targets: give one target for each source")
        texts = list(zip(sources, targets, strict=True))
        pairs = [(i, *pair) for i, text in enumerate(texts) for pair in line_pairs(*text, first_line + i)]
        src, tgt = self._scored_ids([source for _, source, _ in pairs], [target for _, _, target in pairs])
        numbers = [first_line + i for i, _, _ in pairs]
        check_lengths(src, tgt, numbers, self._max_positions)
        if long := sorted({n for n, ids in zip(numbers, src, strict=True) if len(ids) > self._max_source_tokens}):
            self._warn(
                f"warning: {len(long)} of lines {first_line} to {first_line + len(texts) - 1} have more than "
                f"{self._max_source_tokens} source tokens (search.max_source_tokens, or the longest trained on), the "
                f"first is line {long[0]}: scored as a whole, where tmt translate splits them"
            )
        scored: list[ScoredTokens | None] = [None] * len(texts)
        for (i, _, _), ids, log_probs in zip(pairs, tgt, self._searcher.log_probs(src, tgt), strict=True):
            if log_probs is not None:
                before = scored[i] or ScoredTokens([], [])
                scored[i] = ScoredTokens(
                    before.tokens + self._tokenizers.tgt.pieces_of(ids), before.log_probs + log_probs
                )
        return scored

    def can_score(self, sources: Sequence[str], targets: Sequence[str]) -> list[bool]:
        """Whether `score_tokens` takes each pair of lines: neither side is too long."""
        most = LONGEST_SCORED if self._max_positions is None else min(LONGEST_SCORED, self._max_positions)
        src, tgt = self._scored_ids(sources, targets)
        return [max(len(one), len(other)) <= most for one, other in zip(src, tgt, strict=True)]

    def _scored_ids(self, sources: Sequence[str], targets: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        with ONE_AT_A_TIME:
            encoded = self._tokenizers.src.encode(sources)
            src = [[*self._tags, *ids, EOS_ID] if ids else [EOS_ID] for ids in encoded]
            return src, [[*ids, EOS_ID] for ids in self._tokenizers.tgt.encode(targets)]

    def attention_maps(
        self,
        source: str,
        target: str | None = None,
        tags: Sequence[int] | None = None,
        longest: int | None = None,
    ) -> AttentionMaps:
        """Return what the first model looks at in a sentence and its translation, the given one or that of `translate`.

        Args:
            tags: the ids that this source starts with; the translator's where there are none.
            longest: tokens that a side may have, with tags and </s>; 1,024 where nothing is said.

        Raises:
            InputError: a text that is blank or has several lines; a source that `translate` would split; a side that
                is longer than the positions that the model has learned, or than ``longest``.
        """
        src, tgt = self._sentence("source", source, self._tokenizers.src), None
        if target is not None:
            tgt = self._sentence("target", target, self._tokenizers.tgt)
        src = [*(self._tags if tags is None else tags), *src, EOS_ID]
        check_length("source", src, longest)
        if len(src) > self._max_source_tokens:
            raise InputError(
                f"source: {len(src)} tokens, translated in parts of at most {self._max_source_tokens}; give one of its "
                f"sentences, or set search.max_source_tokens={len(src)}"
            )
        if tgt is None:
            [found] = self._searcher.begin(1, on_all_cores=False).submit([SourcePart(src, [])]).result()
            tgt = found.hypotheses[0].ids
        tgt = [*tgt, EOS_ID]
        check_length("target", tgt, longest)
        return self._searcher.attention_maps(src, tgt)

    def explain(
        self,
        lines: Sequence[str],
        tags: Sequence[int] | None = None,
        prefix: Sequence[str] | None = None,
        n_best: int | None = None,
    ) -> list[Explanation]:
        """Translate lines as `translate` does, and return the translations token by token.

        Args:
            tags: the ids that these sources start with; the translator's where there are none.
            prefix: pieces that each translation starts with, of lines that are translated as a whole.
            n_best: as of `translate`.

        Raises:
            InputError: a prefix for a text in several parts, of what is no piece of a translation, or a too long one.
        """
        split, parts = self._parts_to_explain(lines, tags, prefix, 0)
        n_best = self.found_at_most(n_best)
        parts = [part._replace(n_best=n_best) for part in parts]
        found = self._searcher.begin(len(parts), on_all_cores=False).submit(parts).result()
        best = self._with_log_probs(parts, [of._replace(hypotheses=of.hypotheses[:1]) for of in found])
        with ONE_AT_A_TIME:
            explanations = []
            for line in split:
                whole = self._joined(line, parts, found, align=False, log_probs=False)
                texts = [one.text for one in whole.alternatives]
                explanations.append(explained(line, [best[i] for i in line.parts], texts, self._tokenizers.tgt))
            return explanations

    def candidates(
        self, lines: Sequence[str], prefix: Sequence[str], count: int, tags: Sequence[int] | None = None
    ) -> list[list[Candidate]]:
        """Return what might follow the first pieces of each line's translation; arguments are those of `explain`."""
        _, parts = self._parts_to_explain(lines, tags, prefix, 1)
        return [find_candidates(self._searcher, part, count, self._tokenizers.tgt) for part in parts]

    def found_at_most(self, n_best: int | None) -> int | None:
        """Return how many translations of a text are found where so many are asked for; None: as the search has it.

        Raises:
            InputError: fewer than one is asked for.
        """
        if n_best is not None and n_best < 1:
            raise InputError(f"n_best: 1 at least is needed, {n_best} was found")
        return None if n_best is None or self._config.sampling else min(n_best, self._config.beam_size)

    def _parts_to_explain(
        self, lines: Sequence[str], tags: Sequence[int] | None, prefix: Sequence[str] | None, num_more: int
    ) -> tuple[list[Line], list[SourcePart]]:
        """Cut lines into parts; where there is a prefix, so many tokens and </s> must have room behind it."""
        with ONE_AT_A_TIME:
            split, sources = self._cutter.cut(
                list(checked_texts("lines", lines)), self._tags if tags is None else tags, 1
            )
        if prefix is None:
            return split, [SourcePart(src, []) for src in sources]
        if (odd := next((len(line.parts) for line in split if len(line.parts) != 1), None)) is not None:
            raise InputError(
                f"a text of {odd} parts: a prefix, and what may follow it, is of a text that is translated as a whole; "
                "give one of its parts"
            )
        most = [most_tokens(src, self._config, self._max_positions) - num_more - 1 for src in sources]
        return split, [
            SourcePart(src, prefix_ids(prefix, self._tokenizers.tgt, room))
            for src, room in zip(sources, most, strict=True)
        ]

    def _sentence(self, what: str, text: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of a text that is one sentence."""
        text = text.strip()
        check_unicode(what, text)
        with ONE_AT_A_TIME:
            [ids] = tokenizer.encode([text])
        if not ids or "\n" in text:
            found = "several lines" if ids else "no text"
            raise InputError(f"{what}: {found}; give one sentence, in one line")
        return ids

    def _stream(
        self,
        lines: Iterable[str],
        prefixes: Iterable[str] | None,
        tags: Sequence[int],
        *,
        on_all_cores: bool,
        chunk_lines: int = CHUNK_LINES,
        align: bool,
        log_probs: bool,
        n_best: int | None = None,
    ) -> Iterator[Translation]:
        if align:
            self._searcher.check_alignable(self._most_tokens_at_once)
        n_best = self.found_at_most(n_best)
        failures: list[InputError] = []
        pairs = until_failure(
            zip(lines, itertools.repeat("")) if prefixes is None else checked_pairs(lines, prefixes), failures
        )
        first_line = 1
        chunk = take_chunk(pairs, chunk_lines)
        submit, most_ahead = self._searcher.begin(len(chunk), on_all_cores=on_all_cores)
        under_way: deque[tuple[list[Line], list[SourcePart], Pending]] = deque()
        try:
            while chunk or under_way:
                if chunk:
                    with ONE_AT_A_TIME:  # SentencePiece has threads of its own as well
                        split, sources = self._cutter.cut([line for line, _ in chunk], tags, first_line)
                        starts = {} if prefixes is None else self._start_ids(chunk, split, first_line, align=align)
                        words = self._source_words(split, len(tags)) if align else {}
                    parts = [SourcePart(ids, starts.get(i, []), words.get(i), n_best) for i, ids in enumerate(sources)]
                    under_way.append((split, parts, submit(parts)))
                    first_line += len(chunk)
                if not chunk or len(under_way) > most_ahead:
                    split, parts, asked = under_way[0]
                    results = asked.result()
                    under_way.popleft()
                    if log_probs:
                        results = self._with_log_probs(parts, results)
                    with ONE_AT_A_TIME:
                        translations = [
                            self._joined(line, parts, results, align=align, log_probs=log_probs) for line in split
                        ]
                    yield from translations
                chunk = take_chunk(pairs, chunk_lines)
            if failures:  # now that the lines before it are answered
                raise failures[0]
        finally:  # also when the caller wants no more
            for _, _, asked in under_way:
                asked.drop()

    def _start_ids(
        self, chunk: list[tuple[str, str]], split: list[Line], first_line: int, *, align: bool
    ) -> dict[int, list[int]]:
        """The ids that sources start with, by the sources' numbers: a line's first part has its prefix."""
        starts: dict[int, list[int]] = {}
        encoded = self._tokenizers.tgt.encode([prefix.strip() for _, prefix in chunk])
        for number, (line, ids) in enumerate(zip(split, encoded, strict=True), first_line):
            if self._max_positions is not None and len(ids) + 1 > self._max_positions:
                raise InputError(
                    f"line {number}: its prefix has {len(ids) + 1} tokens with </s>, the model has "
                    f"{self._max_positions} positions; shorten it"
                )
            if align and not self._is_alignable(len(ids) + 1):
                raise InputError(
                    f"line {number}: its prefix has {len(ids) + 1} tokens with </s>, too many to align; shorten it"
                )
            if line.parts:
                starts[line.parts[0]] = ids
        return starts

    def _source_words(self, split: list[Line], num_tags: int) -> dict[int, list[int]]:
        """The words that source ids belong to, by the sources' numbers."""
        words: dict[int, list[int]] = {}
        for line in split:
            if line.parts:
                words |= zip(
                    line.parts, source_words(line.text, line.split, self._tokenizers.src, num_tags), strict=True
                )
        return words

    def _with_log_probs(self, parts: list[SourcePart], found: list[Found]) -> list[Found]:
        pairs = [(part.src, [*h.ids, EOS_ID]) for part, of in zip(parts, found, strict=True) for h in of.hypotheses]
        of_all = iter(self._searcher.log_probs([src for src, _ in pairs], [tgt for _, tgt in pairs]))
        # A part that was searched has a source. Its </s> is no token of the translation.
        return [of._replace(log_probs=[(next(of_all) or [])[:-1] for _ in of.hypotheses]) for of in found]

    def _joined(
        self, line: Line, parts: Sequence[SourcePart], found: Sequence[Found], *, align: bool, log_probs: bool
    ) -> Translation:
        """Return the translation of a line, given all lines' parts and what was found for them."""
        own = [parts[i] for i in line.parts]
        return joined(
            line,
            own,
            [found[i] for i in line.parts],
            self._tokenizers.tgt,
            [self._searcher.most_tokens(part) for part in own],
            align=align,
            log_probs=log_probs,
        )


def _load(path: str | Path, ensemble: Sequence[str | Path]) -> Loaded:
    """Load MODEL. What each kind computes with is imported only where it is needed: PyTorch takes a second."""
    if is_export(Path(path)):
        from transformer_mt.decoding.ctranslate2_searcher import LoadedExport

        return LoadedExport(Path(path), ensemble)
    from transformer_mt.decoding.model_searcher import LoadedModels

    return LoadedModels(path, ensemble)


def until_failure(pairs: Iterable[tuple[str, str]], failures: list[InputError]) -> Iterator[tuple[str, str]]:
    """Yield pairs up to one that is refused, and put the refusal into ``failures``."""
    try:
        yield from pairs
    except InputError as failure:
        failures.append(failure)


def take_chunk(pairs: Iterator[tuple[str, str]], chunk_lines: int) -> list[tuple[str, str]]:
    """The next lines to be worked on together, each with what goes with it; none at the end."""
    chunk: list[tuple[str, str]] = []
    num_characters = 0
    for line, other in pairs:
        chunk.append((line, other))
        num_characters += len(line) + len(other)
        if len(chunk) >= chunk_lines or num_characters >= CHUNK_CHARACTERS:
            break
    return chunk
