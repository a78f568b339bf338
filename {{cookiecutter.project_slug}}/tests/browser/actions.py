"""What people do on the page, in words of the page."""

from playwright.async_api import FilePayload, Locator, Page, expect

QUESTION = "What does a circuit breaker do?"
OTHER = "How should a failed citation be handled?"
QUOTE = "A circuit breaker stops"
# One of these stands in a passage with that number; the others are refused, and leave nothing.
CITED = " ".join(f'[{number}: "{QUOTE}"]' for number in range(1, 11))
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

expect.set_options(timeout=15_000)


async def ask(page: Page, question: str = QUESTION) -> Locator:
    """Type a question and send it; give its turn, which is not answered yet."""
    await page.get_by_role("textbox", name="Your question").fill(question)  # when it is clear what it goes on with
    before = await page.locator(".turn").count()
    await page.keyboard.press("Enter")
    return page.locator(".turn").nth(before)


async def answered(page: Page, question: str = QUESTION) -> Locator:
    """The same, when the answer is whole."""
    turn = await ask(page, question)
    await expect(turn.get_by_role("button", name="Copy the answer")).to_be_visible()
    return turn


def file(name: str, content: bytes) -> FilePayload:
    """A file to choose."""
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


async def open_documents(page: Page) -> Locator:
    """Open the dialog of documents."""
    await page.get_by_role("banner").get_by_role("button", name="Documents").click()
    dialog = page.get_by_role("dialog", name="Documents")
    await expect(dialog).to_be_visible()
    return dialog
