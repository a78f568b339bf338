"""Take the pictures of the chat page for the docs: `make screenshots`. They show the fonts that this machine has."""

import asyncio
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from app.db.embedded import EmbeddedPostgres
from app.db.engine import migrate
from PIL import Image
from playwright.async_api import Browser, async_playwright
from tests.browser.actions import OTHER, PHONE, answered
from tests.browser.conftest import BROWSERS, FLAGS, Server

IMAGES = Path(__file__).parent.parent / "docs" / "images"
MOST_BYTES = 150_000
COLOURS = 64  # a page of text has no more that anybody could tell apart
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 760}}
LOOKS = {"light": WIDE, "dark": WIDE | {"color_scheme": "dark"}, "mobile": PHONE | {"device_scale_factor": 2}}


async def main() -> None:
    """Ask two questions in each look, and open the last source where there is room beside the answer."""
    with tempfile.TemporaryDirectory() as made:
        postgres = EmbeddedPostgres(Path(made) / "postgres")
        server = Server(Path(made), url := postgres.start(), APP_NAME="Field guide")
        try:
            await migrate(url)
            shutil.copytree("corpus", Path(made) / "corpus")
            server.command("ingest", "corpus").communicate()
            await server.start()
            await take(server)
        finally:
            server.kill()
            postgres.stop()
            shutil.rmtree(postgres.home)


async def take(server: Server) -> None:
    """One picture for each look."""
    IMAGES.mkdir(exist_ok=True)
    path = next(filter(None, map(shutil.which, BROWSERS)))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*FLAGS, "--disable-lcd-text"])
        for look, options in LOOKS.items():
            file = IMAGES / f"chat-{look}.png"
            picture = Image.open(BytesIO(await photograph(browser, server, options))).convert("RGB")
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
            if file.stat().st_size > MOST_BYTES:
                raise SystemExit(f"{file} is larger than {MOST_BYTES:,} bytes")
        await browser.close()


async def photograph(browser: Browser, server: Server, options: dict[str, Any]) -> bytes:
    """The page after two questions, as a PNG."""
    page = await browser.new_page(**options, reduced_motion="reduce")
    await page.goto(server.url)
    await answered(page)
    turn = await answered(page, OTHER)
    if "is_mobile" not in options:
        await turn.locator(".chip").first.click()
        await page.locator("#source .passage strong").first.wait_for()
    await page.mouse.move(0, 0)
    picture: bytes = await page.screenshot()
    return picture


if __name__ == "__main__":
    asyncio.run(main())
