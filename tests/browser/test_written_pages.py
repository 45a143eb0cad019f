"""The pages that `tmt compare` and `tmt report` write, in a real browser: they fit any width, and ask for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, tmt_here, write

from transformer_mt.evaluation import significance

LONG = f"{'name_' * 30}.txt"  # a name, and a text, that breaks nowhere


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("pages")
    ref = write(place / "ref", ["القطة تجلس 12", "x" * 300, "<script>document.title = 'ran'</script>"])
    hyp = write(place / LONG, ["القطة تنام", "x" * 299, "<script>document.title = 'ran'</script> &amp;"])
    pages = [place / "comparison.html", place / "report.html"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(significance, "NUM_RANDOMISATIONS", 100)  # not the seconds that sure p values take
        tmt_here("compare", ref, hyp, "--ref", ref, "--src", ref, "--output", pages[0]).ok()
    tmt_here("report", ROOT / "tests" / "golden" / "run", "--output", pages[1]).ok()
    return pages


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit(browser: Any, written: list[Path], width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    for path in written:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.title().startswith((LONG, "Report of run"))
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 100)")
        paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        assert (_brightness(paper) < _brightness(ink)) == (scheme == "dark")
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri() for path in written]


def _brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
