"""The page for everybody: by keyboard, by screen reader, on a phone, in the dark; small, and never from elsewhere."""

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Request, expect

from tests.browser.actions import PHONE, QUESTION, answered, ask, file, open_documents
from tests.browser.conftest import Server, Visit

LIGHT: dict[str, Any] = {"color_scheme": "light", "viewport": {"width": 1400, "height": 900}}
LOOKS: dict[str, dict[str, Any]] = {"light": LIGHT, "dark": LIGHT | {"color_scheme": "dark"}, "mobile": PHONE}
MOST_BYTES = 60_000
TOP = "(element) => element.getBoundingClientRect().top"
BOTTOM = "(element) => element.getBoundingClientRect().bottom"
SMALL = """
() => [...document.querySelectorAll("button, a, input, textarea, label.button")]
  .filter((element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .filter((element) => !element.matches(".chip, #files, #skip") && element.getBoundingClientRect().height < 44)
  .map((element) => element.outerHTML)
"""


async def check(page: Page) -> None:
    """Nothing that axe knows of is wrong with the page as it is now."""
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_axe_finds_nothing(visit: Visit, offline: Server, look: dict[str, Any]) -> None:
    """In each look, with each thing open that can be."""
    page = await visit(offline, reduced_motion="reduce", **look)
    await expect(page.get_by_role("list", name="Questions to begin with")).to_be_visible()
    await check(page)
    turn = await answered(page)
    await ask(page, "Who won the football match last night?")
    await expect(page.locator(".abstained")).to_be_visible()
    await turn.get_by_role("button", name="Bad answer").click()
    await check(page)
    await turn.locator(".chip").click()
    await expect(page.locator("#source mark")).to_be_visible()
    await check(page)
    await page.keyboard.press("Escape")
    dialog = await open_documents(page)
    await page.locator("#files").set_input_files([file("broken.bin", b"\0\1")])
    await expect(dialog.get_by_role("button", name="Dismiss")).to_be_visible()
    await check(page)
    await dialog.get_by_role("button", name="Dismiss").click()
    await expect(dialog.get_by_role("button", name="Dismiss")).to_have_count(0)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_axe_finds_nothing_where_a_key_is_asked_for(visit: Visit, locked: Server, look: dict[str, Any]) -> None:
    """The same for that dialog, and for the error that follows without one."""
    page = await visit(locked, reduced_motion="reduce", **look)
    await expect(page.get_by_role("dialog")).to_be_visible()
    await check(page)
    await page.get_by_role("button", name="Not now").click()
    await expect(page.locator("#problem")).to_be_visible()
    await check(page)


async def test_axe_finds_nothing_in_the_open_sidebar(visit: Visit, offline: Server) -> None:
    """On a phone it lies over the rest; Escape closes it, and so does going on behind its end."""
    page = await visit(offline, reduced_motion="reduce", **PHONE)
    button = page.get_by_role("button", name="Conversations")
    await button.click()
    await expect(page.get_by_role("navigation")).to_be_visible()
    await expect(page.get_by_role("button", name="Close the list")).to_be_focused()
    await check(page)
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("navigation")).to_have_count(0)
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("navigation")).to_be_visible()
    await page.get_by_role("textbox").focus()
    await expect(page.get_by_role("navigation")).to_have_count(0)


async def test_the_keyboard_is_enough(visit: Visit, offline: Server) -> None:
    """To the question, to a source and back, and to the feedback, without a mouse; the focus is always seen."""
    page = await visit(offline)
    await expect(page.locator("#welcome")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Go to the question")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await page.keyboard.type(QUESTION)
    await page.keyboard.press("Enter")
    turn = page.locator(".turn")
    await expect(turn.get_by_role("button", name="Copy the answer")).to_be_visible()
    await expect(page.get_by_role("textbox")).to_be_focused()
    actions = [turn.get_by_role("button", name=name) for name in ("Bad answer", "Good answer", "Copy the answer")]
    for button in (*actions, turn.locator(".reference"), turn.locator(".chip")):
        await page.keyboard.press("Shift+Tab")
        await expect(button).to_be_focused()
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await page.keyboard.press("Enter")
    source = page.locator("#source")
    await expect(source.get_by_role("heading")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(source.get_by_role("button", name="Close")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(source).to_be_hidden()
    await expect(turn.locator(".chip")).to_be_focused()


@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 620}}, PHONE], ids=["wide", "phone"])
async def test_a_form_opens_clear_of_the_composer(visit: Visit, offline: Server, options: dict[str, Any]) -> None:
    """What is below the last answer is seen, whole, without scrolling."""
    page = await visit(offline, reduced_motion="reduce", **options)
    await answered(page)
    turn = await answered(page)
    await page.evaluate("document.querySelector('.turn:last-child .actions').scrollIntoView({ block: 'end' })")
    await turn.get_by_role("button", name="Bad answer").click()
    field, send = turn.get_by_label("What was wrong with it?"), turn.get_by_role("button", name="Send")
    await expect(field).to_be_focused()
    assert await send.evaluate(BOTTOM) <= await page.locator("#composer").evaluate(TOP)
    assert await field.evaluate(TOP) >= await page.locator("header").evaluate(BOTTOM)


async def test_a_line_break_is_no_question(visit: Visit, offline: Server) -> None:
    """Shift and Enter go on writing, an empty question is none, and neither asks."""
    page = await visit(offline)
    await expect(page.locator("#welcome")).to_be_visible()
    field = page.get_by_role("textbox")
    await field.press("Enter")
    await field.press("a")
    await field.press("Shift+Enter")
    await field.press("b")
    await expect(field).to_have_value("a\nb")
    await expect(page.locator(".turn")).to_have_count(0)


@pytest.mark.parametrize("width", [320, 640, 1000, 1280])
async def test_nothing_is_cut_off_on_a_narrow_page(visit: Visit, offline: Server, width: int) -> None:
    """Also at 200 % of 1280 pixels, which is 640, and at 400 %, there is one direction to scroll."""
    page = await visit(offline, viewport={"width": width, "height": 700})
    turn = await answered(page)
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not await page.evaluate(wide)
    await turn.locator(".chip").click()
    await expect(page.locator("#source mark")).to_be_in_viewport()
    assert not await page.evaluate(wide)


async def test_fingers_find_what_they_press(visit: Visit, offline: Server) -> None:
    """On a phone each button has 44 pixels; the numbers in a text have as many around them as fit."""
    page = await visit(offline, **PHONE)
    await expect(page.locator("#welcome")).to_be_visible()
    assert await page.evaluate(SMALL) == []
    await answered(page)
    assert await page.evaluate(SMALL) == []
    await page.get_by_role("button", name="Conversations").click()
    await expect(page.get_by_role("navigation")).to_be_visible()
    assert await page.evaluate(SMALL) == []


async def test_the_whole_page_is_small(visit: Visit, offline: Server) -> None:
    """Everything that a first visit transfers, headers included, is at most 60 kB; a second one is a quarter of it."""
    page = await visit(offline)
    requests: list[Request] = []

    def finished(request: Request) -> None:  # Playwright takes no method of a list
        requests.append(request)

    page.on("requestfinished", finished)
    await page.reload(wait_until="networkidle")
    transferred = [await request.sizes() for request in requests]
    assert 20 < len(transferred) < 30
    assert sum(size["responseBodySize"] + size["responseHeadersSize"] for size in transferred) <= MOST_BYTES
