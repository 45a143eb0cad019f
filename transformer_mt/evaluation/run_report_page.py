"""The report of a run as one HTML page: no files beside it, nothing from elsewhere, all text escaped."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from transformer_mt.checkpoints.run_records import Record
from transformer_mt.config.loading import as_yaml, to_yaml
from transformer_mt.evaluation.curves import curve_figures
from transformer_mt.evaluation.figures import as_data, check_matplotlib
from transformer_mt.evaluation.run_report import RunReport
from transformer_mt.system.pages import page_templates

Rows = list[list[str]]  # the first one has the titles of the columns, the first column the names of the rows

_ABOUT = ("kind", "step", "signatures", "seconds", "text")  # in a record beside its scores


def render_report(report: RunReport) -> str:
    """Return the page. Without Matplotlib it has no curves, and a note that says why."""
    curves = report.attempt("curves", lambda: _curves(report.records)) or []
    changed = as_yaml(report.config.model_dump(mode="json", exclude_defaults=True))
    template = page_templates("transformer_mt.evaluation").get_template("report.html")
    return (
        template.render(
            report=report,
            name=report.path.resolve().name,
            summary=[*summary(report)],
            tests=test_rows(report.records),
            validations=validation_rows(report),
            signatures=signatures(report.records),
            speed=speed_row(report.records),
            sources=source_rows(report),
            left_out=left_out_rows(report),
            curves=curves,
            changed=changed,
            every_key=to_yaml(report.config),
        )
        + "\n"
    )


def _curves(records: Sequence[Record]) -> list[tuple[str, str]]:
    check_matplotlib("curves")
    return [(title, as_data(figure)) for title, figure in curve_figures(records)]


def summary(report: RunReport) -> Iterator[tuple[str, str]]:
    """Yield what a run is, a topic and a line each."""
    config = report.config
    directions = sorted({config.data.languages(source) for source in config.data.train})
    yield "languages", ", ".join(f"{src} to {tgt}" for src, tgt in directions)
    model = config.model
    shape = f"{model.num_encoder_layers} + {model.num_decoder_layers} layers, d_model {model.d_model}"
    if model.kind == "transformer":
        shape += f", d_ff {model.d_ff}, {model.num_heads} heads, {model.norm}-norm"
    yield "model", f"{model.kind}, {shape}"
    if facts := report.facts:
        yield "parameters", f"{facts['parameters']['total']:,}"
        vocabulary = facts["vocabulary"]
        sizes = f"{vocabulary['source']:,} source and {vocabulary['target']:,} target pieces"
        sizes = f"{vocabulary['source']:,} pieces, shared" if vocabulary["shared"] else sizes
        yield "vocabulary", f"{vocabulary['type']}, {sizes}"
        training, run = facts["training"], facts["run"]
        yield "checkpoints", f"best {run['best'] or 'none'}, last {run['last']}; {run['bytes'] / 1e6:,.1f} MB in all"
        yield "update", f"at most {training['max_tokens']:,} target tokens; seed {training['seed']}"
        if training["init_from"] is not None:
            yield "started from", str(training["init_from"])
    previous = None
    for step, environment in report.environments.items():  # a continued run may have had several
        line = ", ".join(f"{key} {value}" for key, value in environment.items())
        if line != previous:
            yield f"trained on, by update {step:,}", line
        previous = line


def _numbers(record: Record) -> dict[str, float]:
    return {key: value for key, value in record.items() if key not in _ABOUT and type(value) in (int, float)}


def _score_table(records: Sequence[Record], first: str, names: Sequence[str]) -> Rows:
    keys = list(dict.fromkeys(key for record in records for key in _numbers(record)))
    rows = [[first, *keys]]
    for name, record in zip(names, records, strict=True):
        numbers = _numbers(record)
        cells = [f"{numbers[key]:.{4 if key == 'loss' else 2}f}" if key in numbers else "–" for key in keys]
        rows.append([name, *cells])
    return rows if keys else []


def validation_rows(report: RunReport) -> Rows:
    """Return the scores of each validation; that of the best checkpoint says so."""
    records = [record for record in report.records if record["kind"] == "valid"]
    best = (report.facts or {}).get("run", {}).get("best")
    steps = [record["step"] for record in records]
    return _score_table(
        records, "update", [f"{step:,} (best)" if best == f"step_{step:08d}" else f"{step:,}" for step in steps]
    )


def test_rows(records: Sequence[Record]) -> Rows:
    """Return the scores of the test text that the end of the run has logged."""
    tests = [record for record in records if record["kind"] == "test"]
    return _score_table(tests, "text", [f"{record.get('text')}, update {record['step']:,}" for record in tests])


def signatures(records: Sequence[Record]) -> list[str]:
    """Return the signature of each metric in the log, once."""
    found = (record.get("signatures") for record in records)
    return list(
        dict.fromkeys(
            f"{name}|{signature}" for one in found if isinstance(one, dict) for name, signature in one.items()
        )
    )


def speed_row(records: Sequence[Record]) -> str:
    """Return the speed of training between its reports in words; empty where there is none."""
    speeds = [
        numbers["tokens_per_second"] for record in records if "tokens_per_second" in (numbers := _numbers(record))
    ]
    if not speeds:
        return ""
    seconds = sum(record["seconds"] for record in records if type(record.get("seconds")) in (int, float))
    return (
        f"Target tokens a second: median {statistics.median(speeds):,.0f}, from {min(speeds):,.0f} to "
        f"{max(speeds):,.0f} in {len(speeds):,} reports; scoring took {seconds:,.0f} s besides."
    )


def source_rows(report: RunReport) -> Rows:
    """Return the sources of training text, with their pairs where these are still known."""
    sources = [str(source) for source in report.config.data.train]
    if report.corpus is None:
        return [["text"], *([source] for source in sources)]
    counts = [(pairs, kept) for _, pairs, kept in report.corpus.meta["sources"]]
    rows = [["text", "pairs", "kept"]]
    rows += [[name, f"{pairs:,}", f"{kept:,}"] for name, (pairs, kept) in zip(sources, counts, strict=True)]
    return rows


def left_out_rows(report: RunReport) -> Rows:
    """Return why pairs were left out, and how many."""
    if report.corpus is None or not report.corpus.report.rejected:
        return []
    rejected = report.corpus.report.rejected
    return [["left out for", "pairs"], *([reason, f"{rejected[reason]:,}"] for reason in sorted(rejected))]
