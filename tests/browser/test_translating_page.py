"""The page of `tmt serve` in a real browser, in front of a real server and a model that was trained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import Trained, serving, tmt_here

pytest.importorskip("starlette")
# It waits without evaluating anything in the page, which the page's policy forbids.
expect = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright").expect

OPTIONS = "#candidates [role=option]"


def translation(page: Any) -> str:
    return str(page.locator("#translation").inner_text())


def write(page: Any, text: str) -> None:
    """Type it, and wait for its translation, which has as many lines."""
    with page.expect_response(lambda one: one.url.endswith("/explain") and one.request.post_data_json["q"] == text):
        page.locator("#text").fill(text)
    page.wait_for_selector("#translation[aria-busy=false] .word")


def expected(trained: Trained, text: str) -> str:
    return "\n".join(tmt_here("translate", trained.run, stdin=f"{text}\n").ok().lines)


def test_what_is_typed_is_translated(page: Any, trained: Trained) -> None:
    page.locator("#text").press_sequentially("a b c d", delay=5)
    page.wait_for_selector("#translation .word")
    assert translation(page) == expected(trained, "a b c d")
    write(page, "a b c d\n\nk l m")
    assert translation(page) == expected(trained, "a b c d\n\nk l m")
    assert page.locator("#spoken").text_content() == translation(page)
    words = page.locator("#translation .word").all()
    assert all(re.fullmatch(r"\d+ %|\d\.\d %|< 0.1 %", word.get_attribute("title")) for word in words)
    assert len({word.get_attribute("data-doubt") for word in words}) > 1  # it is not sure of all
    assert page.locator("#count").inner_text() == "14 of 20,000 characters"
    assert page.locator("#alternatives li").count() == 1
    page.locator("#text").fill("")
    expect(page.locator("#translation")).to_be_empty()
    assert page.locator("#alternatives").is_hidden()


def test_a_late_answer_is_not_shown(page: Any, trained: Trained) -> None:
    held: list[Any] = []

    def first_is_slow(route: Any) -> None:
        if route.request.post_data_json["q"] == "a b":
            held.append(route)
        else:
            route.continue_()

    page.route("**/explain", first_is_slow)
    page.locator("#text").fill("a b")
    expect(page.locator("#translation")).to_have_attribute("aria-busy", "true")
    write(page, "k l m")
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_timeout(300)
    assert translation(page) == expected(trained, "k l m")
    assert page.locator("#translation").get_attribute("aria-busy") == "false"


def test_words_of_another_text_are_not_looked_into(page: Any) -> None:
    """What is chosen there would be lost with the next answer."""
    write(page, "a b c")
    page.route("**/explain", lambda route: None)  # never answered
    page.locator("#text").fill("a b c d")
    page.locator("#translation .word").first.click()
    expect(page.locator("#translation")).to_have_attribute("aria-busy", "true")
    page.locator("#translation .word").first.click()
    assert page.locator("#candidates").is_hidden()


def test_languages_that_there_are(page: Any) -> None:
    """Of a server with three directions, which can tell languages."""
    languages = [
        {"code": "de", "name": "German", "targets": ["en"]},
        {"code": "en", "name": "English", "targets": ["de", "fr"]},
        {"code": "fr", "name": "French", "targets": []},
    ]
    page.route("**/languages", lambda route: route.fulfill(json=languages))

    def detecting(route: Any) -> None:
        settings = route.fetch().json() | {
            "detection": True,
            "language": {"source": languages[1], "target": languages[2]},
        }
        route.fulfill(json=settings)

    page.route("**/frontend/settings", detecting)
    answers(page, "a", "ein", "Hund", detected={"language": "en", "confidence": 80})
    page.reload()
    source, target, swap = (page.locator(f"#{name}") for name in ("source", "target", "swap"))
    expect(source.locator("option")).to_have_text(["Detect language", "German", "English"])
    assert (source.input_value(), target.input_value(), swap.is_disabled()) == ("en", "fr", True)
    source.select_option("de")
    expect(target.locator("option")).to_have_text(["English"])
    assert swap.is_enabled()
    source.select_option("auto")
    expect(target.locator("option")).to_have_text(["German", "English", "French"])
    target.select_option("de")
    with page.expect_request("**/explain") as asked:
        page.locator("#text").fill("a")
    assert asked.value.post_data_json == {"q": "a", "source": "auto", "target": "de", "alternatives": 3}
    expect(page.locator("#detected")).to_have_text("English, 80 % sure")
    assert page.locator("#text").get_attribute("lang") == "en"
    with page.expect_request("**/explain") as asked:
        swap.click()
    assert asked.value.post_data_json == {"q": "ein Hund", "source": "de", "target": "en", "alternatives": 3}


def test_a_candidate_is_chosen_with_the_mouse(page: Any) -> None:
    write(page, "a b c d e\nk l m n")
    before = [word.inner_text() for word in page.locator("#translation .word[data-part='1']").all()]
    first = translation(page).split("\n")[0]
    page.locator("#translation .word[data-part='1']").nth(1).click()
    page.wait_for_selector(OPTIONS)
    assert page.locator(f"{OPTIONS}[aria-selected=true]").inner_text().split()[0] == before[1]
    chances = [float(re.sub(r"[^\d.]", "", one.inner_text())) for one in page.locator(f"{OPTIONS} .number").all()]
    assert chances == sorted(chances, reverse=True) and sum(chances) <= 101
    page.locator("#translation .word[data-part='1']").nth(1).dblclick()  # closes it, opens it again
    page.wait_for_selector(OPTIONS)
    other = page.locator(f"{OPTIONS}[aria-selected=false]").first
    chosen = other.locator("bdi").inner_text()
    other.hover()
    preview = page.locator("#preview").inner_text()
    other.click()
    page.wait_for_selector("#translation .word.chosen")
    assert translation(page).split("\n") == [first, preview] and preview.split()[:2] == [before[0], chosen]
    word = page.locator("#translation .word.chosen")
    assert word.inner_text() == chosen and "chosen by you" in word.get_attribute("title")
    page.locator("#undo").click()
    expect(page.locator(".word.chosen")).to_have_count(0)
    assert translation(page).split("\n") == [first, " ".join(before)]


def test_a_candidate_is_chosen_with_the_keyboard(page: Any) -> None:
    write(page, "a b c d e")
    before = translation(page)
    focused = "document.activeElement."
    page.locator("#text").press("Tab")
    assert page.evaluate(f"{focused}className") == "word"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    word = page.evaluate(f"{focused}textContent")
    assert word == before.split()[2]
    page.keyboard.press("Enter")
    page.wait_for_selector(OPTIONS)
    assert page.evaluate(f"{focused}role") == "option"
    page.keyboard.press("Escape")
    page.wait_for_selector("#candidates", state="hidden")
    assert page.evaluate(f"{focused}textContent") == word and translation(page) == before
    page.keyboard.press("Enter")
    page.wait_for_selector(OPTIONS)
    page.keyboard.press("End")
    chosen = page.locator(f"{OPTIONS}:focus bdi").inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")  # no further
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_selector("#translation .word.chosen:focus")
    assert translation(page).split()[:3] == [*before.split()[:2], chosen]


def test_a_link_holds_text_and_view(page: Any, browser: Any) -> None:
    text = "a b & c #d%\nk l"
    write(page, text)
    page.locator("#shades").uncheck()
    page.locator("#link").click()
    link = page.locator("#dialog-text").input_value()
    page.keyboard.press("Escape")
    other = browser.new_page()
    asked: list[str] = []
    other.on("request", lambda request: asked.append(request.url))
    other.goto(link)
    other.wait_for_selector("#translation .word")
    assert other.locator("#text").input_value() == text and translation(other) == translation(page)
    assert not other.locator("#shades").is_checked()
    assert other.locator("#translation.plain").count() == 1
    assert not any("text=" in url.partition("#")[0] for url in asked)
    other.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_request_as_curl_does_what_the_page_does(page: Any) -> None:
    write(page, "a b 'c' \"d\" $e `f`\nk l\\m")
    page.locator("#curl").click()
    command = page.locator("#dialog-text").input_value()
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert json.loads(done.stdout) == {"translatedText": translation(page)}


def test_a_file_is_translated(page: Any, trained: Trained, tmp_path: Path, sources: list[str]) -> None:
    lines = [*sources, "", "a b", *sources[:30]]
    requests: list[Any] = []
    page.on("request", lambda one: requests.append(one.post_data_json) if one.url.endswith("/translate") else None)
    file = tmp_path / "some text.txt"
    file.write_bytes("\r\n".join(lines).encode() + b"\n")
    page.locator("#file").set_input_files(file)
    page.wait_for_selector("#download:not([hidden])", timeout=60_000)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "some text.tgt.txt"
    found = Path(download.value.path()).read_bytes().decode()
    assert found.endswith("\n") and found[:-1].split("\r\n") == expected(trained, "\n".join(lines)).split("\n")
    assert len(requests) >= 3 and all(len(one["q"]) <= 32 for one in requests)
    file.write_bytes(b"\xff\xfe")
    page.locator("#file").set_input_files(file)
    expect(page.locator("#file-message")).to_contain_text("UTF-8")


def test_a_busy_server_is_asked_once_more(page: Any, trained: Trained) -> None:
    asked: list[Any] = []

    def busy_at_first(route: Any) -> None:
        asked.append(route.request.post_data_json)
        if len(asked) == 1:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "Slowdown"})
        else:
            route.continue_()

    page.route("**/explain", busy_at_first)
    page.locator("#text").fill("a b c")
    expect(page.locator("#status")).to_contain_text("again in 1 s")
    page.wait_for_selector("#translation .word")
    assert translation(page) == expected(trained, "a b c") and asked[0] == asked[1] and len(asked) == 2
    assert page.locator("#status").inner_text() == ""


def test_refusals_are_told_in_words(browser: Any, trained: Trained, tmp_path: Path) -> None:
    """A server with keys and a small limit; then one that is gone."""
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    page = browser.new_page()
    with serving(trained.run, "--api-keys", keys, "--max-characters", 30) as (running, port):
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#text").fill("a b c")
        status = page.locator("#status.error")
        status.wait_for()
        assert "API key" in status.inner_text() and translation(page) == ""
        page.locator("#key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("not one of")
        page.locator("#key").fill("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#translation .word")
        assert page.locator("#status").inner_text() == "" and status.count() == 0
        page.reload()
        assert page.locator("#key").input_value() == "secret"
        page.locator("#text").fill("a " * 20)
        status.wait_for()
        assert "too long" in status.inner_text()
        page.locator("#curl").click()
        assert '"KEY"' in page.locator("#dialog-text").input_value()  # nobody's secret
        page.keyboard.press("Escape")
        running.kill()
        page.locator("#text").fill("a b")
        expect(page.locator("#status")).to_contain_text("cannot be reached")
    page.close()


def answers(page: Any, source: str, *words: str, detected: dict[str, Any] | None = None) -> None:
    """Let the server say that a text becomes these words."""
    tokens = [
        {"piece": f"▁{word}", "text": f" {word}" if i else word, "word": i, "logProb": -0.1 * i}
        for i, word in enumerate(words)
    ]
    text = " ".join(words)
    part = {"source": source, "text": text, "after": "", "tokens": tokens}
    answer: dict[str, Any] = {"translatedText": text, "alternatives": [text[::-1]], "before": "", "parts": [part]}
    if detected:
        answer["detectedLanguage"] = detected
    page.route("**/explain", lambda route: route.fulfill(json=answer))


def test_text_is_never_markup(page: Any) -> None:
    words = ("<img", "src=x", "onerror=alert(1)>", "<script>alert(2)</script>")
    answers(page, "a", *words)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.locator("#text").fill("a")
    page.wait_for_selector("#translation .word")
    assert translation(page) == " ".join(words) and page.locator("main img").count() == 0


def test_right_to_left(page: Any) -> None:
    answers(page, "a", "كلب", "يركض", "في", "New", "York", "الآن")
    page.locator("#text").fill("a")
    page.wait_for_selector("#translation .word")
    assert page.evaluate("getComputedStyle(document.querySelector('#translation')).direction") == "rtl"
    left = [word.bounding_box()["x"] for word in page.locator("#translation .word").all()]
    assert left[0] > left[1] > left[2] > left[4] > left[3] > left[5]  # New York reads from the left within
    page.locator("#text").press("Tab")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == "يركض"


@pytest.mark.parametrize("width", [320, 360, 800, 1280])
def test_nothing_lies_beyond_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 600})
    write(page, " ".join("abcdefghijklmnop") + "\n" + "k" * 90)
    page.locator("#translation .word").last.click()
    page.wait_for_selector(OPTIONS)
    box = page.locator("#candidates").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] >= 0 and box["y"] + box["height"] <= 600
    assert page.evaluate("document.documentElement.scrollWidth") <= width
