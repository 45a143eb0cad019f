"""Statistics of parallel text as one HTML page: no files beside it, nothing from elsewhere, all text escaped."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.curation.charts import Mark, Series, histogram, stacked_bar
from transformer_mt.curation.common import share
from transformer_mt.curation.stats import PERCENTILES, RATIO_BINS, REPEATS, Lengths, PairStats, PartStats, SideStats
from transformer_mt.curation.summary import describe_rule, rows_of, suspicions

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2430; --soft: #5b6675; --rule: #dfe3e8; --card: #f7f8fa;
  --src: #0072b2; --tgt: #d55e00; --both: #009e73; --limit: #c1121f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e6e9ee; --soft: #9aa5b4; --rule: #2c3440;
  --card: #1b212a; --src: #56b4e9; --tgt: #f0a04b; --both: #3cc79a; --limit: #ff6b6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .8rem; padding-top: .8rem; border-top: 3px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p { margin: .3rem 0 .8rem; } .lead, figcaption, .note { color: var(--soft); } .note { font-size: .88rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .88rem; line-height: 1.4; margin-top: .3rem; }
figure h4 { margin: 0 0 .2rem; font-size: .95rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); } svg .grid { stroke: var(--rule); }
svg .bars { fill-opacity: .55; } svg .src { fill: var(--src); } svg .tgt { fill: var(--tgt); }
svg .both { fill: var(--both); }
svg line.limit { stroke: var(--limit); stroke-width: 1.6; } svg line.dashed { stroke-dasharray: 4 3; }
svg text.limit { fill: var(--limit); font-weight: 600; }
.key { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin: 0 .3em 0 .6em; opacity: .8; }
.key.src { background: var(--src); } .key.tgt { background: var(--tgt); }
.stack { height: 1.1rem; border-radius: .25rem; margin: .2rem 0; }
.c0 { fill: #0072b2; background: #0072b2; } .c1 { fill: #e69f00; background: #e69f00; }
.c2 { fill: #009e73; background: #009e73; } .c3 { fill: #cc79a7; background: #cc79a7; }
.c4 { fill: #56b4e9; background: #56b4e9; } .c5 { fill: #d55e00; background: #d55e00; }
.c6 { fill: #8c8c8c; background: #8c8c8c; }
.legend { font-size: .85rem; color: var(--soft); } .item { white-space: nowrap; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: bottom; } .name { text-align: left; } .none { color: var(--soft); }
details { margin: .4rem 0; border: 1px solid var(--rule); border-radius: .5rem; padding: .4rem .8rem; }
summary { cursor: pointer; } details blockquote { margin: .6rem 0; padding-left: .8rem;
  border-left: 3px solid var(--rule); overflow-wrap: anywhere; font-size: .9rem; }
blockquote small { color: var(--soft); } blockquote div { white-space: pre-wrap; }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #ccc; --card: #fff;
  --src: #0072b2; --tgt: #d55e00; --both: #009e73; --limit: #c1121f; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  .wide { overflow: visible; } th, td { white-space: normal; padding: .2rem .3rem; } h2 { break-after: avoid; }
  svg rect, .key { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_MAX_BARS = 60
_MAX_CLASSES = 6  # kinds of characters with a colour of their own
_WIDEST_RATIO = 4  # octaves on either side


def render_page(parts: Sequence[PartStats], title: str, clean: CleanConfig) -> str:
    """The whole page. ``title`` tells which corpus, and the limits of ``clean`` are drawn into the pictures."""
    body = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_lead(parts)}</p>']
    for part in parts:
        body.append(f'<h2 id="{part.name}">{part.name.capitalize()}</h2>')
        body.append(_tiles(part.total))
        body.append(_charts(part.total, clean))
        body += [_size_table(part), _length_table(part), _repeat_table(part), _suspicious(part)]
        if len(part.sources) > 1:
            body.append("<h3>The sources one by one</h3>")
            body += [
                f"<details><summary>{_text(label)}: {stats.pairs:,} pairs</summary>{_charts(stats, clean)}</details>"
                for label, stats in part.sources.items()
            ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _lead(parts: Sequence[PartStats]) -> str:
    sizes = ", ".join(f"{part.total.pairs:,} for {part.name}" for part in parts)
    return (
        f"Sentence pairs: {sizes}. A word is what stands between white space; a character is a Unicode code point, "
        "white space around a line left out. Point at a bar to read its number."
    )


def _tiles(stats: PairStats) -> str:
    exact, near = stats.repeats[REPEATS[0]], stats.repeats[REPEATS[1]]
    suspicious = stats.pairs - stats.suspects.kept
    tiles = [
        (f"{stats.pairs:,}", "pairs"),
        (f"{stats.src.words.total:,}", "source words"),
        (f"{stats.tgt.words.total:,}", "target words"),
        (
            f"{_percent(near, stats.pairs)}",
            f"pairs that repeat an earlier one ({_percent(exact, stats.pairs)} exactly)",
        ),
        (f"{_percent(stats.copies, stats.pairs)}", "pairs with equal sides"),
        (f"{_percent(suspicious, stats.pairs)}", "pairs that break a rule below"),
    ]
    inner = "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)
    return f'<div class="tiles">{inner}</div>'


def _percent(count: int, total: int) -> str:
    if count == 0 or total == 0:
        return "0 %"
    percent = 100 * count / total
    return "&lt; 0.01 %" if percent < 0.005 else f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %"


def _charts(stats: PairStats, clean: CleanConfig) -> str:
    if not stats.pairs:
        return '<p class="note">No pairs.</p>'
    figures = [_word_chart(stats), _character_chart(stats, clean), _ratio_chart(stats, clean), _class_chart(stats)]
    return f'<div class="charts">{"".join(figures)}</div>'


def _figure(heading: str, picture: str, caption: str) -> str:
    return f"<figure><h4>{heading}</h4>{picture}<figcaption>{caption}</figcaption></figure>"


_SIDES = '<span class="key src"></span>source <span class="key tgt"></span>target'


def _word_chart(stats: PairStats) -> str:
    src, tgt = stats.src.words, stats.tgt.words
    caption = (
        f"Half of the sources have up to {src.percentile(50):,} words, one in a hundred more than "
        f"{src.percentile(99):,}; targets {tgt.percentile(50):,} and {tgt.percentile(99):,}. The last bar holds all "
        "longer lines. A high bar on the very left is headings or labels of programs, a long tail is paragraphs that "
        "were not split into sentences."
    )
    return _figure(f"Words in a line {_SIDES}", _length_chart(src, tgt, "words", []), caption)


def _character_chart(stats: PairStats, clean: CleanConfig) -> str:
    src, tgt = stats.src.characters, stats.tgt.characters
    limits, dropped = [], stats.suspects.rejected.get("too_long_characters", 0)
    if clean.max_chars is None:
        fate = "No limit is set; max_chars in data.clean is one."
    elif clean.max_chars < max(src.longest, tgt.longest):
        limits = [(clean.max_chars, f"max_chars {clean.max_chars:,}")]
        fate = f"Pairs with a side right of the red line will be dropped: {share(dropped, stats.pairs)}."
    else:
        fate = f"No line reaches max_chars {clean.max_chars:,}, so none will be dropped for it."
    caption = (
        f"{_text(fate)} The longest source has {src.longest:,} characters, the longest target {tgt.longest:,}. "
        "Two hills are two kinds of text."
    )
    return _figure(f"Characters in a line {_SIDES}", _length_chart(src, tgt, "characters", limits), caption)


def _length_chart(src: Lengths, tgt: Lengths, unit: str, limits: Sequence[tuple[int, str]]) -> str:
    """Up to the longest line but one in two hundred, or up to a limit beyond; the last bar holds all longer ones."""
    longest = max(src.percentile(99.5), tgt.percentile(99.5), *(int(limit * 1.1) for limit, _ in limits), 1)
    width = _bin_width(longest)
    num_bars = longest // width + 2  # with one for longer lines
    series = []
    for css_class, lengths in (("src", src), ("tgt", tgt)):
        bins: Counter[int] = Counter()
        for length, number in lengths.counts.items():
            bins[min(length // width, num_bars - 1)] += number
        shares = [100 * bins[b] / lengths.counts.total() for b in range(num_bars)]
        names = [_range_of(b, width, num_bars) for b in range(num_bars)]
        titles = [f"{name} {unit}: {share(bins[b], lengths.counts.total())} lines" for b, name in enumerate(names)]
        series.append(Series(css_class, shares, titles))
    step = max(1, round(num_bars / 6))
    ticks = {b / num_bars: f"{b * width:,}" for b in range(0, num_bars, step)}
    marks = [Mark(min(1.0, limit / (width * num_bars)), label, False) for limit, label in limits]
    return histogram(series, ticks, marks, unit)


def _range_of(number: int, width: int, num_bars: int) -> str:
    first = number * width
    if number == num_bars - 1:
        return f"{first:,} and more"
    return f"{first:,}" if width == 1 else f"{first:,}–{first + width - 1:,}"


def _bin_width(longest: int) -> int:
    """The least of 1, 2, 5, 10, 20 and so on that needs no more than so many bars."""
    width = 1
    while longest // width + 2 > _MAX_BARS:
        width = {1: 2, 2: 5, 5: 10}[int(str(width)[0])] * 10 ** (len(str(width)) - 1)
    return width


def _ratio_chart(stats: PairStats, clean: CleanConfig) -> str:
    total = stats.ratios.total()
    bins = range(-_WIDEST_RATIO * RATIO_BINS, _WIDEST_RATIO * RATIO_BINS + 1)
    shares = [100 * stats.ratios[b] / max(1, total) for b in bins]
    titles = [f"about {2 ** (b / RATIO_BINS):.3g} : 1: {share(stats.ratios[b], total)} pairs" for b in bins]

    def place(ratio: float) -> float:
        return (math.log2(ratio) * RATIO_BINS + _WIDEST_RATIO * RATIO_BINS + 0.5) / len(bins)

    is_usual = clean.max_char_ratio is None
    limit = 3.0 if clean.max_char_ratio is None else clean.max_char_ratio
    ticks = {place(2.0**octave): f"{2**octave}" if octave >= 0 else f"1/{2**-octave}" for octave in range(-4, 5)}
    marks = [
        Mark(place(ratio), label, is_usual)
        for ratio, label in ((1 / limit, f"1/{limit:g}"), (limit, f"{limit:g}"))
        if 0 < place(ratio) < 1
    ]
    count = share(stats.suspects.rejected.get("length_ratio", 0), stats.pairs)
    fate = (
        f"Pairs left or right of the red lines would be dropped by max_char_ratio {limit:g}, which is usual but not "
        f"set: {count}."
        if is_usual
        else f"Pairs left or right of the red lines will be dropped by max_char_ratio {limit:g}: {count}."
    )
    caption = (
        f"{_text(fate)} One narrow hill is good: where it stands is how much longer one language is. Wide feet are "
        "pairs that say different things, or parts of a sentence."
    )
    picture = histogram([Series("both", shares, titles)], ticks, marks, "target characters / source characters")
    return _figure("Length ratio", picture, caption)


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], num_names: int) -> str:
    """Cells are escaped here."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{_class_of(cell, column < num_names)}>{_text(cell)}</{tag}>" for column, cell in enumerate(row)
        )

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<p class="note">{_text(caption)}</p><div class="wide"><table><thead><tr>{cells(header, "th")}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _class_of(cell: str, is_name: bool) -> str:
    return ' class="name"' if is_name else ' class="none"' if cell == "0" else ""


def _size_table(part: PartStats) -> str:
    header = ["", "pairs", "source words", "target words", "source characters", "target characters", "equal sides"]
    rows = [
        [
            label,
            f"{stats.pairs:,}",
            f"{stats.src.words.total:,}",
            f"{stats.tgt.words.total:,}",
            f"{stats.src.characters.total:,}",
            f"{stats.tgt.characters.total:,}",
            share(stats.copies, stats.pairs),
        ]
        for label, stats in rows_of(part)
    ]
    return "<h3>Size</h3>" + _table("Pairs with equal sides are copies, not translations.", header, rows, 1)


def _length_table(part: PartStats) -> str:
    header = ["", "side", "unit", "mean", *(f"{percent} %" for percent in PERCENTILES), "longest"]
    rows = []
    for label, stats in rows_of(part):
        for side, of_side in _sides(stats):
            for unit, lengths in (("words", of_side.words), ("characters", of_side.characters)):
                percentiles = [f"{lengths.percentile(percent):,}" for percent in PERCENTILES]
                rows.append([label, side, unit, f"{lengths.mean:.1f}", *percentiles, f"{lengths.longest:,}"])
    caption = "In a column such as 95 %: the length that so many of the lines do not exceed."
    return "<h3>Lengths</h3>" + _table(caption, header, rows, 3)


def _sides(stats: PairStats) -> Iterator[tuple[str, SideStats]]:
    yield "source", stats.src
    yield "target", stats.tgt


def _repeat_table(part: PartStats) -> str:
    header = ["", *(f"{one.unit}, {one.kind}" for one in REPEATS)]
    rows = [[label, *(share(stats.repeats[one], stats.pairs) for one in REPEATS)] for label, stats in rows_of(part)]
    caption = (
        "Lines that stand earlier in this part, too. Near ones differ in case, accents, digits, punctuation and white "
        "space only. Repeated pairs teach nothing new (data.clean.duplicates drops them); a source with several "
        "targets is fine, unless many lines share one target: that is filler."
    )
    return "<h3>Repeats</h3>" + _table(caption, header, rows, 1)


def _class_chart(stats: PairStats) -> str:
    bars = "".join(
        f'<p class="legend"><b>{side.capitalize()}</b>{_class_bar(of_side.classes)}</p>'
        for side, of_side in _sides(stats)
    )
    caption = "Letters of a script that the language is not written in are another language, names, or damage."
    return _figure("Characters by kind", bars, caption)


def _class_bar(classes: Counter[str]) -> str:
    most = [(name, 100 * number / classes.total()) for name, number in classes.most_common(_MAX_CLASSES)]
    shares = {name: percent for name, percent in most if percent >= 0.05}
    if classes.total() and (rest := 100 - sum(shares.values())) >= 0.05:
        shares["the rest"] = rest
    legend = "".join(
        f'<span class="item"><span class="key c{number}"></span>{_text(name)} {percent:.1f} %</span> '
        for number, (name, percent) in enumerate(shares.items())
    )
    return stacked_bar(shares) + legend


def _suspicious(part: PartStats) -> str:
    total = part.total
    rows = []
    for reason, rule in suspicions(part):
        used = "yes" if rule is None or rule.is_configured else "no"
        rows.append([reason, describe_rule(rule), used, share(total.suspects.rejected.get(reason, 0), total.pairs)])
    caption = (
        "What each rule of cleaning would reject by itself, with its usual value where data.clean does not set it; "
        "min_language_probability, which takes long, is judged only where it is set. Read the examples before you "
        "turn a rule on: one that mostly hits good pairs costs more than it helps."
    )
    table = _table(caption, ["reason", "rule", "in data.clean", "pairs"], rows, 3)
    examples = "".join(
        _examples(part, total, reason) for reason, _ in suspicions(part) if reason in total.suspects.examples
    )
    return f"<h3>Suspicious pairs</h3>{table}{examples}"


def _examples(part: PartStats, total: PairStats, reason: str) -> str:
    quotes = "".join(
        f"<blockquote><small>{_text(part.places.describe(place))}</small><div>{_text(src)}</div><div>{_text(tgt)}</div>"
        "</blockquote>"
        for place, src, tgt in sorted(total.suspects.examples[reason])
    )
    count = share(total.suspects.rejected[reason], total.pairs)
    return f"<details><summary>{reason}: {count}, some of them</summary>{quotes}</details>"
