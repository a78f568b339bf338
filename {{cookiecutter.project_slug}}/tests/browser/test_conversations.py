"""Conversations on the page: they outlive a reload, the back button finds them, and they can be deleted."""

from typing import Any

from playwright.async_api import Page, expect

from tests.browser.actions import OTHER, QUESTION, answered
from tests.browser.conftest import Server, Visit

WRONG = "It does not say when it closes again."
RIGHT = "It opens after failures, and closes when a trial succeeds."
REFRESH = """
(times) => import("/static/conversations.js")
  .then(({ refresh }) => Promise.allSettled(Array.from({ length: times }, () => refresh())))
  .then((ended) => ended.map(({ status }) => status))
"""


async def test_a_reload_keeps_the_conversation(visit: Visit, offline: Server) -> None:
    """Questions, answers and sources are there again, and the next question goes on with them."""
    page = await visit(offline)
    await answered(page)
    await answered(page, OTHER)
    address = page.url
    await page.reload()
    await expect(page.locator(".turn h2")).to_have_text([QUESTION, OTHER])
    await expect(page.get_by_role("heading", level=1)).to_have_text(QUESTION)
    await expect(page.locator(".chip").first).to_have_accessible_name("Source 1: Fallback and circuit breakers")
    await answered(page)
    await expect(page.locator(".turn")).to_have_count(3)
    assert page.url == address


async def test_the_back_button_goes_from_one_to_the_other(visit: Visit, offline: Server) -> None:
    """Each conversation has an address of its own."""
    page = await visit(offline)
    await answered(page)
    await page.locator("#new-conversation").click()
    await expect(page.locator("#welcome")).to_be_visible()
    await answered(page, OTHER)
    await page.go_back()
    await expect(page.locator("#welcome")).to_be_visible()
    await page.go_back()
    await expect(page.locator(".turn h2")).to_have_text([QUESTION])
    await page.go_forward()
    await page.go_forward()
    await expect(page.locator(".turn h2")).to_have_text([OTHER])


async def test_a_conversation_is_opened_and_deleted_from_the_list(visit: Visit, offline: Server) -> None:
    """Deleting asks once; then its address leads nowhere, the page says so, and one can go on."""
    page = await visit(offline)
    await answered(page, f"{QUESTION} It is for the list.")
    address = page.url
    await page.locator("#new-conversation").click()
    item = page.locator("#conversations li").filter(has_text="for the list")
    await item.get_by_role("link").press("Enter")
    await expect(page.locator(".turn")).to_have_count(1)
    await expect(item.get_by_role("link")).to_have_attribute("aria-current", "page")
    await expect(item.get_by_role("link")).to_be_focused()
    await item.hover()
    await item.get_by_role("button").click()
    await expect(item).to_be_visible()
    await item.get_by_role("button", name="press again").click()
    await expect(item).to_have_count(0)
    await expect(page.locator("#welcome")).to_be_visible()
    await page.goto(address)
    await expect(page.locator("#problem")).to_contain_text("This conversation was deleted")
    await expect(page.locator("#welcome")).to_be_visible()
    await answered(page)
    await expect(page.locator("#problem")).to_be_hidden()


async def test_the_list_outlives_what_goes_wrong_with_it(visit: Visit, offline: Server) -> None:
    """Reading it again fails, or happens twice at once, and nothing is lost or there twice."""
    page = await visit(offline)
    await answered(page)
    items = page.locator("#conversations li")
    await expect(page.get_by_role("heading", level=1)).to_have_text(QUESTION)  # the list has the new one
    before = await items.all_inner_texts()
    assert await page.evaluate(REFRESH, 2) == ["fulfilled", "fulfilled"]
    await expect(items).to_have_text(before)
    await page.route("**/v1/conversations?*", lambda route: route.abort())
    assert await page.evaluate(REFRESH, 1) == ["rejected"]
    await page.locator("#new-conversation").click()
    await expect(page.locator("#welcome")).to_be_visible()
    await expect(items).to_have_text(before)


async def newest_feedback(page: Page, server: Server) -> dict[str, Any]:
    """What is stored."""
    stored: dict[str, Any] = (await (await page.request.get(f"{server.url}v1/feedback?limit=1")).json())["data"][0]
    return stored


async def test_feedback_is_stored_with_its_words(visit: Visit, offline: Server) -> None:
    """A thumb counts at once, the words follow, a reload shows the thumb, and pressing it again loses nothing."""
    page = await visit(offline)
    turn = await answered(page)
    await turn.get_by_role("button", name="Bad answer").click()
    await page.get_by_label("What was wrong with it?").fill(WRONG)
    await page.get_by_label("What would have been right?").fill(RIGHT)
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#announcer")).to_contain_text("Thank you")
    await expect(turn.get_by_role("button", name="Bad answer")).to_be_focused()
    stored = await newest_feedback(page, offline)
    assert (stored["rating"], stored["comment"]) == ("down", WRONG)
    assert stored["correction"] == RIGHT
    await turn.get_by_role("button", name="Bad answer").click()
    await expect(page.get_by_label("What was wrong with it?")).to_have_value(WRONG)
    await page.reload()
    bad, good = (page.get_by_role("button", name=f"{name} answer") for name in ("Bad", "Good"))
    await expect(bad).to_have_attribute("aria-pressed", "true")
    await bad.click()
    await expect(page.get_by_label("What was wrong with it?")).to_have_value(WRONG)
    await expect(page.get_by_label("What would have been right?")).to_have_value(RIGHT)
    assert (await newest_feedback(page, offline))["comment"] == WRONG
    await good.click()
    await expect(good).to_have_attribute("aria-pressed", "true")
    await page.keyboard.press("Escape")
    await expect(page.get_by_label("What was good about it?")).to_be_hidden()


async def test_a_citation_opens_its_source_beside_the_answer(visit: Visit, offline: Server) -> None:
    """The quote is highlighted within its document; closing gives the focus back to the number that was pressed."""
    page = await visit(offline, viewport={"width": 1400, "height": 900})
    await answered(page)
    turn = await answered(page, OTHER)
    for chip in (page.locator(".chip").first, turn.locator(".chip")):
        await chip.click()
    source = page.get_by_role("dialog", name="What to do with a failed citation")
    await expect(source.locator("mark")).to_contain_text("Drop the failed citation")
    await expect(source.locator("mark")).to_be_in_viewport()
    await expect(source.locator(".passage")).to_contain_text("the answer follows from those words")
    await expect(source.get_by_role("heading")).to_be_focused()
    await expect(turn.locator(".answer")).to_be_in_viewport()
    await page.keyboard.press("Escape")
    await expect(source).to_be_hidden()
    await expect(turn.locator(".chip")).to_be_focused()
