"""A real headless browser for tests of the report page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")


@contextmanager
def launched() -> Iterator[Any]:
    """A playwright browser. Skips the test where there is none; in CI there must be one."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)  # None: playwright's own
        try:
            # Containers have no user namespaces for the sandbox; only our own page is loaded.
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error:
            if "CI" in os.environ:  # where nothing may be skipped
                raise
            pytest.skip("no headless Chromium here: tests/support/install_browser.sh installs one")
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, page_file: Path, width: int = 1100, scheme: str = "light") -> Iterator[Any]:
    """The file in a new window, cut off from any network; complains at the end if the console did."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page, complaints = context.new_page(), []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    yield page
    context.close()
    assert complaints == []
