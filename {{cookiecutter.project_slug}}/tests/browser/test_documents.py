"""Documents on the page: upload by choosing and by dropping, how far it is, why it failed, and deleting."""

import asyncio

from playwright.async_api import Page, Route, expect

from tests.browser.actions import PHONE, answered, file, open_documents
from tests.browser.conftest import Server, Visit

DROP = """
([name, text, times]) => {
  const data = new DataTransfer();
  data.items.add(new File([text.repeat(times)], name));
  dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}
"""
HERON = b"# Herons\n\nThe harbour heron of Vik eats eleven small herrings on each working day.\n"
HEIGHT = "(element) => element.getBoundingClientRect().height"
MOST_PIXELS = 100  # of a file on its way: its name, how far it is, and the bar
BUTTONS_PIXELS = 50


async def remove(page: Page, title: str) -> None:
    """Delete a document in the list."""
    await page.get_by_role("button", name=f"Delete {title}").click()
    await page.get_by_role("button", name=f"Delete {title}: press again").click()
    await expect(page.get_by_role("button", name=f"Delete {title}")).to_have_count(0)


async def test_files_are_uploaded_listed_and_can_be_asked_about(visit: Visit, offline: Server) -> None:
    """Each file says what became of it; the one that cannot be read says why, and is not offered to be tried again."""
    page = await visit(offline)
    dialog = await open_documents(page)
    await page.locator("#files").set_input_files([file("heron.md", HERON), file("broken.bin", b"\0\1\2" * 9)])
    uploads = dialog.get_by_role("list", name="Uploads").get_by_role("listitem")
    await expect(uploads.filter(has_text="heron.md")).to_contain_text("Added, 1 passage")
    broken = uploads.filter(has_text="broken.bin")
    await expect(broken).to_contain_text("broken.bin is no format that is known")
    await expect(broken).not_to_contain_text("upload/")
    await expect(broken.get_by_role("button", name="Try again")).to_be_hidden()
    await broken.get_by_role("button", name="Dismiss").click()
    await expect(broken).to_have_count(0)
    await expect(dialog.get_by_role("list", name="Stored")).to_contain_text("upload/heron.md")
    await dialog.get_by_role("button", name="Close").click()
    turn = await answered(page, "How many herrings does the harbour heron of Vik eat?")
    await expect(turn.get_by_role("list", name="Sources")).to_contain_text("upload/heron.md")
    await open_documents(page)
    await remove(page, "Herons")


async def test_an_upload_that_was_refused_for_now_can_be_tried_again(visit: Visit, offline: Server) -> None:
    """The page still has the file, and the name of each file is to be read beside the reason and the buttons."""
    page = await visit(offline, **PHONE)
    dialog = await open_documents(page)
    await page.route("**/v1/documents", refuse, times=1)
    await page.locator("#files").set_input_files([file("heron.md", HERON)])
    upload = dialog.get_by_role("list", name="Uploads").get_by_role("listitem")
    await expect(upload).to_contain_text("The server has more to do than it can. Try again in 9 seconds.")
    assert await upload.evaluate(HEIGHT) < MOST_PIXELS + BUTTONS_PIXELS
    await upload.get_by_role("button", name="Try again").click()
    await expect(upload).to_contain_text("Added, 1 passage")
    await remove(page, "Herons")


async def refuse(route: Route) -> None:
    """What an overloaded server says."""
    error = {"message": "the server has more to do than it can", "code": "overloaded"}
    await route.fulfill(status=503, headers={"Retry-After": "9"}, json={"error": error})


async def test_earlier_uploads_that_could_not_be_read_are_read_at_the_next_opening(
    visit: Visit, offline: Server
) -> None:
    """Without those of this page, which are listed already."""
    page = await visit(offline)
    dialog = await open_documents(page)
    uploads = dialog.get_by_role("list", name="Uploads").get_by_role("listitem")
    await page.locator("#files").set_input_files([file("old.bin", b"\0\1")])
    await expect(uploads).to_contain_text(["old.bin"])
    await expect(uploads.get_by_role("button", name="Dismiss")).to_be_visible()
    await page.route("**/v1/uploads?*", refuse, times=1)
    await page.reload()
    async with page.expect_response("**/v1/uploads?*"):
        await open_documents(page)
    await page.locator("#files").set_input_files([file("new.bin", b"\0\1")])
    await expect(uploads.filter(has_text="new.bin").get_by_role("button", name="Dismiss")).to_be_visible()
    await dialog.get_by_role("button", name="Close").click()
    await open_documents(page)
    await expect(uploads).to_contain_text(["new.bin", "old.bin"])
    await expect(uploads).to_have_count(2)
    for name in ("new.bin", "old.bin"):
        await uploads.filter(has_text=name).get_by_role("button", name="Dismiss").click()
    await expect(uploads).to_have_count(0)


async def test_what_failed_is_there_after_a_reload_until_it_is_dismissed(visit: Visit, offline: Server) -> None:
    """With the reason, and without another try where the file itself is what is wrong."""
    page = await visit(offline)
    dialog = await open_documents(page)
    await page.locator("#files").set_input_files([file("torn.bin", b"\0\1\2" * 9)])
    torn = dialog.get_by_role("list", name="Uploads").get_by_role("listitem").filter(has_text="torn.bin")
    await expect(torn).to_contain_text("no format that is known")
    await page.reload()
    await open_documents(page)
    await expect(torn).to_contain_text("no format that is known")
    await expect(torn.get_by_role("button", name="Try again")).to_be_hidden()
    await torn.get_by_role("button", name="Dismiss").click()
    await expect(torn).to_have_count(0)
    await page.reload()
    await open_documents(page)
    await expect(dialog.get_by_role("button", name="Delete BM25")).to_be_visible()
    await expect(torn).to_have_count(0)


async def test_a_dropped_file_is_uploaded(visit: Visit, offline: Server) -> None:
    """It may be dropped anywhere; the dialog opens and shows it."""
    page = await visit(offline)
    await expect(page.locator("#welcome")).to_be_visible()
    await page.evaluate(
        DROP, ["owl.md", "# Owls\n\nThe owl of the lighthouse sleeps until four in the afternoon.\n", 1]
    )
    await expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added, 1 passage")
    await remove(page, "Owls")


async def hold(page: Page, path: str) -> asyncio.Event:
    """Keep requests to a path waiting until the event is set."""
    released = asyncio.Event()

    async def wait(route: Route) -> None:
        await released.wait()
        await route.continue_()

    await page.route(path, wait)
    return released


async def test_a_list_that_is_read_again_leaves_a_hand_its_button(visit: Visit, offline: Server) -> None:
    """Where nothing has changed, nothing is drawn anew under whoever is about to delete."""
    page = await visit(offline)
    dialog = await open_documents(page)
    await expect(dialog.get_by_role("button", name="Delete BM25")).to_be_visible()
    await dialog.get_by_role("button", name="Close").click()
    released = await hold(page, "**/v1/documents?limit=50")
    await open_documents(page)
    await dialog.get_by_role("button", name="Delete BM25").click()
    async with page.expect_request_finished(lambda request: request.url.endswith("limit=50")):
        released.set()
    await expect(dialog.get_by_role("button", name="Delete BM25: press again")).to_be_visible()


async def test_an_upload_shows_how_far_it_is(visit: Visit, offline: Server) -> None:
    """As long as the server has not taken it, it is under way, in lines of words and not of letters."""
    page = await visit(offline)
    released = await hold(page, "**/v1/documents")
    dialog = await open_documents(page)
    await page.locator("#files").set_input_files([file("swift.md", b"# Swifts\n\nSwifts sleep in the air.\n" * 9)])
    bar = page.locator("progress")
    await expect(bar).to_have_attribute("aria-label", "Upload of swift.md")
    await expect(bar).to_have_js_property("position", 0)
    await expect(bar).to_be_visible()
    assert await dialog.get_by_role("list", name="Uploads").get_by_role("listitem").evaluate(HEIGHT) < MOST_PIXELS
    released.set()
    await expect(page.locator("#uploads")).to_contain_text("Added")
    await expect(bar).to_be_hidden()
    await page.unroute("**/v1/documents")
    await remove(page, "Swifts")


async def test_a_file_that_is_too_large_is_not_sent(visit: Visit, offline: Server) -> None:
    """The page knows the limit, and says it."""
    page = await visit(offline)
    await expect(page.locator("#welcome")).to_be_visible()
    await page.evaluate(DROP, ["large.txt", "x", 20_000_001])
    await expect(page.locator("#uploads")).to_contain_text("Too large: a file may have 20.0 MB.")
    data = (await (await page.request.get(f"{offline.url}v1/uploads?limit=100")).json())["data"]
    assert not any("large.txt" in one["source"] for one in data)
