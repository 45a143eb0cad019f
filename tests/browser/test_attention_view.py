"""The view of attention in a real browser: its numbers are the server's, and what is chosen is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")

from test_translating_page import expect, write

LINES, QUERIES, KEYS = "#attention line", "#attention .queries li", "#attention .keys li"
FAINTEST = 0.02  # of a weight that has a line


@pytest.fixture
def view(page: Any) -> Any:
    """The page with the attention of one line open."""
    write(page, "a b c d e f")
    with page.expect_response("**/attention"):
        page.locator("#attention-button").click()
    page.locator(LINES).first.wait_for(state="attached")
    return page


def answer(view: Any, **fields: str) -> Any:
    """What the server tells of what is shown."""
    q, translation = view.locator("#text").input_value(), view.locator("#spoken").text_content()
    asked = {"q": q, "translation": translation, "source": "src", "target": "tgt"} | fields
    return view.request.post(f"{view.url}attention", data=asked).json()


def of_words(found: Any) -> Any:
    """Weights by layer, head and words."""
    queries, keys = (
        [range(word["start"], word["end"]) for word in found[side]["words"]] for side in ("queries", "keys")
    )
    weights = np.array(found["weights"]) / 1000
    rows = np.stack([weights[:, :, own].mean(2) for own in queries], 2)
    return np.stack([rows[..., own].sum(-1) for own in keys], -1)


def opacities(view: Any) -> list[float]:
    script = "lines => lines.map((line) => Number(line.getAttribute('stroke-opacity')))"
    found: list[float] = view.locator(LINES).evaluate_all(script)
    return found


def drawn(weights: Any) -> Any:
    """The opacities that lines for these weights have, in descending order."""
    return pytest.approx(sorted((min(1, one) for one in np.ravel(weights) if one >= FAINTEST), reverse=True), abs=1e-3)


def title(view: Any) -> str:
    return str(view.locator(".attention-title").inner_text())


def told(view: Any) -> str:
    return str(view.locator(".attention-told").inner_text())


def test_it_opens_with_the_last_layer_in_the_mean_of_its_heads(view: Any) -> None:
    found = answer(view)["cross"]
    assert view.locator(QUERIES).all_inner_texts() == [word["text"] for word in found["queries"]["words"]]
    assert view.locator(KEYS).all_inner_texts() == [word["text"] for word in found["keys"]["words"]]
    assert title(view) == "Layer 1, mean of 2 heads"
    assert opacities(view) == drawn(of_words(found)[-1].mean(0))
    assert "Attention is no explanation" in view.locator("#attention").inner_text()
    view.locator("#attention-button").click()
    expect(view.locator("#attention")).to_be_hidden()


def test_any_head_all_of_them_and_each_use(view: Any) -> None:
    whole = answer(view)
    for use, name in (("cross", "over the source"), ("encoder", "Encoder"), ("decoder", "decoder self")):
        view.get_by_label(name).check()
        for head in (0, 1):
            picture = view.get_by_role("button", name=f"Layer 1, head {head + 1}")
            picture.click()
            assert picture.get_attribute("aria-pressed") == "true" and title(view) == f"Layer 1, head {head + 1}"
            assert opacities(view) == drawn(of_words(whole[use])[0, head])
    view.get_by_role("button", name="All heads of layer 1, each in its colour").click()
    assert opacities(view) == drawn(of_words(whole["decoder"])[0])
    assert view.locator(".attention-legend li").all_inner_texts() == ["Layer 1, head 1", "Layer 1, head 2"]
    colours = [
        view.locator(f"{LINES}.colour-{head}").first.evaluate("one => getComputedStyle(one).stroke") for head in (0, 1)
    ]
    assert colours[0] != colours[1]
    view.get_by_label("Several at once").check()
    view.get_by_role("button", name="Layer 1, head 1").click()  # which was there
    assert opacities(view) == drawn(of_words(whole["decoder"])[0, 1])
    view.get_by_role("button", name="Layer 1, mean").click()
    assert view.locator(".attention-legend li").count() == 2


def test_pieces_in_place_of_words(view: Any) -> None:
    found = answer(view)["cross"]
    view.get_by_label("By the model's pieces").check()
    assert view.locator(QUERIES).all_inner_texts() == found["queries"]["pieces"]
    assert opacities(view) == drawn(np.array(found["weights"])[-1].mean(0) / 1000)


def test_a_word_that_is_pointed_at_has_its_own_lines_only(view: Any) -> None:
    weights = of_words(answer(view)["cross"])[-1].mean(0)
    every = opacities(view)
    view.locator(QUERIES).nth(1).hover()
    assert opacities(view) == drawn(weights[1])
    view.locator(KEYS).nth(2).hover()
    assert opacities(view) == drawn(weights[:, 2])
    assert told(view).startswith(f"“\u2068{view.locator(KEYS).nth(2).inner_text()}\u2069” is looked at most by ")
    view.locator(KEYS).nth(3).click()  # and stays
    view.locator(".attention-note").hover()
    assert opacities(view) == drawn(weights[:, 3])
    cells = view.locator(".attention-table td").all_inner_texts()
    best = sorted(weights[:, 3], reverse=True)[: len(cells)]
    assert [float(one.removesuffix("\u00a0%")) for one in cells] == pytest.approx([100 * x for x in best], rel=0.05)
    view.get_by_role("button", name="Show all words").click()
    assert opacities(view) == every


def test_the_keyboard_reaches_everything(view: Any) -> None:
    def focused() -> str:
        return str(view.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))

    weights = of_words(answer(view)["cross"])[-1]
    view.get_by_label("By the model's pieces").focus()
    view.keyboard.press("Tab")
    assert focused() == "Layer 1, mean of 2 heads"
    view.keyboard.press("ArrowLeft")
    assert focused() == "Layer 1, head 2" and title(view) == "Layer 1, mean of 2 heads"
    view.keyboard.press("Enter")
    assert title(view) == "Layer 1, head 2" and opacities(view) == drawn(weights[1])
    for key, expected in (
        ("Home", "All heads of layer 1, each in its colour"),
        ("ArrowUp", "All heads of layer 1, each in its colour"),  # there is nothing above
        ("ArrowRight", "Layer 1, head 1"),
        ("ArrowUp", "All layers of head 1, each in its colour"),
        ("End", "All layers, means of heads, each in its colour"),
        ("ArrowDown", "Layer 1, mean of 2 heads"),
    ):
        view.keyboard.press(key)
        assert focused() == expected
    view.keyboard.press("Tab")
    view.keyboard.press("ArrowDown")
    assert focused() == view.locator(QUERIES).nth(1).inner_text()
    assert opacities(view) == drawn(weights[1, 1]) and "looks most at" in told(view)
    view.keyboard.press("ArrowRight")
    view.keyboard.press("End")
    assert focused() == view.locator(KEYS).last.inner_text() and opacities(view) == drawn(weights[1, :, -1])
    view.keyboard.press("Escape")
    assert opacities(view) == drawn(weights[1])


def test_each_line_and_the_next_translation(view: Any) -> None:
    view.get_by_role("button", name="Layer 1, head 1").click()
    with view.expect_response("**/attention"):
        write(view, "k l\n\nm n o")
    expect(view.locator(KEYS)).to_have_text(["k", "l", "</s>"])
    assert title(view) == "Layer 1, head 1"  # as before
    view.get_by_label("Line").select_option(index=1)
    expect(view.locator(KEYS)).to_have_text(["m", "n", "o", "</s>"])
    own = view.locator("#spoken").text_content().split("\n")[2]
    assert opacities(view) == drawn(of_words(answer(view, q="m n o", translation=own)["cross"])[0, 0])
    view.locator("#text").fill("")
    expect(view.locator(".attention-message")).to_have_text("There is no text yet.")
    assert view.locator(".attention-body").is_hidden()


def test_words_of_pieces_and_means_of_layers(page: Any) -> None:
    """More layers and pieces than the model here has."""
    weights = np.random.default_rng(1).integers(0, 1000, (2, 3, 4, 5))
    queries = {"pieces": list("abcd"), "words": [_word("abc", 0, 3), _word("d", 3, 4)]}
    keys = {"pieces": list("efghi"), "words": [_word("e", 0, 1), _word("fg", 1, 3), _word("hi", 3, 5)]}
    found = {"queries": queries, "keys": keys, "weights": weights.tolist()}
    script = 'async found => (await import("./static/attention_weights.js")).gridOf(found, false)'
    grid = page.evaluate(script, found)
    expected = of_words(found)
    expected = np.concatenate([expected, expected.mean(1, keepdims=True)], 1)
    expected = np.concatenate([expected, expected.mean(0, keepdims=True)])
    assert grid["queries"] == ["abc", "d"] and grid["keys"] == ["e", "fg", "hi"]
    np.testing.assert_allclose([[cell["table"] for cell in row] for row in grid["rows"]], expected)
    names = [[cell["name"] for cell in row] for row in grid["rows"]]
    assert names[1][2] == "Layer 2, head 3" and names[1][3] == "Layer 2, mean of 3 heads"
    assert names[2][0] == "Head 1, mean of 2 layers" and names[2][3] == "Mean of all layers and heads"


def _word(text: str, start: int, end: int) -> dict[str, object]:
    return {"text": text, "start": start, "end": end}


def test_only_its_own_boxes_scroll(view: Any) -> None:
    for width in (360, 800, 1280):
        view.set_viewport_size({"width": width, "height": 800})
        view.locator(QUERIES).first.click()
        assert view.evaluate("document.documentElement.scrollWidth") == width
