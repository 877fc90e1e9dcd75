"""The page of a benchmark: what it holds, which images, and names that are only text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from repository import REPOSITORY
from workspaces import SMALL, pairs, write_pairs

from defsr.benchmark import html_report, maps
from defsr.benchmark.html_parts import json_in_html, table_html
from defsr.benchmark.html_report import HtmlReport, encoded, reduced, telling_window
from defsr.benchmark.maps import Maps
from defsr.benchmark.options import read_benchmark
from defsr.benchmark.report import Report
from defsr.benchmark.rows import collect
from defsr.benchmark.runner import Runner
from defsr.benchmark.tables import Section
from defsr.images.levels import to_levels

HOSTILE = '</script><!--<script>"\'&<img src=x onerror=alert(1)>'
FOLDER = Path('results/b')
WEIGHTS = REPOSITORY / 'experiments/pretrained_models/small_EDSR.pth'
PLANE = {'matcher': 'sift', 'model': 'homography', 'flow': False}
RECTIFYING = {
    'options': str(SMALL / 'null_space_x4.yml'),
    'with': {'rectify': PLANE, 'path': {'pretrain_network_e': str(WEIGHTS)}},
}


@pytest.fixture
def content(workspace, monkeypatch) -> dict:
    monkeypatch.chdir(workspace)
    return {
        'name': 'b',
        'scale': 4,
        'num_gpu': 0,
        'save_images': True,
        'datasets': {'whole': pairs(), 'middle': pairs(center_crop=64)},
        'methods': {'bicubic': {'method': 'bicubic'}, 'pinv': {'method': 'pinv'}},
        'compare_to': 'bicubic',
        'report': {'number': 3, 'side': 48},
    }


def measured(content) -> HtmlReport:
    benchmark = read_benchmark(content)
    runner = Runner(benchmark, FOLDER)
    runner.run()
    rows = collect(benchmark, FOLDER)
    return HtmlReport(Report(benchmark, rows, runner.failures, 'a command'), FOLDER)


class Reader(HTMLParser):
    """The elements of a page, and the content of those that hold no HTML."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[dict] = []
        self.texts: dict[int, str] = {}
        self.all_text, self.is_open = '', False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes.append(dict(attrs))
        self.is_open = True

    def handle_endtag(self, tag):
        self.is_open = False

    def handle_data(self, data):
        self.all_text += data
        if self.is_open:
            place = len(self.names) - 1
            self.texts[place] = self.texts.get(place, '') + data

    def texts_of(self, name: str) -> list[str]:
        return [self.texts.get(i, '') for i, found in enumerate(self.names) if found == name]

    def data(self) -> dict:
        (place,) = [i for i, found in enumerate(self.attributes) if found.get('id') == 'data']
        return json.loads(self.texts[place])


def test_the_page_holds_tables_and_images(content):
    report = measured(content)
    report.write(FOLDER / 'report.html')
    assert os.listdir(FOLDER).count('report.html') == 1
    read = Reader((FOLDER / 'report.html').read_text(encoding='utf-8'))
    data = read.data()
    assert [image['dataset'] for image in data['images']] == ['whole', 'middle', 'whole']
    for image in data['images']:
        names = [pane['name'] for pane in image['panes']]
        assert names == ['LR', 'GT', 'bicubic', 'pinv']
        assert [pane['size'] for pane in image['panes']] == [[12, 12]] + 3 * [[48, 48]]
        row = report.saved.rows['pinv', image['dataset'], image['name']]
        assert image['panes'][3]['whole'] == f'{row["psnr"]:.2f} / {row["ssim"]:.3f}'
        assert [one['name'] for one in image['wide']] == ['reference']
    assert read.names.count('table') == 2, 'scores and differences'
    assert 'a command' in read.all_text and report.report.head() in read.all_text


def test_what_a_user_has_named_is_text(content):
    """Labels, names of files, the command and failures make no element, attribute or script."""
    os.rename('datasets/gt/0.png', 'datasets/gt/<b>"\'&.png')
    os.rename('datasets/ref/0.png', 'datasets/ref/<b>"\'&.png')
    plain = Reader(measured(content).page())
    content['methods'] = {HOSTILE: content['methods']['bicubic'], 'p': {'method': 'pinv'}}
    content |= {'compare_to': HOSTILE, 'tables': {HOSTILE: ['whole', 'middle']}, 'name': 'b<i>'}
    report = measured(content)
    report.report.command = HOSTILE
    report.report.failures['', '', HOSTILE] = HOSTILE
    read = Reader(report.page())
    more = len(read.names) - len(plain.names)
    assert more == 2, 'the title of a table, and one failure'
    assert read.names.count('script') == plain.names.count('script')
    assert not any(name.startswith('on') for found in read.attributes for name in found)
    assert {'img', 'b', 'i'} & set(read.names) == {'b'}, 'those of the note'
    assert HOSTILE in read.data()['methods']
    assert any('<b>"\'&' in image['name'] for image in read.data()['images'])


def test_json_in_html_is_the_same_data():
    data = {HOSTILE: [1, 'ü\u2028', None]}
    assert json.loads(json_in_html(data)) == data
    assert not set('<>&\u2028') & set(json_in_html(data))


def test_the_policy_names_each_script_and_style(content):
    read = Reader(measured(content).page())
    (policy,) = [x['content'] for x in read.attributes if 'http-equiv' in x]
    texts = [*read.texts_of('script')[1:], *read.texts_of('style')]
    assert len(texts) == 4
    for text in texts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and 'unsafe' not in policy
    assert not any({'src', 'style', 'onclick'} & set(x) for x in read.attributes)


def test_the_images_chosen_do_not_depend_on_the_order_of_rows(content):
    content['datasets'] = {'whole': pairs(), 'middle': pairs(center_crop=64)}
    content['report'] = {'number': 4, 'show': ['bicubic', 'pinv']}
    gains = {'whole': {'0': 0.0, '1': -3.0, '2': 1.0}, 'middle': {'0': 0.1, '1': 0.1, '2': 0.0}}
    rows = [
        {'method': method, 'dataset': dataset, 'image': image, 'psnr': 20 + gain * share,
         'ssim': 0.5, 'seconds': 1.0, 'megapixels': 1.0, 'parameters': 0}
        for dataset, images in gains.items() for image, gain in images.items()
        for method, share in (('bicubic', 0), ('pinv', 1))
    ]  # fmt: skip
    expected = [('whole', '1'), ('middle', '0'), ('whole', '2'), ('middle', '1')]
    for order in (rows, rows[::-1]):
        report = Report(read_benchmark(content), order, {})
        assert HtmlReport(report, FOLDER).choose() == expected


def test_the_window_is_where_methods_differ_most():
    rng = np.random.default_rng(0)
    gt = rng.integers(0, 256, (64, 97, 3), dtype=np.uint8)
    one, other = gt.copy(), gt.copy()
    one[:30, :50] ^= 128
    other[:30, :50] ^= 128  # both are as wrong there
    other[40:, 70:] ^= 64
    rows, columns = telling_window(gt, [one, other, one], 20, 4)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (20, 20)
    assert rows.start >= 36 and columns.start >= 64
    assert not rows.start % 4 and not columns.start % 4
    other = gt.copy()
    other[:, 90:] ^= 64
    rows, columns = telling_window(gt, [gt, other], 80, 4)
    assert (rows, columns) == (slice(0, 64), slice(16, 96)), 'not beyond the image'


def test_twenty_images_have_less_than_ten_megabytes(stereo, monkeypatch):
    """Of eight methods; then the quality falls, and at last images are left out."""
    whole = np.ascontiguousarray(to_levels(stereo[0])[..., ::-1])
    crops = [whole[i : i + 256, 20 * i : 20 * i + 256] for i in range(20)]
    examples = [
        {'panes': [{'name': 'm', 'picture': crop}] * 10,
         'wide': [{'name': 'r', 'picture': reduced(whole, 512)}]}
        for crop in crops
    ]  # fmt: skip
    found, quality = encoded(examples)
    assert len(found) == 20 and len(json.dumps(found)) < 1e7 and quality >= 75
    monkeypatch.setattr(html_report, 'MOST_BYTES', 300_000)
    found, quality = encoded(examples[:4])
    assert 0 < len(found) < 4 and quality == 60
    assert len(json.dumps(found)) <= 300_000 + 10
    assert encoded([]) == ([], 92)


def test_the_page_says_what_was_left_out(content, monkeypatch):
    report = measured(content)
    monkeypatch.setattr(html_report, 'MOST_BYTES', 12_000)
    assert re.search(r'\d more would have made the page too large', report.page())


def test_an_older_page_stays_if_the_new_one_fails(content, monkeypatch):
    report = measured(content)
    report.write(FOLDER / 'report.html')
    before = sorted(os.listdir(FOLDER)), (FOLDER / 'report.html').read_bytes()
    (FOLDER / 'images').rename(FOLDER / 'gone')
    report.write(FOLDER / 'report.html')
    assert Reader((FOLDER / 'report.html').read_text()).data()['images'] == []
    (FOLDER / 'gone').rename(FOLDER / 'images')
    (FOLDER / 'report.html').write_bytes(before[1])
    monkeypatch.setattr(html_report, 'table_html', lambda section: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(FOLDER / 'report.html')
    assert (sorted(os.listdir(FOLDER)), (FOLDER / 'report.html').read_bytes()) == before


def test_a_damaged_image_leaves_an_empty_place(content):
    report = measured(content)
    (dataset, image) = report.choose()[0]
    row = report.saved.rows['pinv', dataset, image]
    path = FOLDER / 'images' / dataset / f'{image}_{row["key"][:12]}.png'
    path.write_bytes(path.read_bytes()[:30])
    pane = Reader(report.page()).data()['images'][0]['panes'][3]
    assert (pane['name'], pane['src']) == ('pinv', None) and 'whole' not in pane


def test_columns_of_scores_are_sorted_as_numbers():
    head = ['method', 'loss', 'set (2)', 's/MP', 'what differs']
    rows = [
        ['1', '-', '27.50 / 0.812', '1e+02', '5 images'],
        ['2', 'L1', 'failed', '-', ''],
        ['3', 'L1', '+0.10 (1 image, no claim)', '0.5', 'x' * 50],
    ]
    found = table_html(Section('Title:', head, rows))
    assert re.findall('data-sort="(.*?)"', found) == ['27.50', '1e+02', '', '', '+0.10', '0.5']
    assert '<td>5 images</td>' in found and '<td class="long">xxx' in found
    assert '<tbody></tbody>' in table_html(Section('', ['method'], []))


@pytest.fixture
def rectifying(stereo, tmp_path, monkeypatch) -> dict:
    """One pair that a homography brings together, and one of an image with itself as noise."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / 'datasets', stereo, [(100, 150, 192, 256), (100, 400, 192, 256)])
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    cv2.imwrite('datasets/ref/1.png', noise)
    return {
        'name': 'b',
        'scale': 4,
        'num_gpu': 0,
        'save_images': True,
        'datasets': {'d': pairs()},
        'methods': {'bicubic': {'method': 'bicubic'}, 'null': RECTIFYING},
        'report': {'side': 96, 'maps': 'null'},
    }


def test_maps_are_made_once(rectifying, monkeypatch):
    report = measured(rectifying)
    images = {image['name']: image for image in Reader(report.page()).data()['images']}
    names = [pane['name'] for pane in images['0']['panes']]
    assert names == ['LR', 'GT', 'bicubic', 'null', 'reference, rectified', 'rho']
    assert images['0']['panes'][4]['size'] == [96, 96]
    assert images['0']['panes'][5]['size'] == [24, 24]
    assert re.fullmatch(r'null: \d\d+ matches confirmed, rho 0\.\d+ .*', images['0']['maps'])
    wide = [one['name'] for one in images['0']['wide']]
    assert wide == ['reference', 'confirmed matches of reference 1']
    assert images['1']['maps'].startswith('null: no reference was confirmed')
    assert len(images['1']['panes']) == 4

    item = report.saved.item('d', '0')
    row = report.saved.rows['null', 'd', '0']
    before = report.maker.of(row, item)
    monkeypatch.setattr(maps, 'restorer_of', None)
    again = HtmlReport(report.report, FOLDER)
    assert {image['name']: image for image in Reader(again.page()).data()['images']} == images
    (path,) = Path('results/b/maps/d').glob('0_*_rho.png')
    for spoil in (lambda: path.write_bytes(b''), path.unlink):
        spoil()
        with pytest.raises(TypeError, match='not callable'):
            again.maker.of(row, item)
    made = report.maker.of(row, item)
    assert made.text == before.text and path.is_file()
    assert all(np.array_equal(made.pictures[name], before.pictures[name]) for name in before[1])
    (path,) = Path('results/b/maps/d').glob('0_*_maps.json')
    for text in ('3', '[', '{"text": "x", "maps": ["../../x"]}'):
        path.write_text(text)
        with pytest.raises(TypeError, match='not callable'):
            again.maker.of(row, item)


def test_maps_that_cannot_be_made_are_told(rectifying, monkeypatch, capsys):
    report = measured(rectifying)

    def fail(*_: object) -> Maps:
        raise ValueError('no\nmatcher')

    monkeypatch.setattr(maps, 'restorer_of', fail)
    images = Reader(report.page()).data()['images']
    assert [image['maps'] for image in images] == 2 * ['null: no maps: no matcher']
    assert 'null, d, 0: no maps: no matcher' in capsys.readouterr().err


def test_the_licences_of_what_is_in_the_page_are_there():
    folder = Path(html_report.__file__).parent / 'assets'
    assert 'Copyright Timmy Willison' in (folder / 'panzoom.min.js').read_text(encoding='utf-8')
    for name in ('panzoom', 'sortable-tablesort'):
        assert (REPOSITORY / f'docs/licenses/{name}.txt').is_file()
