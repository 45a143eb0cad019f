"""HTML keeps its elements and attributes; its text is translated by blocks, and inline elements follow their words."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.server.errors import RequestError
from transformer_mt.server.markup import Page

Links = list[tuple[int, int]] | None
Engine = Callable[[str], tuple[str, Links]]


def same(text: str) -> tuple[str, Links]:
    return text.upper(), [(i, i) for i in range(len(text.split()))]


def reverse(text: str) -> tuple[str, Links]:
    words = text.split()
    return " ".join(reversed(words)), [(i, len(words) - 1 - i) for i in range(len(words))]


def unaligned(text: str) -> tuple[str, Links]:
    return text.upper(), None


def translated(text: str, engine: Engine) -> str:
    page = Page(text)
    for segment in page.segments:
        segment.replace(*engine(segment.text))
    return str(page)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", "b a"),
        ("a <b>b</b> c", "c <b>b</b> a"),
        ("a <b>b <i>c</i></b> d", "d <b><i>c</i> b</b> a"),
        ('see <a href="x?a&amp;b">this page</a>.', '<a href="x?a&amp;b">page. this</a> see'),
        ("go to <a>you</a>.", "<a>you</a>. to go"),
        ("(<b>yes</b>) <i>no!</i>", "<i>no!</i> (<b>yes</b>)"),
        ("m<sup>2</sup> of land", "land of m<sup>2</sup>"),
        ("<p>a b</p>\n <p> c d <br> e f</p>tail end", "<p>b a</p>\n <p> d c <br> f e</p>end tail"),
        ("<ul><li>a b<li>c d</ul>", "<ul><li>b a</li><li>d c</li></ul>"),
        ("<button>a b</button> <select><option>c d", "<button>b a</button> <select><option>d c</option></select>"),
        ("<a><div>a b</div></a> c d", "<a><div>b a</div></a> d c"),
        ("x<img> y", "y x<img> "),
        ('<img alt="a b"> x y', '<img alt="a b"> y x'),
        ("use <code>ls -l</code> here", "here use <code>ls -l</code> "),
        (
            "<script>a b</script><pre>c d</pre>",
            "<script>a b</script><pre>c d</pre>",
        ),
        ('a b<p translate="no">c d</p>', 'b a<p translate="no">c d</p>'),
        ('a <i class="x notranslate">C D</i> b', 'b a <i class="x notranslate">C D</i> '),
        ("a <!-- c d --> b", "b a <!-- c d --> "),
        ("a &lt;b&gt; &amp;", "&amp; &lt;b&gt; a"),
        ("<td>1 %</td>", "<td>% 1</td>"),
        ("<p>· —</p>", "<p>· —</p>"),
        ("a\xa0b", "b a"),
        ("", ""),
        ("a <!-- b", "a <!-- b-->"),
        ("a b <script>c", "b a <script>c</script>"),
        ("a b <i", "b a "),
        ("&#x1f;&#1;a b&#2; c&#x1f;", "c b a"),
        ("<p>a b</p></body></html><p>c d</p>", "<p>b a</p><p>d c</p>"),
        ("a</body>b", "ab"),
        (" <b>a</b> b", " b <b>a</b>"),
        ("\xa0<b>a</b>", "\xa0<b>a</b>"),
        ("<p>a <wbr>b c</p><p>d", "<p>c b a <wbr></p><p>d</p>"),
        ("<p><embed src=x> a b</p><p>c d</p>", '<p><embed src="x"> b a</p><p>d c</p>'),
        ('<video><source src="a>b"><track></video> a b', '<video><source src="a&gt;b"><track></video> b a'),
        ("a <time>b</time> <x-y>c</x-y>", "<x-y>c</x-y> <time>b</time> a"),
        ("a <picture><img></picture> b", "b a <picture><img></picture> "),
        ('a <i translate="NO">b</i>', 'a <i translate="NO">b</i>'),
        ('<a href="{{ x y }}" :z="" @click="p(&quot;ä&quot;)">a</a>',) * 2,
        ('<img src="/im Park.png?a&amp;b" alt="">',) * 2,
        ('<script>\'<meta http-equiv="Content-Type" content="a"></body><wbr>\' && 1</script>',) * 2,
        ("<xmp>a <b></xmp>",) * 2,
        ("<input checked :x>", '<input checked="checked" :x="">'),
        (
            "<style>a > b</style><textarea>&lt;/body> <wbr></textarea>",
            "<style>a > b</style><textarea>&lt;/body&gt; &lt;wbr&gt;</textarea>",
        ),
    ],
)
def test_elements_follow_their_words(text: str, expected: str) -> None:
    assert translated(text, reverse) == expected


def test_a_document_stays_one() -> None:
    page = '<!DOCTYPE html>\n<html lang="en"><head><title>a b</title></head><body class="x">c <em>d</em></body></html>'
    expected = page.replace("a b", "b a").replace("c <em>d</em>", "<em>d</em> c")
    assert translated(page, reverse) == expected


@pytest.mark.parametrize("mark", ['translate="no"', 'class="a notranslate"'])
def test_a_document_that_is_to_be_left_alone(mark: str) -> None:
    page = f"<html {mark}><head></head><body><p>a b</p></body></html>"
    assert translated(page, reverse) == page


def test_what_stands_behind_a_document_is_a_part_of_it() -> None:
    page = '<html><head><meta http-equiv="Content-Type" content="text/html"></head><body><p>a b</p>'
    for end in ("</body></html>c d", "</body>c d</html>", "</html>c d</body>\n"):
        assert "".join(translated(page + end, reverse).split("</p>")[1].split()) == "dc</body></html>"
    assert translated(f"{page}</body></html>\n", same) == page.replace("a b", "A B") + "</body></html>"


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("hut <b>in</b> a park", "zu einem Park", "zu <b>einem</b> Park"),
        ("sits <b>a</b> hat", "sitzt auf hat", "sitzt <b>auf</b> hat"),
        ("A <b>blond</b> boy", "Ein blonder Junge", "Ein <b>blonder</b> Junge"),
        ("5 m<sup>2</sup> of", "5 m2 of", "5 m<sup>2</sup> of"),
        ("x un<b>do</b> it", "x undo it", "x un<b>do</b> it"),
        ("in <b>Seoul</b> now", "x Seoul에서 now", "x <b>Seoul</b>에서 now"),
        ("in <b>北京</b> x", "x 去北京的 x", "x 去<b>北京</b>的 x"),
    ],
)
def test_the_same_characters_are_no_part_of_another_word(source: str, target: str, expected: str) -> None:
    [segment] = (page := Page(source)).segments
    segment.replace(target, [(1, 1)])
    assert str(page) == expected


def test_letters_without_end_in_elements_without_end() -> None:
    """In time that grows with their number; each element looked for its letters at each place, a tag its end."""
    page = f"{'<b>' * 95}{'a' * 19_000}{'</b>' * 95}"
    assert translated(page, lambda text: (text * 2, None)) == page.replace("a" * 19_000, "a" * 38_000)
    assert not Page("<wbr" * 500_000).segments


@pytest.mark.parametrize("before", ["", "<!-- a --><!-- b -->", "<!DOCTYPE html>\n<!-- a -->"])
def test_what_stands_before_a_document(before: str) -> None:
    """Nothing is added there; a byte order mark is taken off."""
    page = before + '<html lang="en"><body class="x"><p>ä b</p></body></html>'
    assert translated(page, reverse) == translated(f"\ufeff {page}", reverse) == page.replace("ä b", "b ä")


def test_several_links_and_none() -> None:
    """An element encloses all between the first and the last; neighbours share no word."""
    [segment] = (page := Page("a <b>b</b> <i>c</i> d")).segments
    segment.replace("A B C D E", [(1, 1), (1, 3), (2, 2), (3, 4)])
    assert str(page) == "A <b>B</b> <i>C</i> D E"
    assert translated("a b <b>c d</b>", unaligned) == "A B <b>C D</b>"
    [segment] = (page := Page("a <b>b</b>")).segments
    segment.replace("", [])
    assert str(page) == " <b></b>"
    [segment] = (page := Page("a <b>b</b> c")).segments
    segment.replace("<i>x</i>\x00 y", [(1, 9)])
    assert str(page) == "&lt;i&gt;x&lt;/i&gt; <b>y</b>"


def test_what_is_no_html() -> None:
    for text in ("<b>" * 200, "<!doctype html>"):
        with pytest.raises(RequestError, match="Invalid request"):
            Page(text)


WORDS = st.lists(st.sampled_from(["a", "bc", "d.", "(e)", "&f", "<g"]), max_size=3).map(" ".join).map(html.escape)
INLINE = st.sampled_from(["b", "i", 'a href="x"', "code", 'span translate="no"', "sup"])
BLOCKS = st.sampled_from(["p", "div", "li", 'td class="y"'])


def element(name: str, inside: str) -> str:
    return f"<{name}>{inside}</{name.split()[0]}>"


SENTENCES = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(st.one_of(inner, st.builds(element, INLINE, inner)), max_size=4).map(" ".join) | st.just("x<img>y")
    ),
    max_leaves=12,
)
PAGES = st.lists(st.builds(element, BLOCKS, SENTENCES) | SENTENCES, max_size=4).map("<br>".join)


@given(PAGES, st.sampled_from([same, reverse, unaligned]))
def test_nothing_is_lost(text: str, engine: Engine) -> None:
    def elements(page: str) -> Counter[tuple[str, ...]]:
        root = lxml.html.fragment_fromstring(page, create_parent=True)
        return Counter((one.tag, *map(str, one.items())) for one in root.iter())

    def characters(page: str) -> Counter[str]:
        root = lxml.html.fragment_fromstring(page, create_parent=True)
        return Counter("".join(root.text_content().upper().split()))

    found = translated(text, engine)
    assert elements(found) == elements(text)
    assert characters(found) == characters(text)
    again = translated(text, lambda one: (one, same(one)[1]))
    assert characters(again) == characters(text) and elements(again) == elements(text)
