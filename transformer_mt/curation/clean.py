"""Cleaning a training corpus into files: what training would leave out for its text is left out once, and told."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformer_mt.checkpoints.exports import exported_directory
from transformer_mt.config.data_sections import CleanConfig, DataConfig
from transformer_mt.curation.common import format_table, named_sources, share, workspace
from transformer_mt.curation.files import (
    DATA_FILE,
    PairFiles,
    check_inputs,
    check_names,
    data_section,
    side_files,
    source_entry,
)
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.cleaning import check_rules
from transformer_mt.data.held_out import held_out_sides
from transformer_mt.data.pairs import Chunk, NamedSource, Places, find_duplicates, judge, read_chunks
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.processes import on_all_cores

if TYPE_CHECKING:
    from transformer_mt.decoding.translator import Translator


class _Cleaned(NamedTuple):
    """What became of a chunk: the lines that are left, each with its end, and what was left out.

    The text is joined where it was judged, on all cores: lists of pairs would take longer to be sent than to be made.
    """

    source: int
    src: str
    tgt: str
    places: list[int]  # of the pairs, where they are still to be scored
    report: CleanReport


def clean_corpus(data: DataConfig, output: Path, suffix: str) -> CleanReport:
    """Write the pairs of ``data.train`` that all rules of ``data.clean`` keep, token limits apart.

    ``output`` gets two files for each source, a report for readers and one for programs, and a section to paste into
    the configuration; whole, or not at all.

    Raises:
        InputError: a source that cannot be read, no pair left, or a directory that holds other files.
        RunError: the place cannot be written.
    """
    sources = named_sources(data, "train")
    names = [side_files(named.source.name or named.label, named.languages, suffix) for named in sources]
    check_names(names)
    check_inputs(sources, output)
    for named in sources:
        check_rules(data.clean, *named.languages)
    reports = [CleanReport() for _ in sources]
    counts: list[int] = []
    with exported_directory(output, {"made_by": "tmt data clean"}) as made, workspace(data) as directory:
        occurrences = find_duplicates(sources, data.clean.duplicates, directory)
        held_out = held_out_sides(data)

        def cleaned(chunk: Chunk) -> _Cleaned:
            report = CleanReport()
            places, kept = judge(chunk, sources[chunk.source], data.clean, occurrences, held_out, report)
            report.kept += len(kept)
            return _Cleaned(chunk.source, *_text_of(kept), places if data.clean.score_model else [], report)

        with PairFiles(made) as files, _scorers(data.clean, sources) as scorers:
            for found in on_all_cores(cleaned, read_chunks(sources, "cleaning", counts)):
                if scorers is not None:
                    found = _likely(found, scorers[found.source], data.clean)
                files.write(names[found.source], found.src, found.tgt)
                reports[found.source].merge(found.report)
        total = CleanReport()
        for report in reports:
            total.merge(report)
        if total.kept == 0:
            raise InputError(f"no sentence pair is left after cleaning ({total.summary()}); {total.advice()}")
        left = [(named, both) for named, both, report in zip(sources, names, reports, strict=True) if report.kept]
        by_label = {named.label: report for named, report in zip(sources, reports, strict=True)}
        places = Places([named.label for named in sources], counts)
        (made / "report.json").write_text(_as_json(data, total, by_label, places), encoding="utf-8")
        (made / "report.md").write_text(_as_markdown(total, by_label, places), encoding="utf-8")
        (made / DATA_FILE).write_bytes(
            data_section(
                data,
                "What tmt data clean has left. Every pair passes the rules below, but for the token limits.",
                train=[source_entry(named, output, both) for named, both in left],
                clean=data.clean.model_dump(
                    mode="json", exclude_unset=True, exclude={"duplicates", "min_score", "score_model"}
                ),
            )
        )
    return total


@contextlib.contextmanager
def _scorers(rules: CleanConfig, sources: Sequence[NamedSource]) -> Iterator[list[Translator] | None]:
    """Yield what scores pairs of each source: `score_model`, asked for the source's target language."""
    if rules.score_model is None:
        yield None
        return
    from transformer_mt.decoding.translator import Translator  # PyTorch, for this rule alone

    with contextlib.ExitStack() as open_ones:
        by_language = {
            language: open_ones.enter_context(Translator.load(rules.score_model, settings={"tgt_lang": language}))
            for language in {named.languages[1] for named in sources}
        }
        yield [by_language[named.languages[1]] for named in sources]


def _text_of(pairs: Sequence[SentencePair]) -> tuple[str, str]:
    return "".join(f"{pair.src}\n" for pair in pairs), "".join(f"{pair.tgt}\n" for pair in pairs)


def _sides(pairs: Iterable[SentencePair]) -> tuple[list[str], list[str]]:
    pairs = list(pairs)
    return [pair.src for pair in pairs], [pair.tgt for pair in pairs]


def _likely(found: _Cleaned, scorer: Translator, rules: CleanConfig) -> _Cleaned:
    """Return a chunk with the pairs that the model finds likely enough; the others are counted into its report."""
    assert rules.min_score is not None
    pairs = [*map(SentencePair, *(text.split("\n")[:-1] for text in (found.src, found.tgt)))]
    can_score = scorer.can_score(*_sides(pairs))
    scored = iter(scorer.score_tokens(*_sides(itertools.compress(pairs, can_score))))
    kept = []
    for place, pair, is_scored in zip(found.places, pairs, can_score, strict=True):
        one = next(scored) if is_scored else None
        if not is_scored:
            reason = "too_long_to_score"
        elif one is not None and sum(one.log_probs) < rules.min_score * len(one.log_probs):
            reason = "low_score"
        else:
            kept.append(pair)
            continue
        found.report.kept -= 1
        found.report.count(reason, pair, place)
    src_text, tgt_text = _text_of(kept)
    return found._replace(src=src_text, tgt=tgt_text)


def _as_json(data: DataConfig, total: CleanReport, by_label: dict[str, CleanReport], places: Places) -> str:
    def counts(report: CleanReport) -> dict[str, Any]:
        return {"pairs": report.num_pairs, "kept": report.kept, "rejected": _by_number(report)}

    examples = {
        reason: [{"place": places.describe(place), "source": src, "target": tgt} for place, src, tgt in sorted(found)]
        for reason, found in total.examples.items()
    }
    by_source = {label: counts(report) for label, report in by_label.items()}
    rules = data.clean.model_dump(mode="json", exclude={"max_src_tokens", "max_tgt_tokens"})
    report = {**counts(total), "sources": by_source, "examples": examples, "rules": rules}
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def _by_number(report: CleanReport) -> dict[str, int]:
    return dict(sorted(report.rejected.items(), key=lambda item: (-item[1], item[0])))


def _as_markdown(total: CleanReport, by_label: dict[str, CleanReport], places: Places) -> str:
    """Tables, then examples as indented blocks, in which no character has a meaning."""
    reasons = list(_by_number(total))
    rows = [
        [label, f"{one.num_pairs:,}", share(one.kept, one.num_pairs)]
        + [share(one.rejected.get(reason, 0), one.num_pairs) for reason in reasons]
        for label, one in [*by_label.items(), ("all", total)]
    ]
    parts = [
        "# What cleaning has left out\n",
        "Pairs of each source, those kept, and those rejected by the first rule that they break.\n",
        _indented(format_table(["", "pairs", "kept", *reasons], rows).split("\n")) + "\n",
    ]
    for reason in reasons:
        parts.append(f"## {reason}: {share(total.rejected[reason], total.num_pairs)} pairs\n")
        for place, src, tgt in sorted(total.examples[reason]):
            parts.append(f"{places.describe(place)}:\n\n{_indented([src, tgt])}\n")
    return "\n".join(parts)


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
