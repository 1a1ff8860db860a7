"""A look at a page in Chromium, where there is one."""

import re
import shutil
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def foreign_scripts(page: str) -> list[str]:
    """Script elements of a page that aren't its own."""
    own = r'<script(?: type="application/json" id="(?:explorer|contents)-\d+")?>'
    return [tag for tag in re.findall(r"<script[^>]*>", page) if not re.fullmatch(own, tag)]


def look_at(path: Path, width: int) -> list[str]:
    """Open a page, check that nothing is wrong with it, and return its texts from outside."""
    from playwright.sync_api import sync_playwright

    said, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        shown = page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
        texts = page.locator("bdi").all_text_contents()
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert overflow <= 0
    assert shown
    return texts
