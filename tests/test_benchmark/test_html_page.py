"""The page of a benchmark in a browser: headless Chromium, which the machine has or has not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from browsers import PHONE, wants_chromium, within
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from workspaces import pairs, write_pairs

from defsr.benchmark.html_report import HtmlReport
from defsr.benchmark.maps import MapMaker, Maps
from defsr.benchmark.options import read_benchmark
from defsr.benchmark.report import Report
from defsr.benchmark.rows import collect
from defsr.benchmark.runner import Runner

HOSTILE = '</script><img src=x onerror="document.title=\'taken\'">'

pytestmark = wants_chromium


@pytest.fixture(scope='module')
def page(tmp_path_factory, stereo) -> str:
    """The address of a page of three images, three methods and maps of the first image."""
    folder = tmp_path_factory.mktemp('page')
    sizes = [(100, 150, 160, 160), (100, 400, 160, 160), (50, 300, 80, 120)]
    write_pairs(folder / 'datasets', stereo, sizes)
    opt = {
        'name': 'b',
        'scale': 4,
        'num_gpu': 0,
        'save_images': True,
        'datasets': {'d': pairs(folder / 'datasets')},
        'methods': {label: {'method': 'bicubic'} for label in ('bicubic', 'same', HOSTILE)},
        'compare_to': 'bicubic',
        'report': {'side': 96, 'maps': None},
    }
    opt['methods'][HOSTILE] = {'method': 'pinv'}
    benchmark = read_benchmark(opt)
    Runner(benchmark, folder).run()
    report = HtmlReport(Report(benchmark, collect(benchmark, folder), {}, 'a command'), folder)
    grey = np.full((160, 160, 3), 90, np.uint8)
    pictures = {'rectified': grey, 'rho': cv2.resize(grey, (40, 40)), 'matches_1': grey}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MapMaker, 'of', lambda *_: Maps('12 matches', pictures))
        patch.setitem(report.options, 'maps', 'same')
        report.maker = MapMaker(benchmark, folder, 'same')
        report.write(folder / 'report.html')
    return (folder / 'report.html').as_uri()


@pytest.fixture
def browser(chromium, page) -> Iterator[WebDriver]:
    """The page as it is opened; nothing is said in the console until the end."""
    chromium.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    chromium.get(page)
    yield chromium
    assert chromium.get_log('browser') == []
    assert chromium.title == 'b'


def by_id(browser: WebDriver, name: str) -> WebElement:
    return browser.find_element(By.ID, name)


def press(browser: WebDriver, keys: str) -> None:
    browser.find_element(By.TAG_NAME, 'body').send_keys(keys)


def transforms(browser: WebDriver) -> list[str]:
    """Of each layer: scale, and the place in shares of its size, all to two digits."""
    return browser.execute_script("""
        return [...document.querySelectorAll('.layer')].map((layer) => {
            const m = new DOMMatrix(getComputedStyle(layer).transform);
            const size = layer.clientWidth;
            return [m.a, m.e / size, m.f / layer.clientHeight].map((x) => x.toFixed(2)).join();
        });""")


def wheel(browser: WebDriver, frame: int, delta: int, at: float = 0.25) -> None:
    browser.execute_script(
        """
        const frame = document.querySelectorAll('.frame')[arguments[0]];
        const box = frame.getBoundingClientRect();
        frame.dispatchEvent(new WheelEvent('wheel', {
            deltaY: arguments[1], bubbles: true, cancelable: true,
            clientX: box.left + arguments[2] * box.width,
            clientY: box.top + arguments[2] * box.height,
        }));""",
        frame, delta, at,
    )  # fmt: skip


def test_what_is_shown(browser):
    """All panes with their scores and texts for those who do not see; names are only text."""
    panes = browser.find_elements(By.CSS_SELECTOR, '#panes figure')
    names = [pane.find_element(By.TAG_NAME, 'b').text for pane in panes]
    assert names == ['LR', 'GT', 'bicubic', 'same', HOSTILE, 'reference, rectified', 'rho']
    assert 'whole ' in panes[2].text and 'window ' in panes[2].text
    assert by_id(browser, 'maps').text == 'same: 12 matches'
    assert len(browser.find_elements(By.CSS_SELECTOR, '#wide img')) == 2
    for image in browser.find_elements(By.TAG_NAME, 'img'):
        assert image.get_attribute('alt')
        within(5, lambda image=image: image.get_property('naturalWidth') > 0)
    for control in browser.find_elements(By.CSS_SELECTOR, 'button, select, input'):
        assert control.accessible_name or not control.is_displayed()
    first = by_id(browser, 'about').text
    assert '96 × 96 of 160 × 160 pixels' in first and first.startswith('1 of 3. d, ')


def test_a_click_sorts_a_table(browser):
    table = browser.find_element(By.TAG_NAME, 'table')
    heads = table.find_elements(By.CSS_SELECTOR, 'thead th')

    def column(number: int) -> list[str]:
        cells = table.find_elements(By.CSS_SELECTOR, f'tbody tr > :nth-child({number + 1})')
        return [cell.text for cell in cells]

    scores = column(2)
    for start, is_descending in ((heads[2].click, True), (lambda: heads[2].send_keys('\n'), False)):
        start()
        expected = sorted(scores, key=lambda text: float(text.split()[0]), reverse=is_descending)
        within(5, lambda expected=expected: column(2) == expected)
    assert heads[2].get_attribute('aria-sort') == 'ascending'
    heads[0].click()
    within(5, lambda: column(0) == ['same', 'bicubic', HOSTILE])


def test_all_images_zoom_and_move_alike(browser):
    """By the wheel over any of them, drawn with the mouse, and back."""
    whole = transforms(browser)
    assert len(whole) == 9 and set(whole) == {'1.00,0.00,0.00'}
    wheel(browser, 3, 100)
    time.sleep(0.1)
    assert transforms(browser) == whole, 'the page scrolls instead'
    for frame in (3, 7, 7):  # the last is the larger one of before and after
        wheel(browser, frame, -100)
    within(5, lambda: transforms(browser)[0].startswith('1.65'))
    (place,) = set(transforms(browser))
    shares = [float(x) for x in place.split(',')[1:]]
    assert shares == pytest.approx([0.65 * 0.25] * 2, abs=0.02), 'about the pointer'
    assert 'zoomed' in browser.find_element(By.TAG_NAME, 'html').get_attribute('class')

    frame = browser.find_elements(By.CLASS_NAME, 'frame')[4]
    width = frame.size['width']
    actions = webdriver.ActionChains(browser, duration=0).move_to_element(frame)
    actions.click_and_hold().move_by_offset(-round(0.2 * width), 0).release().perform()
    moved = float(place.split(',')[1]) - 0.2
    within(5, lambda: abs(float(transforms(browser)[0].split(',')[1]) - moved) < 0.02)
    assert len(set(transforms(browser))) == 1

    double_click = webdriver.ActionChains(browser, duration=0).double_click(frame)
    key = webdriver.ActionChains(browser).send_keys('0')
    for back in (key.perform, by_id(browser, 'reset').click, double_click.perform):
        wheel(browser, 2, -100)
        within(5, lambda: '1.00,0.00,0.00' not in transforms(browser))
        back()
        within(5, lambda: transforms(browser) == whole)


def test_before_and_after(browser):
    split = by_id(browser, 'split')
    right = browser.find_element(By.CSS_SELECTOR, '#compare .side.right')
    assert right.value_of_css_property('clip-path') == 'inset(0px 0px 0px 50%)'
    split.send_keys(Keys.ARROW_LEFT)
    assert right.value_of_css_property('clip-path') == 'inset(0px 0px 0px 49.5%)'
    split.send_keys(Keys.HOME)
    assert right.value_of_css_property('clip-path') == 'inset(0px 0px 0px 0%)'
    assert by_id(browser, 'about').text.startswith('1 of 3'), 'arrows are the divider there'
    for name, expected in (('left', 'bicubic'), ('right', HOSTILE)):
        assert browser.find_element(By.CSS_SELECTOR, f'#compare .tag.{name}').text == expected
    by_id(browser, 'left').find_elements(By.TAG_NAME, 'option')[1].click()
    assert browser.find_element(By.CSS_SELECTOR, '#compare .tag.left').text == 'GT'
    images = browser.find_elements(By.CSS_SELECTOR, '#panes img, #compare img')
    sources = [image.get_attribute('src') for image in images]
    assert sources[-2:] == [sources[1], sources[4]]


def test_error_maps(browser):
    """Black where right, as bright as asked, of the images as they are."""

    def brightness() -> list[float]:
        return browser.execute_script("""
            return [...document.querySelectorAll('#panes canvas')].map((canvas) => {
                const copy = document.createElement('canvas');
                const context = copy.getContext('2d', { willReadFrequently: true });
                context.drawImage(canvas, 0, 0);
                const { data } = context.getImageData(0, 0, 96, 96);
                return data.reduce((sum, x, i) => sum + (i % 4 ? 0 : x), 0) / (96 * 96);
            });""")

    canvas = browser.find_element(By.CSS_SELECTOR, '#panes canvas')
    assert canvas.value_of_css_property('visibility') == 'hidden'
    press(browser, 'e')
    assert canvas.value_of_css_property('visibility') == 'visible'
    assert by_id(browser, 'errors').get_attribute('aria-pressed') == 'true'
    within(5, lambda: min(brightness()) > 5)
    before = brightness()
    assert before[0] == before[1] != before[2] and max(before) < 200
    by_id(browser, 'amplify').send_keys(Keys.ARROW_RIGHT)
    within(5, lambda: all(x > 1.05 * y for x, y in zip(brightness(), before, strict=True)))
    by_id(browser, 'errors').click()
    assert canvas.value_of_css_property('visibility') == 'hidden'


def test_keys_and_themes(browser):
    about, paper = by_id(browser, 'about'), browser.find_element(By.TAG_NAME, 'body')
    press(browser, Keys.ARROW_RIGHT)
    assert about.text.startswith('2 of 3')
    press(browser, Keys.ARROW_LEFT + Keys.ARROW_LEFT)
    assert about.text.startswith('3 of 3')
    by_id(browser, 'next').click()
    assert about.text.startswith('1 of 3')
    by_id(browser, 'which').find_elements(By.TAG_NAME, 'option')[2].click()
    assert about.text.startswith('3 of 3')
    press(browser, '?')
    assert by_id(browser, 'keys').is_displayed()
    press(browser, Keys.ESCAPE)
    within(5, lambda: not by_id(browser, 'keys').is_displayed())
    seen = []
    for scheme in ('light', 'dark'):
        media = {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]}
        browser.execute_cdp_cmd('Emulation.setEmulatedMedia', media)
        seen.append(paper.value_of_css_property('background-color'))
    by_id(browser, 'theme').click()
    assert seen[0] != seen[1] != paper.value_of_css_property('background-color') == seen[0]
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


def test_on_a_phone(browser):
    """Nothing is wider than the screen, and two fingers zoom all images."""
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', PHONE)
    browser.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': True})
    browser.refresh()
    widths = 'return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]'
    assert browser.execute_script(widths) == [390, 390, 390]
    frame = browser.find_elements(By.CLASS_NAME, 'frame')[2]
    browser.execute_script('arguments[0].scrollIntoView({block: "center"})', frame)
    box = browser.execute_script('return arguments[0].getBoundingClientRect().toJSON()', frame)
    x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    for kind, apart in (('touchStart', 20), ('touchMove', 35), ('touchMove', 60), ('touchEnd', 0)):
        points = [{'x': x + side * apart, 'y': y, 'id': side + 1} for side in (-1, 1)]
        event = {'type': kind, 'touchPoints': points if apart else []}
        browser.execute_cdp_cmd('Input.dispatchTouchEvent', event)
    within(5, lambda: float(transforms(browser)[0].split(',')[0]) > 1.2)
    assert len(set(transforms(browser))) == 1
    browser.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': False})
