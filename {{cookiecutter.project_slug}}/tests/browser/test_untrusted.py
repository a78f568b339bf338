"""What comes from outside and may be hostile or cut anywhere: a model's text, and a stream's events."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from playwright.async_api import Browser, Page, expect

from tests.browser.actions import CITED, QUESTION, ask
from tests.browser.conftest import Server, Visit
from tests.provider import Provider, Reply

HOSTILE = """
<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> <svg onload="window.hacked = 1">

![picture](https://elsewhere.test/pixel.png) [press](javascript:window.hacked=1) [data](data:text/html,<b>x</b>)
[shown](https://user@elsewhere.test/path) \u202egnp.exe [file](file:///etc/passwd) https://plain.test/page.

- one
  - [nested](JaVaScRiPt:alert(1))

| a | b |
|---|---|
| <b>x</b> | `code <i>` |

```html
<script>window.hacked = 1</script>
"""
INERT = """
(text) => import("/static/markdown.js").then(({ LiveMarkdown }) => {
  const root = document.createElement("div");
  document.body.append(root);
  new LiveMarkdown(root, () => null).show(text);
  const names = [...root.querySelectorAll("*")].map((element) => element.localName);
  const attributes = [...root.querySelectorAll("*")].flatMap((element) => element.getAttributeNames());
  const links = [...root.querySelectorAll("a")].map((a) => [a.href, a.rel, a.target, a.nextSibling?.textContent]);
  const shown = root.textContent;
  root.remove();
  return { names: [...new Set(names)].sort(), attributes: [...new Set(attributes)].sort(), links, text: shown };
})
"""
SHOWN = """
(text) => import("/static/markdown.js").then(({ LiveMarkdown }) => {
  const root = document.createElement("div");
  new LiveMarkdown(root, (number) => document.createTextNode(`{${number}}`)).show(text);
  return root.innerHTML;
})
"""
DEPTH = """
(text) => import("/static/markdown.js").then(({ LiveMarkdown }) => {
  const root = document.createElement("div");
  new LiveMarkdown(root, () => null).show(text);
  const depth = (element) => 1 + Math.max(0, ...[...element.children].map(depth));
  return depth(root);
})
"""
DEEPEST = 15
GROWS = """
(text) => import("/static/markdown.js").then(({ LiveMarkdown }) => {
  const marker = (number) => document.createTextNode(`{${number}}`);
  const grown = document.createElement("div");
  const live = new LiveMarkdown(grown, marker);
  for (let end = 1; end <= text.length; end++) live.show(text.slice(0, end));
  const whole = document.createElement("div");
  new LiveMarkdown(whole, marker).show(text);
  return [grown.innerHTML, whole.innerHTML];
})
"""
PARSED = """
(pieces) => import("/static/stream.js").then(({ EventReader }) => {
  const reader = new EventReader();
  return pieces.flatMap((piece) => [...reader.feed(piece)]);
})
"""
ALLOWED = {
    *("a", "code", "div", "em", "li", "ol", "p", "pre", "span", "strong"),
    *("table", "tbody", "td", "th", "thead", "tr", "ul"),
}
PIECES = (
    *("a", "word ", "\n", "\n\n", "**", "*", "_", "`", "```", "~~~", "- ", "  - ", "1. ", "# ", "| ", "|-|\n", "\t"),
    *("[", "](", ")", "[1]", "https://x.test/", "(", "<b>", "\\", "!"),
)
MARKDOWN = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
EVENTS = st.lists(st.tuples(st.sampled_from(["delta", "answer"]), st.text(max_size=12)), max_size=6)


@pytest.fixture(scope="module")
async def blank(browser: Browser, servers: dict[str, Server]) -> Page:
    """A page of the server, to use its modules on."""
    page = await browser.new_page()
    await page.goto(servers["offline"].url)
    return page


async def test_hostile_text_is_inert(blank: Page) -> None:
    """No element but those of the subset, no handler, no address but http, https and mailto; hosts are shown."""
    made: dict[str, Any] = await blank.evaluate(INERT, HOSTILE)
    assert set(made["names"]) <= ALLOWED
    assert set(made["attributes"]) <= {"class", "dir", "href", "rel", "target", "tabindex", "start"}
    assert made["links"] == [
        ["https://elsewhere.test/pixel.png", "noopener noreferrer", "_blank", " (elsewhere.test)"],
        ["https://user@elsewhere.test/path", "noopener noreferrer", "_blank", " (elsewhere.test)"],
        ["https://plain.test/page", "noopener noreferrer", "_blank", " (plain.test)"],
    ]
    assert "\u202e" not in made["text"]
    assert "<script>window.hacked = 1</script>" in made["text"]


async def test_a_hostile_answer_changes_nothing_on_the_page(visit: Visit, online: Server, provider: Provider) -> None:
    """The same through the whole application, streamed; the page would report a violation or a foreign request."""
    provider.always(Reply(f"{CITED}\n\n{HOSTILE}"))
    page = await visit(online)
    turn = await ask(page, f"{QUESTION} <img src=x onerror=window.hacked=1>")
    await expect(turn.get_by_role("list", name="Sources")).to_be_visible()
    await expect(turn.locator("h2")).to_contain_text("<img src=x")
    await page.reload()
    await expect(turn.locator(".answer")).to_contain_text("<script>")
    assert await page.evaluate("window.hacked") is None
    assert await turn.locator("script, img, iframe, [onerror], [onload]").count() == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("One *two* **three** `f(x)`", "One <em>two</em> <strong>three</strong> <code>f(x)</code>"),
        ("a*b*c and snake_case_name", "a*b*c and snake_case_name"),
        ("Said so. [1] And [12], not [x]", "Said so.{1} And{12}, not [x]"),
        ("# A *heading*", "<strong>A <em>heading</em></strong>"),
    ],
)
async def test_text_is_marked_up(blank: Page, text: str, shown: str) -> None:
    """Emphasis, code, headings and citations."""
    assert await blank.evaluate(SHOWN, text) == f'<p dir="auto">{shown}</p>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("- a\n- b\n  1. c\n- d\nmore", "<ul><li>a</li><li>b<ol><li>c</li></ol></li><li>d more</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("```py\n*x*\n\ny\n```\nz", '<pre tabindex="0"><code>*x*\n\ny</code></pre><p>z</p>'),
    ],
)
async def test_blocks_are_marked_up(blank: Page, text: str, shown: str) -> None:
    """Lists with lists in them, the number that a list begins with, and code as it is."""
    made: str = await blank.evaluate(SHOWN, text)
    assert made.replace(' dir="auto"', "").replace('<ol start="1">', "<ol>") == shown


@pytest.mark.parametrize(
    "text",
    ["*" * 60_000, "[" * 60_000, "- " * 9_000 + "x", "\n".join(" " * n + "- x" for n in range(120)), "_a" * 9_000],
)
async def test_no_text_is_too_much(blank: Page, text: str) -> None:
    """What is nested without end, or never closed, is shown in a moment, at a depth that a screen can show."""
    assert await blank.evaluate(DEPTH, text) <= DEEPEST


@hypothesis_settings(max_examples=40)
@given(text=MARKDOWN)
async def test_a_text_that_grows_ends_as_if_it_had_come_at_once(blank: Page, text: str) -> None:
    """Whatever was drawn in between leaves no trace."""
    grown, whole = await blank.evaluate(GROWS, text)
    assert grown == whole


@hypothesis_settings(max_examples=40)
@given(events=EVENTS, end=st.sampled_from(["\n", "\r\n", "\r"]), data=st.data())
async def test_events_are_read_over_every_border(
    blank: Page, events: list[tuple[str, str]], end: str, data: st.DataObject
) -> None:
    """However the stream is cut, and whatever ends its lines, each event arrives once; comments are none."""
    lines = [f": ping{end}{end}event: {name}{end}data: {json.dumps(said)}{end}{end}" for name, said in events]
    stream = "".join(lines) + ":"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = [{"name": name, "data": said} for name, said in events]
    assert await blank.evaluate(PARSED, pieces) == expected
    assert await blank.evaluate(PARSED, list(stream)) == expected
