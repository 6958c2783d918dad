"""
Tests in a real Chromium on the Airflow that tests/support/airflow_stack.py runs.

Playwright uses the installed Chromium (`make test-systems` installs Debian's package if it can) and never downloads
one. `make screenshots` sets `SCREENSHOTS=1`, which stores pictures in docs/images.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from playwright.sync_api import Browser, Page

    from tests.support.airflow_world import World

_FOLDER = Path(__file__).parent
_IMAGES = _FOLDER.parents[1] / "docs" / "images"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NONE = "no Chromium: install one (Debian and Ubuntu: apt-get install chromium), or run `make test-systems` as root"
_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 30_000
_FAILURES = _FOLDER.parents[1] / ".cache" / "browser"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Store a picture of the page of a failed test in .cache/browser."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.when == "call" and report.failed and page is not None:
        with suppress(PlaywrightError):
            page.screenshot(path=_FAILURES / f"{item.name}.png")
    return report


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of Chromium; without one, skip the test, or fail it in CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_NONE)
    return found


@pytest.fixture(scope="module")  # Playwright occupies the event loop of the process
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, world: World) -> Iterator[Page]:
    """A page of Airflow with an admin logged in."""
    context = browser.new_context(
        base_url=world.airflow.url,
        viewport={"width": 1200, "height": 900},
        locale="en-US",
        timezone_id="UTC",
    )
    context.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    page = context.new_page()
    page.goto("/auth/login")
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(world.airflow.passwords["admin"])
    page.locator("button[type=submit]").click()
    page.wait_for_url(lambda url: "/auth/login" not in url)
    yield page
    context.close()


@pytest.fixture
def picture(page: Page) -> Callable[[str], None]:
    """Return a function that stores a picture of the page for the docs, if requested."""

    def keep(name: str) -> None:
        if os.environ.get("SCREENSHOTS"):
            # Wait for animations to end.
            page.wait_for_timeout(700)
            _IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=_IMAGES / f"{name}.png", animations="disabled", scale="css")

    return keep
