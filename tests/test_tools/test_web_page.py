"""The page of ``defsr-web`` in headless Chromium, with the command as a person starts it.

``DEFSR_PICTURES=FOLDER`` keeps pictures of the page, at 1400 pixels and at 390.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browsers import wants_chromium, whole, within
from PIL import Image
from processes import free_port
from torchvision.utils import save_image
from warm import ENVIRONMENT

from defsr.diffusion.degradation import Degradation

pytestmark = [
    wants_chromium,
    pytest.mark.skipif(find_spec('gradio') is None, reason="wants pip install 'defsr[web]'"),
]
PICTURES = os.environ.get('DEFSR_PICTURES')
SENT = 'Network.requestWillBeSent'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, stereo) -> Path:
    """A photo, a reference and what is no image; options with OpenCV's SIFT."""
    folder = tmp_path_factory.mktemp('web')
    left, right = (image[..., 100:292, 180:436] for image in stereo)
    save_image(Degradation('matlab', 4).make_lq(left)[1], folder / 'photo.png')
    save_image(right, folder / 'ref.png')
    (folder / 'text.png').write_text('no image')
    (folder / 'sift.yml').write_text('base: options/upscale.yml\nrectify: {matcher: sift}\n')
    return folder


@pytest.fixture(scope='module')
def address(folder) -> Iterator[str]:
    """Of the page; nothing is left of it at its end, and nothing was written beside it."""
    before, temporary = sorted(folder.iterdir()), folder.with_name('temporary')
    temporary.mkdir()
    port = free_port()
    command = '-m', 'defsr.tools.web', '--port', port, '--device', 'cpu', '--options', 'sift.yml'
    environment = os.environ | ENVIRONMENT | {'TMPDIR': str(temporary), 'GRADIO_SHARE': 'True'}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        assert line == f'http://127.0.0.1:{port}/ on cpu; Ctrl-C ends it\n'
        yield line.split()[0]
    finally:
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (0, '', 'ended\n')
    assert sorted(folder.iterdir()) == before and [*temporary.iterdir()] == []


def find(browser, css: str):
    return browser.find_element('css selector', css)


def texts(browser, css: str) -> list[str]:
    return [one.text for one in browser.find_elements('css selector', css)]


def give(browser, where: str, *paths: Path) -> None:
    """Drop files, and wait until they are there."""
    find(browser, f'#{where} input[type=file]').send_keys('\n'.join(map(str, paths)))
    rows = f'#{where} .file-preview tr, #{where} .file'
    within(10, lambda: len(browser.find_elements('css selector', rows)) >= len(paths))


def test_a_photo_is_upscaled(chromium, address, folder):
    """Refused, dropped, waited for, compared, downloaded; nothing asked of another machine."""
    chromium.get(address)
    within(10, lambda: chromium.find_elements('css selector', '#photo input[type=file]'))
    find(chromium, '#go').click()
    within(10, lambda: 'No photo is given.' in ''.join(texts(chromium, '.toast-body')))
    give(chromium, 'references', folder / 'text.png')
    told = 'text.png is no image that can be read. Known: BMP, GIF, JPEG, PNG, TIFF, WEBP, AVIF,'
    within(10, lambda: told in ''.join(texts(chromium, '.toast-body')))
    assert str(folder.with_name('temporary')) not in find(chromium, 'body').text
    for close in chromium.find_elements('css selector', '.toast-close'):
        close.click()

    find(chromium, '#references [aria-label="Clear"]').click()
    within(5, lambda: chromium.find_elements('css selector', '#references input[type=file]'))
    give(chromium, 'photo', folder / 'photo.png')
    give(chromium, 'references', folder / 'ref.png')
    within(10, lambda: len(texts(chromium, '#given img')) == 2)
    find(chromium, '#go').click()
    stop = find(chromium, '#stop')
    within(5, stop.is_enabled)
    stop.click()
    within(25, lambda: 'Stopped.' in ''.join(texts(chromium, '.toast-body')))
    within(5, lambda: not stop.is_enabled())
    find(chromium, '.toast-close').click()
    find(chromium, '#go').click()
    box = find(chromium, '#told textarea')
    within(25, lambda: '192x256 (HxW)' in box.get_property('value'))
    lines = box.get_property('value').splitlines()
    assert lines[0].startswith('Reference 1: ') and 'matches confirmed' in lines[0]
    assert lines[1].startswith('1 of 1 references used, for ')

    images = chromium.find_elements('css selector', '#before_after img')
    within(5, lambda: [x.get_property('naturalWidth') for x in images] == [256, 256])
    handle = find(chromium, '#before_after [role=slider], #before_after .outer')
    start = handle.rect['x']
    from selenium.webdriver import ActionChains

    ActionChains(chromium, duration=50).drag_and_drop_by_offset(handle, -120, 0).perform()
    within(5, lambda: handle.rect['x'] == pytest.approx(start - 120, abs=8))

    find(chromium, '#download').click()
    file = chromium.downloads / 'photo_x4.png'
    within(10, file.is_file)
    with Image.open(file) as picture:
        assert picture.size == (256, 192) and np.asarray(picture).std() > 20
    for name, css in {'Rectified': '#rectified img', 'rho': '#rho img'}.items():
        tabs = chromium.find_elements('css selector', 'button[role=tab]')
        next(tab for tab in tabs if tab.text == name).click()
        within(5, lambda css=css: find(chromium, css).get_property('naturalWidth') > 0)
    tabs[0].click()
    within(5, lambda: find(chromium, '#matches img').get_property('naturalWidth') == 512)

    for width in (1400, 390):
        if PICTURES:
            whole(chromium, width, Path(PICTURES) / f'web_{width}.png')
    assert [x for x in chromium.get_log('browser') if x['level'] == 'SEVERE'] == []
    asked = [json.loads(entry['message'])['message'] for entry in chromium.get_log('performance')]
    sent = [x['params']['request']['url'] for x in asked if x['method'] == SENT]
    others = {url for url in sent if not url.startswith((address, 'data:', f'blob:{address}'))}
    assert len(sent) > 20 and others == set()
