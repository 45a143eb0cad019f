"""Cleaning a training corpus into files: what training would leave out for its text is left out once, and told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transformer_mt.cleaning import CleanReport, check_rules, clean, duplicate_key
from transformer_mt.config import DataConfig
from transformer_mt.curation.files import (
    DATA_FILE,
    PairFiles,
    check_inputs,
    check_names,
    data_section,
    side_files,
    source_entry,
)
from transformer_mt.curation.passes import (
    Chunk,
    NamedSource,
    Places,
    chunks,
    format_table,
    named_sources,
    share,
    workspace,
)
from transformer_mt.duplicates import LATER, DuplicateFinder, Keys, Occurrences
from transformer_mt.errors import InputError
from transformer_mt.export.directory import exported_directory
from transformer_mt.workers import on_all_cores


class _Job(NamedTuple):
    chunk: Chunk
    is_repeated: npt.NDArray[np.bool_] | None  # None: repeats are kept


class _Cleaned(NamedTuple):
    """What became of a chunk: the lines that are left, each with its end."""

    source: int
    src: str
    tgt: str
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
    repeated = "near_duplicate" if data.clean.duplicates == "near" else "duplicate"

    def judge(job: _Job) -> _Cleaned:
        report, kept = CleanReport(), []
        chunk, is_repeated = job
        for i, raw in enumerate(chunk.pairs()):
            pair, reason = clean(raw, data.clean, *sources[chunk.source].languages)
            if reason is None and is_repeated is not None and is_repeated[i]:
                reason = repeated
            report.count(reason, pair, chunk.first + i)
            if reason is None:
                kept.append(pair)
        src, tgt = ("".join(f"{pair[side]}\n" for pair in kept) for side in (0, 1))
        return _Cleaned(chunk.source, src, tgt, report)

    reports = [CleanReport() for _ in sources]
    counts: list[int] = []
    with exported_directory(output, {"made_by": "tmt data clean"}) as made, workspace(data) as directory:
        occurrences = None if data.clean.duplicates == "keep" else _find_repeats(data, sources, directory)
        with PairFiles(made) as files:
            for found in on_all_cores(judge, _jobs(sources, counts, occurrences)):
                files.write(names[found.source], found.src, found.tgt)
                reports[found.source].merge(found.report)
        total = CleanReport()
        for report in reports:
            total.merge(report)
        if total.kept == 0:
            raise InputError(f"no sentence pair is left after cleaning ({total.summary()}); loosen data.clean")
        by_label = {named.label: report for named, report in zip(sources, reports, strict=True)}
        places = Places(sources, counts)
        (made / "report.json").write_text(_as_json(data, total, by_label, places), encoding="utf-8")
        (made / "report.md").write_text(_as_markdown(total, by_label, places), encoding="utf-8")
        (made / DATA_FILE).write_bytes(
            data_section(
                data,
                "What tmt data clean has left. Every pair passes the rules below, but for the token limits.",
                train=[
                    source_entry(named, output, both)
                    for named, both, report in zip(sources, names, reports, strict=True)
                    if report.kept
                ],
                clean=data.clean.model_dump(mode="json", exclude_unset=True, exclude={"duplicates"}),
            )
        )
    return total


def _jobs(sources: list[NamedSource], counts: list[int], occurrences: Occurrences | None) -> Iterator[_Job]:
    for chunk in chunks(sources, "cleaning", counts):
        yield _Job(chunk, None if occurrences is None else occurrences[chunk.first : chunk.end] == LATER)


def _find_repeats(data: DataConfig, sources: list[NamedSource], directory: Path) -> Occurrences:
    """Which pairs repeat an earlier one, as training has it: whatever becomes of the earlier one."""
    kind = data.clean.duplicates
    assert kind != "keep"

    def keys_of(chunk: Chunk) -> Keys:
        return np.array([duplicate_key(pair, kind) for pair in chunk.pairs()], dtype=np.uint64)

    finder = DuplicateFinder(directory)
    for keys in on_all_cores(keys_of, chunks(sources, "comparing", [])):
        finder.add(keys)
    return finder.find()


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
