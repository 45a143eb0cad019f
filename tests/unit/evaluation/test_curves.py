"""Pictures of runs: what is in them, in which formats, and the refusals."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from transformer_mt.errors import InputError, RunError
from transformer_mt.evaluation import fonts
from transformer_mt.evaluation.curves import plot_curves

# The first bytes of each format, as its specification has them.
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


def make_run(directory: Path, num_steps: int = 6, with_valid: bool = True, scale: float = 1.0) -> Path:
    directory.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        numbers = {"loss": 9.0 / step * scale, "perplexity": 900.0 / step, "gradient_norm": 1.0, "learning_rate": 0.1}
        lines.append({"kind": "train", "step": step, **numbers})
        if with_valid and step % 2 == 0:
            scores = {"loss": 3.0, "perplexity": 20.0 * scale, "bleu": 1.0 * step, "chrf": 2.0 * step}
            lines.append({"kind": "valid", "step": step, **scores, "signatures": {"bleu": "x"}})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_a_picture_is_xml_whatever_is_written_in_it(tmp_path: Path) -> None:
    """Matplotlib has texts in comments as they are, and no viewer opens what has a control character there."""
    run = make_run(tmp_path / "a\x01b\x1bc")
    plot_curves([run, make_run(tmp_path / "other")], tmp_path / "a.svg", lambda _: None)
    ElementTree.fromstring((tmp_path / "a.svg").read_bytes())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def panels(figure: Figure) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf", "a.PNG"])
def test_each_format_is_written(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    output.write_text("what was there before")
    plot_curves([make_run(tmp_path / "run")], output)
    assert output.read_bytes().startswith(MAGIC[name.rpartition(".")[2].lower()])
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "run"]


@pytest.mark.parametrize("name", ["a$1_$2", "cost_$5^2$"])
def test_names_are_no_formulas(name: str, tmp_path: Path, drawn: list[Figure]) -> None:
    plot_curves([make_run(tmp_path / name), make_run(tmp_path / "b")], tmp_path / "a.png")
    texts = drawn[0].legends[0].get_texts()
    assert [(text.get_text(), text.get_parse_math()) for text in texts] == [(name, False), ("b", False)]


def test_every_number_is_at_its_update(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make_run(tmp_path / "small", 6), make_run(tmp_path / "large", 4, scale=2.0)]
    plot_curves(runs, tmp_path / "a.png")
    found = panels(drawn[0])
    assert list(found) == [
        "Training loss",
        "Perplexity: validation (dots), training (thin)",
        "Validation BLEU",
        "Validation chrF",
        "Learning rate",
        "Gradient norm",
    ]
    small, large = found["Training loss"].lines
    assert small.get_xydata().tolist() == [[step, 9.0 / step] for step in range(1, 7)]
    assert large.get_xydata().tolist() == [[step, 18.0 / step] for step in range(1, 5)]
    training, validation = found["Perplexity: validation (dots), training (thin)"].lines[:2]
    assert training.get_xydata().tolist() == [[step, 900.0 / step] for step in range(1, 7)]
    assert validation.get_xydata().tolist() == [[step, 20.0] for step in (2, 4, 6)]
    assert [line.get_xydata().tolist() for line in found["Validation BLEU"].lines] == [
        [[2, 2.0], [4, 4.0], [6, 6.0]],
        [[2, 2.0], [4, 4.0]],
    ]


def test_one_legend_names_the_runs_in_their_colours(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make_run(tmp_path / f"run_{number}") for number in range(9)]
    plot_curves(runs, tmp_path / "a.png")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"run_{number}" for number in range(9)]
    assert all(axes.get_legend() is None for axes in drawn[0].axes)
    styles = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    assert len(set(styles)) == 9
    for axes in panels(drawn[0]).values():
        assert {(line.get_color(), line.get_linestyle()) for line in axes.lines} == set(styles)


def test_runs_of_one_name_are_told_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    plot_curves(runs, tmp_path / "a.png")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [str(run) for run in runs]


def test_a_run_without_validation_beside_one_with_it(tmp_path: Path, drawn: list[Figure]) -> None:
    without = make_run(tmp_path / "without", 1, with_valid=False)
    plot_curves([without], tmp_path / "a.png")
    assert not [title for title in panels(drawn[0]) if title.startswith("Validation")]
    plot_curves([make_run(tmp_path / "with"), without], tmp_path / "a.png")
    assert "Validation BLEU" in panels(drawn[1])
    assert len(drawn[1].legends[0].get_texts()) == 2


def test_a_run_that_is_going_on(tmp_path: Path, drawn: list[Figure]) -> None:
    run = make_run(tmp_path / "run", 4, with_valid=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 5, "lo')
    plot_curves([run], tmp_path / "a.png")
    assert panels(drawn[0])["Training loss"].lines[0].get_xdata().tolist() == [1, 2, 3, 4]


# Refusals.


def refusal(runs: list[Path], output: Path) -> str:
    with pytest.raises(InputError) as caught:
        plot_curves(runs, output)
    assert not output.exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz", ".png"])
def test_unknown_format(name: str, tmp_path: Path) -> None:
    assert f"{name}: an image ends in .png, .svg, .pdf" in refusal([make_run(tmp_path / "run")], tmp_path / name)


def test_not_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "other", tmp_path / "none"):
        assert f"{path}: not a run directory" in refusal([run, path], tmp_path / "a.png")


def test_no_records_yet(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    assert f"{run}: has logged nothing yet" in refusal([run], tmp_path / "a.png")
    for text in ("", '{"kind": "tr', '{"kind": "not_finite", "step": 1, "loss": "nan"}\n'):
        (run / "metrics.jsonl").write_text(text)
        assert f"{run}: has logged nothing yet" in refusal([run], tmp_path / "a.png")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    assert "no directory" in refusal([make_run(tmp_path / "run")], tmp_path / "none" / "a.png")


def test_matplotlib_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'transformer-mt[plots]'" in refusal([make_run(tmp_path / "run")], tmp_path / "a.png")


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def savefig(figure: Figure, file: Any, **kwargs: Any) -> None:
        file.write(b"half a pic")
        raise OSError(28, "No space left on device")

    run, output = make_run(tmp_path / "run"), tmp_path / "a.png"
    output.write_text("the picture before")
    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(RunError, match="No space left"):
        plot_curves([run], output)
    assert output.read_text() == "the picture before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "run"]


def test_names_in_a_script_that_no_font_has_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(fonts, "_faces", lambda: iter(()))
    told: list[str] = []
    plot_curves([make_run(tmp_path / "한국")], tmp_path / "a.png", told.append)
    assert len(told) == 1 and "한" in told[0] and not [*recwarn]
