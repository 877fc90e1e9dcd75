"""Headless Chromium for pages, which the machine has or has not; the fixture ``chromium``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
PHONE = {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True}
FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
    '--window-size=1400,900',
)  # fmt: skip

wants_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason='Chromium is not installed: apt-get install chromium chromium-driver',
)


@pytest.fixture(scope='module')
def chromium(tmp_path_factory) -> Iterator[Any]:
    """A driver; what it downloads lies in its attribute ``downloads``."""
    from selenium import webdriver

    downloads = tmp_path_factory.mktemp('downloads')
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option('prefs', {'download.default_directory': str(downloads)})
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.downloads = downloads
    yield driver
    driver.quit()


def within(seconds: float, condition: Callable[[], object]) -> None:
    """Wait for it: frames of an animation, and images that are decoded."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, 'it did not come about'
        time.sleep(0.02)


def whole(browser: Any, width: int, path: Path) -> None:
    """A picture of all of the page at a width of the window."""
    size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': width < 500}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
    time.sleep(0.5)
    height = browser.execute_script('return document.documentElement.scrollHeight')
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size | {'height': height})
    time.sleep(0.5)
    browser.save_screenshot(str(path))
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
