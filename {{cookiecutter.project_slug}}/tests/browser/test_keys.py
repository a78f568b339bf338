"""The page of a server that asks for an API key."""

import re

import pytest
from playwright.async_api import expect

from tests.browser.actions import QUESTION, ask, file, open_documents
from tests.browser.conftest import Server, Visit


def made(servers: dict[str, Server], *arguments: str) -> str:
    """A new key of a tenant that has no documents."""
    printed, _ = servers["locked"].command("keys", "create", *arguments, "--tenant", "empty").communicate()
    assert printed
    return printed.decode().strip()


@pytest.fixture(scope="module")
def key(servers: dict[str, Server]) -> str:
    """A key that allows everything."""
    return made(servers, "reader")


@pytest.fixture(scope="module")
def narrow(servers: dict[str, Server]) -> str:
    """A key for documents alone."""
    return made(servers, "narrow", "--scope", "documents:read")


async def test_a_key_is_asked_for_and_kept_in_the_tab(visit: Visit, locked: Server, key: str) -> None:
    """A wrong key is asked for again; the right one is not, also after a reload, and another tab does not have it."""
    page = await visit(locked)
    dialog = page.get_by_role("dialog", name="An API key is needed")
    await expect(dialog).to_have_accessible_description(re.compile("^Only those with a key can use this."))
    for given in ("wrong", key):
        async with page.expect_response("**/v1/conversations?*"):
            await dialog.get_by_label("API key").fill(given)
            await page.keyboard.press("Enter")
        await expect(dialog).to_be_visible(visible=given == "wrong")
        if given == "wrong":
            await expect(dialog).to_have_accessible_description(re.compile("^That key was not accepted."))
    await page.reload()
    await expect(page.locator("#no-documents")).to_be_visible()
    await expect(dialog).to_be_hidden()
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    turn = await ask(page)
    await expect(turn.locator(".notice")).to_contain_text("add a document first")


async def test_without_a_key_the_question_waits(visit: Visit, locked: Server) -> None:
    """Whoever gives none is told, and may ask again; the question is still there."""
    page = await visit(locked)
    dialog = page.get_by_role("dialog", name="An API key is needed")
    await dialog.get_by_role("button", name="Not now").click()
    await expect(page.locator("#problem")).to_contain_text("asks for an API key")
    turn = await ask(page)
    await dialog.get_by_role("button", name="Not now").click()
    await expect(turn.locator(".notice")).to_contain_text("asks for an API key")
    await expect(turn.get_by_role("heading")).to_have_text(QUESTION)
    await turn.get_by_role("button", name="Ask again").click()
    await expect(dialog).to_be_visible()


async def test_a_key_that_does_not_allow_it_is_told_once(visit: Visit, locked: Server, narrow: str) -> None:
    """What it lacks is said in one sentence, and what to do in another; an upload is not offered to be tried again."""
    page = await visit(locked)
    await page.get_by_role("textbox", name="API key").fill(narrow)
    await page.keyboard.press("Enter")
    await expect(page.locator("#problem")).to_have_text(
        "This API key lacks the scope chat. Ask whoever runs this for another key."
    )
    dialog = await open_documents(page)
    await page.locator("#files").set_input_files([file("wren.md", b"# Wrens")])
    upload = dialog.get_by_role("list", name="Uploads").get_by_role("listitem")
    await expect(upload).to_contain_text("lacks the scope documents:write")
    await expect(upload.get_by_role("button", name="Try again")).to_be_hidden()
