"""Pictures of attention: every weight at its words, nothing overlaps, any script and sign, the same bytes."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text

from transformer_mt.decoding.attention_maps import AttentionMap, AttentionMaps, Positions
from transformer_mt.errors import InputError
from transformer_mt.evaluation.attention_pictures import Selection, draw_attention, select
from transformer_mt.system.console import tell_nobody
from transformer_mt.text.words import words_of

SOURCE, TARGET = ["▁A", "▁d", "og", "</s>"], ["▁Ein", "▁Hund", "</s>"]


def positions(pieces: list[str]) -> Positions:
    return Positions(pieces, words_of(pieces, {"<s>", "</s>"}))


def make_maps(source: list[str] = SOURCE, target: list[str] = TARGET, layers: int = 2, heads: int = 2) -> AttentionMaps:
    """Weights without a pattern: each query a distribution of its own."""
    generator = torch.Generator().manual_seed(1)
    src, tgt, tgt_in = positions(source), positions(target), positions(["<s>", *target[:-1]])
    maps = []
    for queries, keys in ((src, src), (tgt_in, tgt_in), (tgt, src)):
        scores = 3 * torch.randn(layers, heads, len(queries.pieces), len(keys.pieces), generator=generator)
        if keys is tgt_in:
            scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -torch.inf)
        maps.append(AttentionMap(queries, keys, scores.softmax(-1)))
    return AttentionMaps(*maps)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved, which takes longer than to look at them."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    return figures


def tables(figure: Figure) -> list[QuadMesh]:
    """Those of all panels; the last axes are the scale's."""
    return [mesh for axes in figure.axes[:-1] for mesh in axes.collections if isinstance(mesh, QuadMesh)]


# What is shown.


def test_layers_and_heads_are_chosen_by_number_or_all_or_their_mean() -> None:
    maps = make_maps(layers=3, heads=2)
    assert maps.encoder is not None
    everything = maps.encoder.weights_YHLM
    for layer, head, expected, names in (
        ("last", "mean", everything[2:].mean(1, keepdim=True), (["layer 3"], ["mean of 2 heads"])),
        ("1", "2", everything[:1, 1:], (["layer 1"], ["head 2"])),
        ("all", "all", everything, (["layer 1", "layer 2", "layer 3"], ["head 1", "head 2"])),
        ("mean", "1", everything[:, :1].mean(0, keepdim=True), (["mean of 3 layers"], ["head 1"])),
    ):
        found = select(maps, "encoder", layer, head, pieces=True)
        torch.testing.assert_close(found.weights_YHLM, expected)
        assert (found.layers, found.heads) == names
        assert found.queries == found.keys == SOURCE
    words = select(maps, "encoder", "all", "all")
    assert words.queries == words.keys == ["A", "dog", "</s>"]
    torch.testing.assert_close(words.weights_YHLM, maps.encoder.of_words())


def test_numbers_for_other_programs() -> None:
    found = select(make_maps(), "cross", "2", "all", word="Hund").as_dict()
    cross = make_maps().cross
    assert cross is not None
    np.testing.assert_allclose(found.pop("weights"), cross.of_words()[1:, :, 1:2], atol=1e-6)
    names = {"layers": ["layer 2"], "heads": ["head 1", "head 2"], "queries": ["Hund"], "keys": ["A", "dog", "</s>"]}
    assert found == {"use": "cross", **names}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"layer": "3"}, "--layer 3: the model has 2 layers; give 1 to 2, all, mean or last"),
        ({"head": "0"}, "--head 0: the model has 2 heads"),
        ({"head": "first"}, "--head first: the model has 2 heads"),
        ({"word": "cat"}, "--word cat: is not in Ein Hund </s>"),
    ],
)
def test_what_is_not_there_is_refused(options: dict[str, str], part: str) -> None:
    with pytest.raises(InputError) as caught:
        select(make_maps(), "cross", **options)  # type: ignore[arg-type]
    assert part in str(caught.value)


def test_a_use_that_a_model_lacks_is_refused() -> None:
    maps = make_maps()._replace(encoder=None, decoder=None)
    with pytest.raises(InputError, match="--use encoder: the model has no such attention; it has cross"):
        select(maps, "encoder")
    with pytest.raises(InputError, match="--use cross: the model has no such attention; it has none"):
        select(AttentionMaps(None, None, None), "cross")


# What is drawn.


def test_every_weight_of_a_table_is_at_its_words(tmp_path: Path, drawn: list[Figure]) -> None:
    chosen = select(make_maps(), "cross", "all", "all")
    draw_attention(chosen, "table", tmp_path / "a.png", tell_nobody)
    meshes = tables(drawn[0])
    assert len(meshes) == 4
    for mesh, (layer, head) in zip(meshes, itertools.product(range(2), repeat=2), strict=True):
        np.testing.assert_allclose(np.asarray(mesh.get_array()), chosen.weights_YHLM[layer, head], atol=1e-6)
        assert mesh.norm.vmin == 0 and mesh.norm.vmax == pytest.approx(float(chosen.weights_YHLM.max()))
        axes = mesh.axes
        assert isinstance(axes, Axes)
        names = [[label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)]
        assert names == [chosen.keys if layer == 0 else [], chosen.queries if head == 0 else []]
        assert axes.yaxis_inverted() and list(axes.get_xticks()) in ([0.5, 1.5, 2.5], [])
    titles = [axes.get_title() for axes in drawn[0].axes[:-1]]
    assert titles == ["head 1", "head 2", "", ""]
    assert [axes.get_ylabel() for axes in drawn[0].axes[:-1]] == ["layer 1", "", "layer 2", ""]


def test_the_future_is_left_out(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_attention(select(make_maps(), "decoder"), "table", tmp_path / "a.png", tell_nobody)
    [mesh] = tables(drawn[0])
    assert np.ma.getmaskarray(np.ma.asarray(mesh.get_array())).tolist() == np.triu(np.ones((3, 3)), 1).tolist()
    draw_attention(select(make_maps(), "decoder", word="Ein"), "table", tmp_path / "a.png", tell_nobody)
    [mesh] = tables(drawn[1])
    assert np.ma.getmaskarray(np.ma.asarray(mesh.get_array())).tolist() == [[False, False, True]]


def lines(figure: Figure) -> list[list[LineCollection]]:
    return [[found for found in axes.collections if isinstance(found, LineCollection)] for axes in figure.axes]


def test_lines_are_as_opaque_as_their_weights(tmp_path: Path, drawn: list[Figure]) -> None:
    chosen = select(make_maps(), "cross", "all", "all")
    draw_attention(chosen, "lines", tmp_path / "a.svg", tell_nobody)
    for layer, of_layer in enumerate(lines(drawn[0])):
        for head, of_head in enumerate(of_layer):
            weights = chosen.weights_YHLM[layer, head]
            found = np.zeros(weights.shape)
            for (start, end), opacity in zip(of_head.get_segments(), np.asarray(of_head.get_alpha()), strict=True):
                assert (start[0], end[0]) == (0, 1)
                found[int(start[1] * 3), int(end[1] * 3)] = opacity
            np.testing.assert_allclose(found, np.where(weights >= 0.02, weights, 0), atol=1e-6)
        colours = {tuple(np.ravel(of_head.get_edgecolor())[:3]) for of_head in of_layer}
        assert len(colours) == 2
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["head 1", "head 2"]


def test_lines_of_one_word(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_attention(select(make_maps(), "encoder", word="dog"), "lines", tmp_path / "a.png", tell_nobody)
    [[found]] = lines(drawn[0])
    assert {start[1] for start, _ in found.get_segments()} == {0.5}  # the second of three


def test_a_weight_that_rounding_makes_more_than_one(tmp_path: Path) -> None:
    chosen = Selection("cross", ["a"], ["b"], ["layer 1"], ["head 1"], [0], torch.full((1, 1, 1, 1), 1.0000001))
    draw_attention(chosen, "lines", tmp_path / "a.png", tell_nobody)


# How it looks.


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


@pytest.mark.parametrize("style", ["table", "lines"])
@pytest.mark.parametrize(
    ("source", "target", "options"),
    [
        (SOURCE, TARGET, {"layer": "all", "head": "all"}),
        (["▁word", "</s>"], ["▁Wort", "</s>"], {"head": "all"}),
        (["▁sehr-lange-Wörter"] * 3, ["▁我", "爱", "你", "▁Donaudampfschiff"], {"layer": "all"}),
        ([f"▁word{number}" for number in range(60)], ["▁Wort"] * 57, {}),
        (SOURCE, TARGET, {"layer": "all", "head": "all", "word": "Hund"}),
    ],
    ids=["grid", "one word", "wide words", "60 words", "only one word's"],
)
def test_no_two_words_overlap(
    style: str, source: list[str], target: list[str], options: Any, tmp_path: Path, drawn: list[Figure]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font here has
        draw_attention(select(make_maps(source, target), "cross", **options), style, tmp_path / "a.png", tell_nobody)
        FigureCanvasAgg(drawn[0])
        drawn[0].draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts(drawn[0])]
    panels = [axes.get_window_extent() for axes in drawn[0].axes]
    assert len(boxes) > 4
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.padded(-1).overlaps(other_box.padded(-1)), f"{one} and {other}"
    for name, box in boxes:
        assert style == "lines" or not any(box.padded(-1).overlaps(panel) for panel in panels), name


@pytest.mark.parametrize("style", ["table", "lines"])
def test_signs_of_formulas_are_text(style: str, tmp_path: Path, drawn: list[Figure]) -> None:
    source = ["▁$\\frac{", "▁$x_1^2$", "▁50", "%", "▁<b>", "▁a_b", "▁\\", "▁{}", "▁$$", "</s>"]
    draw_attention(select(make_maps(source), "cross"), style, tmp_path / "a.pdf", tell_nobody)
    drawn[0].draw_without_rendering()  # formulas are read here
    assert {"$\\frac{", "$x_1^2$", "50%", "<b>", "a_b"} <= {text.get_text() for text in texts(drawn[0])}
    assert not any(text.get_parse_math() for text in texts(drawn[0]) if "$" in text.get_text())


@pytest.mark.parametrize("style", ["table", "lines"])
@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_the_same_picture_is_the_same_bytes(
    style: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for epoch in ("0", "1000000000"):  # what PyPI's tools take for now
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        draw_attention(select(make_maps(), "cross", head="all"), style, tmp_path / f"a.{form}", tell_nobody)
        found.append((tmp_path / f"a.{form}").read_bytes())
    assert found[0] == found[1]


# Fonts.


def make_font(path: Path, family: str, letters: str) -> str:
    """A font in which each of these letters is a square."""
    builder = FontBuilder(1000, isTTF=True)
    pen = TTGlyphPen(None)
    for number, point in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", *(f"g{number}" for number in range(len(letters)))]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"g{number}" for number, letter in enumerate(letters)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900)
    builder.setupPost()
    builder.save(path)
    return str(path)


def told(source: str, fonts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is warned of where these fonts are installed; Matplotlib itself warns of every box."""
    heard: list[str] = []
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: fonts)
    maps = make_maps([*source.split(), "</s>"])
    with warnings.catch_warnings(record=True) as boxes:
        warnings.simplefilter("always")
        for form in ("png", "svg", "pdf"):
            draw_attention(select(maps, "cross", pieces=True), "table", tmp_path / f"a.{form}", heard.append)
    assert boxes == [] if not heard else all("Glyph" in str(box.message) for box in boxes)
    return heard


def test_letters_come_from_the_fonts_that_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = [
        make_font(tmp_path / "a.ttf", "Some Serif", "개가ñ"),
        make_font(tmp_path / "b.ttf", "Some Sans", "개가달린다。"),
        make_font(tmp_path / "c.ttf", "Devanagari Sans", "हन"),
        str(write_rubbish(tmp_path / "d.ttf")),
    ]
    assert told("▁개가 ▁달린다 。 ▁हन ▁مرحبا ▁ñ ▁\u200dx", fonts, tmp_path, monkeypatch) == []


def write_rubbish(path: Path) -> Path:
    path.write_bytes(b"no font")
    return path


def test_letters_that_no_font_has_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = [make_font(tmp_path / "a.ttf", "Some Sans", "개")]
    heard = told("▁개가 ▁मे ▁ñ", fonts, tmp_path, monkeypatch)
    assert len(set(heard)) == 2 and len(heard) == 6
    devanagari, hangul = sorted(set(heard))
    assert "no installed font has the Devanagari letters म े;" in devanagari and "Debian: fonts-noto-core" in devanagari
    assert "no installed font has the Hangul letters 가;" in hangul and "Debian: fonts-noto-cjk" in hangul
