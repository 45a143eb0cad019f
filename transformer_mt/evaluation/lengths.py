"""Scores by the length of the source: of short sentences, of long ones, with their pictures."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformer_mt.errors import InputError
from transformer_mt.evaluation.figures import add_legend, check_picture, line_styles, save_picture, tidy
from transformer_mt.evaluation.scores import EvalReport, check_streams, evaluate
from transformer_mt.system.console import Tell, tell_nobody
from transformer_mt.text.scripts import WORD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

METRICS = ("bleu", "chrf")
_MOST_EDGES = 8
_SHARE_BEYOND = 0.01  # of the sentences, longer than the last edge


class System(NamedTuple):
    """Translations of one origin, and what cuts them into words for BLEU (as `evaluate` takes it)."""

    name: str
    hypotheses: Sequence[str]
    tokenize: str | None = None
    tgt_lang: str | None = None


@dataclass(frozen=True)
class LengthGroup:
    """The sentences whose source has ``shortest`` to ``longest`` words (None: or more), and each system's scores."""

    shortest: int
    longest: int | None
    num_sentences: int
    reports: list[EvalReport]

    @property
    def label(self) -> str:
        """Return the lengths for people: ``1–5``, ``6``, ``31+``."""
        if self.longest is None:
            return f"{self.shortest}+"
        return f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest}–{self.longest}"

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        both = zip(names, self.reports, strict=True)
        return {
            "shortest": self.shortest,
            "longest": self.longest,
            "num_sentences": self.num_sentences,
            "systems": [{"name": name, **report.as_dict()["metrics"]} for name, report in both],
        }


@dataclass(frozen=True)
class LengthScores:
    """The scores of systems on groups of sentences, none of them empty, and on all of these sentences together."""

    names: list[str]
    groups: list[LengthGroup]
    all: LengthGroup

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``{"groups": [{"shortest": 1, "longest": 5, "num_sentences": N, "systems": […]}, …], "all": {…}}``.

        A system is ``{"name": …, "bleu": {…}, "chrf": {…}}``, each score as `tmt eval` has it, with its signature.
        """
        return {"groups": [group.as_dict(self.names) for group in self.groups], "all": self.all.as_dict(self.names)}


def default_edges(lengths: Sequence[int]) -> list[int]:
    """Return round steps (of 1, 2, 5, 10, 20, …): the least of which eight reach beyond all but a hundredth."""
    reach = sorted(lengths)[-1 - int(len(lengths) * _SHARE_BEYOND)]
    step = next(n * 10**power for power in range(12) for n in (1, 2, 5) if _MOST_EDGES * n * 10**power >= reach)
    return list(range(step, reach + step, step))


def scores_by_length(
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    systems: Sequence[System],
    edges: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> LengthScores:
    """Score groups of sentences by the words of their sources, with 95% intervals from bootstrap resampling.

    A word is what stands between white space; in scripts without spaces, each character. Blank sources are left out.

    Args:
        references: one or more streams.
        edges: the longest source of each group but the last, in words, ascending; by default `default_edges`.
        names: of the sources and of each reference stream, for messages.

    Raises:
        InputError: as `evaluate`; all sources are blank; or the systems' scores would have different signatures.
    """
    src_name, *ref_names = names or ["sources", *(f"references[{i}]" for i in range(len(references)))]
    check_streams(sources, references, [src_name, *ref_names])
    for system in systems:
        check_streams(system.hypotheses, references, [system.name, *ref_names])
    lengths = [len(WORD.findall(source)) for source in sources]
    filled = [i for i, length in enumerate(lengths) if length]
    if not filled:
        raise InputError(f"{src_name}: has blank lines only; scores by length need text")
    if edges is None:
        edges = default_edges([lengths[i] for i in filled])

    def group(shortest: int, longest: int | None, lines: Sequence[int]) -> LengthGroup:
        refs = [[stream[i] for i in lines] for stream in references]
        reports = [
            evaluate(
                [system.hypotheses[i] for i in lines],
                refs,
                METRICS,
                tokenize=system.tokenize,
                tgt_lang=system.tgt_lang,
                confidence=len(lines) > 1,  # samples of one sentence are all the same
            )
            for system in systems
        ]
        return LengthGroup(shortest, longest, len(lines), reports)

    everything = group(1, None, filled)
    for scores in zip(*(report.scores for report in everything.reports), strict=True):
        if len(found := sorted({score.signature for score in scores})) > 1:
            raise InputError(f"the systems' scores cannot be compared: {' and '.join(found)}; give --tokenize for all")
    lines_of: dict[int, list[int]] = {}
    for i in filled:
        lines_of.setdefault(bisect_left(edges, lengths[i]), []).append(i)
    bounds = [0, *edges, None]
    groups = [group((bounds[n] or 0) + 1, bounds[n + 1], lines_of[n]) for n in sorted(lines_of)]
    return LengthScores([system.name for system in systems], groups, everything)


def plot_lengths(scores: LengthScores, output: Path, tell: Tell = tell_nobody) -> None:
    """Draw scores by length: a panel for each metric, a line for each system, a bar for each interval.

    Raises:
        InputError: as `check_picture`.
        RunError: the picture cannot be written.
    """
    check_picture(output)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(METRICS), 3.6), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, len(METRICS))):
        lines = _draw(axes, scores, number)
    add_legend(figure, lines, scores.names, tell)
    signatures = [f"{score.label}|{score.signature}" for score in scores.all.reports[0].scores]
    figure.supxlabel("\n".join(["bars: 95 % by bootstrap resampling", *signatures]), fontsize=6, color="0.4")
    save_picture(figure, output)


def _draw(axes: Axes, scores: LengthScores, number: int) -> list[Line2D]:
    """Draw the panel of a metric, by its number; return the line of each system."""
    lines: list[Line2D] = []
    for rank, (_, style) in enumerate(zip(scores.names, line_styles(), strict=False)):
        # Side by side, so that no interval hides another.
        shift = 0.5 * ((rank + 0.5) / len(scores.names) - 0.5)
        places = [place + shift for place in range(len(scores.groups))]
        of_groups = [group.reports[rank].scores[number] for group in scores.groups]
        lines += axes.plot(places, [one.score for one in of_groups], marker="o", markersize=3, linewidth=1.2, **style)
        for place, interval in zip(places, (one.interval for one in of_groups), strict=True):
            if interval is not None:
                low, high = interval.mean - interval.half_width, interval.mean + interval.half_width
                axes.vlines(place, max(0, low), high, color=style["color"], linewidth=1)
    axes.set_title(scores.all.reports[0].scores[number].label, fontsize=10)
    ticks = [f"{group.label}\n({group.num_sentences:,})" for group in scores.groups]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlabel("words of the source (sentences)", fontsize=9)
    tidy(axes)
    return lines
