"""Asking on the page: answers that stream, stop, fail, and come back."""

import asyncio

from playwright.async_api import Route, expect

from tests.browser.actions import CITED, OTHER, QUESTION, QUOTE, answered, ask
from tests.browser.conftest import Server, Visit
from tests.provider import CutStream, Provider, RateLimited, Reply, StallStream

GOES_ON = f"First it says this. {CITED} Then it goes on. And it never ends"
COLOUR = "(element) => getComputedStyle(element).color"
BEFORE_THE_END = len(GOES_ON.split(" ")) - 1


async def test_a_question_is_answered_with_sources_and_says_who_answers(visit: Visit, offline: Server) -> None:
    """The answer cites a document, and the page says that one talks to a machine."""
    page = await visit(offline)
    turn = await answered(page)
    await expect(turn.get_by_role("heading", name=QUESTION)).to_be_visible()
    await expect(turn.locator(".answer")).to_contain_text(QUOTE)
    await expect(turn.get_by_role("list", name="Sources")).to_contain_text("corpus/fallback-and-circuit-breakers.md")
    await expect(turn.locator(".chip")).to_have_accessible_name("Source 1: Fallback and circuit breakers")
    await expect(page.locator("#about-ai")).to_contain_text("quotes sentences")


async def test_the_first_page_shows_what_to_ask(visit: Visit, offline: Server) -> None:
    """An example is asked by pressing it."""
    page = await visit(offline)
    examples = page.get_by_role("list", name="Questions to begin with").get_by_role("button")
    await expect(examples).to_have_count(3)
    await examples.first.click()
    await expect(page.locator(".turn .answer")).to_contain_text("circuit breaker")
    await expect(page.locator("#welcome")).to_be_hidden()


async def test_the_three_examples_have_answers(visit: Visit, offline: Server) -> None:
    """What the page offers to ask is what the corpus answers offline, alone and one after the other."""
    page = await visit(offline)
    examples = await page.locator(".example").all_inner_texts()
    for example in examples:
        alone = await answered(await visit(offline), example)
        await expect(alone.locator(".chip").first).to_be_visible()
    for example in examples:
        turn = await answered(page, example)
        await expect(turn.locator(".chip").first).to_be_visible()
        await expect(turn).not_to_contain_text("Searched for")


async def test_a_question_that_goes_back_says_what_was_searched_for(visit: Visit, offline: Server) -> None:
    """Also after a reload; one that was searched for as it was asked says nothing of it."""
    page = await visit(offline)
    await answered(page)
    turn = await answered(page, "And when does it open?")
    searched = f"Searched for: {QUESTION} And when does it open?"
    await expect(turn.locator(".notice").filter(has_text="Searched for")).to_have_text(searched)
    await page.reload()
    await expect(page.locator(".notice").filter(has_text="Searched for")).to_have_text([searched])


async def test_a_question_that_is_too_long_can_be_shortened(visit: Visit, offline: Server) -> None:
    """Asking it again could not help, so it goes back into the field."""
    page = await visit(offline)
    question = f"{QUESTION} {'x' * 4_000}"
    turn = await ask(page, question)
    await expect(turn.locator(".notice")).to_contain_text("4,000 are allowed.")
    await expect(turn.get_by_role("button", name="Ask again")).to_have_count(0)
    await turn.get_by_role("button", name="Change the question").click()
    await expect(page.get_by_role("textbox")).to_have_value(question)
    await expect(page.get_by_role("textbox")).to_be_focused()
    await answered(page)


async def test_an_answer_grows_and_can_be_stopped(visit: Visit, online: Server, provider: Provider) -> None:
    """What came so far is shown with its citation; stopping ends the call of the model, and asking again works."""
    stalled = StallStream(GOES_ON, after=BEFORE_THE_END)
    provider.then(stalled, Reply(f"The second one. {CITED}"))
    page = await visit(online)
    turn = await ask(page)
    await expect(turn.locator(".answer")).to_contain_text("And it never")
    await expect(turn.locator(".answer")).to_have_attribute("aria-busy", "true")
    await turn.locator(".chip").click()
    await expect(page.get_by_role("dialog").locator("mark")).to_have_text(QUOTE)
    await page.get_by_role("button", name="Stop answering").click()
    assert await asyncio.to_thread(stalled.left.wait, 10)
    await expect(turn.locator(".notice")).to_have_text("Stopped.")
    soft = await page.locator("#about-ai").evaluate(COLOUR)
    assert await turn.locator(".notice").evaluate(COLOUR) == soft, "whoever stopped it made no error"
    await turn.get_by_role("button", name="Ask again").click()
    await expect(turn.locator(".answer")).to_contain_text("The second one.")
    await expect(turn.get_by_role("list", name="Sources")).to_be_visible()
    await expect(page.locator("#about-ai")).to_contain_text("openai/test-model")


async def test_whole_sentences_are_said(visit: Visit, online: Server, provider: Provider) -> None:
    """A screen reader gets each sentence when it is whole, once, and not the pieces."""
    provider.then(StallStream(GOES_ON, after=BEFORE_THE_END), Reply(GOES_ON))
    page = await visit(online)
    turn = await ask(page)
    said = page.locator("#announcer p")
    await expect(said).to_have_text(["First it says this.", "Then it goes on."])
    await page.get_by_role("button", name="Stop answering").click()
    await turn.get_by_role("button", name="Ask again").click()
    await expect(said.last).to_have_text("The answer is whole. It has 1 citations.")


async def test_whoever_reads_above_is_not_moved(visit: Visit, online: Server, provider: Provider) -> None:
    """The page follows the end of the text only for those who are there."""
    long = " ".join(f"Line {n}.\n\n" for n in range(60))
    provider.then(StallStream(f"{CITED} {long} and on", after=120))
    page = await visit(online, viewport={"width": 800, "height": 500})
    turn = await ask(page)
    await expect(turn.locator(".answer")).to_contain_text("Line 30.")
    await expect(turn.locator(".answer p").last).to_be_in_viewport()
    await page.mouse.move(400, 200)
    await page.mouse.wheel(0, -5_000)
    await expect(turn.get_by_role("heading")).to_be_in_viewport()
    await expect(page.locator("#to-end")).to_be_visible()
    await page.get_by_role("button", name="Stop answering").click()
    await expect(turn.locator(".notice")).to_have_text("Stopped.")
    await expect(turn.get_by_role("heading")).to_be_in_viewport()
    await page.get_by_role("button", name="Go to the newest answer").click()
    await expect(turn.get_by_role("button", name="Ask again")).to_be_in_viewport()
    await expect(page.locator("#to-end")).to_be_hidden()


async def test_a_stream_that_breaks_says_so(visit: Visit, online: Server, provider: Provider) -> None:
    """What came is kept as what it is, no answer, and one may ask again."""
    provider.then(CutStream(GOES_ON, after=BEFORE_THE_END), Reply(CITED))
    page = await visit(online)
    turn = await ask(page)
    await expect(turn.locator(".notice")).to_contain_text("The answer broke off before its end")
    await expect(turn.locator(".answer")).to_contain_text("Then it goes on.")
    await turn.get_by_role("button", name="Ask again").click()
    await expect(turn.get_by_role("list", name="Sources")).to_be_visible()


async def test_a_server_that_is_busy_says_when_to_come_back(visit: Visit, online: Server, provider: Provider) -> None:
    """The time of Retry-After is in the message."""
    provider.then(RateLimited(retry_after=90))
    turn = await ask(await visit(online))
    await expect(turn.locator(".notice")).to_contain_text("Try again in 90 seconds.")


async def test_an_abstention_does_not_look_like_an_answer(visit: Visit, offline: Server) -> None:
    """It says why, in words for those who read it, and cites nothing."""
    page = await visit(offline)
    turn = await answered(page, "Who won the football match last night?")
    await expect(turn).to_have_class("turn abstained")
    await expect(turn.locator(".answer")).to_have_text("The documents do not answer this question.")
    await expect(turn.locator(".notice").first).to_have_text(
        "No sentence of the documents fits the question well enough."
    )
    await expect(turn.get_by_role("list", name="Sources")).to_have_count(0)


async def test_a_server_that_is_gone_loses_no_question(visit: Visit, offline: Server) -> None:
    """A banner says so; when the server is back the question is answered, without anybody doing anything."""
    page = await visit(offline)
    await answered(page)
    offline.kill()
    turn = await ask(page, OTHER)
    await expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    await expect(turn.locator(".waiting")).to_have_text("Waiting for the server")
    await offline.start()
    await expect(turn.locator(".answer")).to_contain_text("Drop the failed citation")
    await expect(page.locator("#offline")).to_be_hidden()


async def test_a_question_is_taken_when_the_page_is_ready(visit: Visit, offline: Server) -> None:
    """Before it knows what it is about and which conversation is open, nothing can be typed that would be lost."""
    held = asyncio.Event()

    async def hold(route: Route) -> None:
        await held.wait()
        await route.continue_()

    page = await visit(offline)
    await page.route("**/app.json", hold)
    await page.reload()
    await expect(page.get_by_role("textbox")).to_be_disabled()
    held.set()
    await answered(page)


async def test_a_question_that_was_not_sent_outlives_a_reload(visit: Visit, offline: Server) -> None:
    """What is being written is there again."""
    page = await visit(offline)
    await page.get_by_role("textbox").fill("What about")
    await page.reload()
    await expect(page.get_by_role("textbox")).to_have_value("What about")


async def test_an_answer_can_be_copied(visit: Visit, offline: Server) -> None:
    """The clipboard has the text of the answer."""
    page = await visit(offline, permissions=["clipboard-read", "clipboard-write"])
    turn = await answered(page)
    await turn.get_by_role("button", name="Copy the answer").click()
    await expect(page.locator("#announcer")).to_contain_text("Copied.")
    assert QUOTE in await page.evaluate("navigator.clipboard.readText()")
