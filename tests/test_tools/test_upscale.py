"""``defsr-upscale`` from the command line to the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from PIL import Image
from workspaces import UPSCALE, save_options

from defsr.images.levels import to_levels
from defsr.images.photo import read_photo
from defsr.ops.resize import upsample_bicubic
from defsr.tools import upscale as tool
from defsr.upscaling import Upscaler


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with photo.png, two references and an untrained network: bicubic."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(6)
    for name, size in {'photo': (21, 18), 'near': (40, 60), 'far': (30, 25)}.items():
        array = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(array).save(f'{name}.png')
    save_options(tmp_path / 'network.yml', UPSCALE)
    net = build_network(UPSCALE['network_g'])
    torch.save({'params': net.state_dict()}, 'weights.pth')
    return tmp_path


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """Run the command with the given arguments behind the usual ones; returns what it said."""

    def run(*arguments: str, photo: str = 'photo.png', output: str = 'sharp.png') -> str:
        argv = ['defsr-upscale', '-i', photo, '-r', 'near.png', 'far.png', '-o', output]
        network = '--weights', 'weights.pth', '--options', 'network.yml'
        monkeypatch.setattr('sys.argv', [*argv, *network, *arguments])
        tool.main()
        return capsys.readouterr().err

    return run


@pytest.fixture
def fail(call, capsys):
    """As ``call`` for what ends in one line and status 2; nothing may have been written."""

    def run(*arguments: str, **named: str) -> str:
        before = sorted(Path().rglob('*'))
        with pytest.raises(SystemExit, match='2'):
            call(*arguments, **named)
        assert sorted(Path().rglob('*')) == before
        error = capsys.readouterr().err
        assert 'Traceback' not in error
        return error[error.index('error: ') :].splitlines()[0]

    return run


def test_photo_to_file(call):
    said = call('--tile', '16', output='new/folder/sharp.png')
    lq = read_photo('photo.png').rgb
    want = to_levels(upsample_bicubic(lq, 4), 8)
    np.testing.assert_array_equal(np.asarray(Image.open('new/folder/sharp.png')), want)
    assert '4/4' in said and 'new/folder/sharp.png: 84x72 (HxW)' in said
    assert 'Network' not in said
    assert [p.name for p in Path('new/folder').iterdir()] == ['sharp.png']


def test_orientation_of_photo_and_reference(call, monkeypatch):
    tags = Image.Exif()
    tags[274] = 8
    for name in ('photo', 'near'):
        Image.open(f'{name}.png').save(f'turned_{name}.png', exif=tags)
    seen = []
    real = Upscaler.__call__

    def spy(self, lq, refs, **options):
        seen.extend(photo.rgb for photo in (lq, *refs))
        return real(self, lq, refs, **options)

    monkeypatch.setattr(Upscaler, '__call__', spy)
    call('-r', 'turned_near.png', photo='turned_photo.png')
    assert [tuple(x.shape[-2:]) for x in seen] == [(18, 21), (60, 40)]
    upright = torch.rot90(read_photo('photo.png').rgb, 1, (2, 3))
    torch.testing.assert_close(seen[0], upright, rtol=0, atol=0)
    with Image.open('sharp.png') as picture:
        assert picture.size == (84, 72)
        assert picture.getexif()[274] == 1


@pytest.mark.parametrize(
    ('output', 'mode', 'told'),
    [('a.png', 'RGBA', ''), ('a.tiff', 'RGBA', ''), ('a.webp', 'RGBA', ''),
     ('a.jpg', 'RGB', 'JPEG has no transparency')],
)  # fmt: skip
def test_alpha_is_enlarged_or_the_loss_is_told(call, output, mode, told):
    photo = Image.open('photo.png')
    alpha = np.full((21, 18), 255, np.uint8)
    alpha[:, :9] = 128
    photo.putalpha(Image.fromarray(alpha))
    photo.save('cut.png')
    said = call(photo='cut.png', output=output)
    assert told in said and ('transparency' in said) == bool(told)
    with Image.open(output) as picture:
        assert (picture.mode, picture.size) == (mode, (72, 84))
        if mode == 'RGBA':
            enlarged = np.asarray(picture)[..., 3]
            assert (enlarged[:, :24] == 128).all() and (enlarged[:, 48:] == 255).all()


def test_16_bit_grey_stays_so(call):
    levels = np.random.default_rng(7).integers(0, 2**16, (8, 11)).astype(np.uint16)
    Image.fromarray(levels).save('deep.png')
    call(photo='deep.png', output='sharp.tif')
    photo = read_photo('sharp.tif')
    assert (photo.bit_depth, photo.is_grey, photo.rgb.shape[-2:]) == (16, True, (32, 44))
    want = upsample_bicubic(read_photo('deep.png').rgb, 4).clamp(0, 1)
    torch.testing.assert_close(photo.rgb, want, rtol=0, atol=1 / 65535)


def test_comparison(call):
    call('--comparison', 'both.png')
    with Image.open('both.png') as picture:
        assert picture.format == 'PNG' and picture.width > 1000


def test_existing_output_needs_force(call, fail):
    Path('sharp.png').write_text('mine')
    assert 'sharp.png exists already. Add --force' in fail()
    assert Path('sharp.png').read_text() == 'mine'
    call('--force')
    assert read_photo('sharp.png').rgb.shape == (1, 3, 84, 72)
    assert 'both.png exists already' in fail_on_comparison(fail)


def fail_on_comparison(fail) -> str:
    Path('sharp.png').unlink()
    Path('both.png').write_text('mine')
    return fail('--comparison', 'both.png')


@pytest.mark.parametrize(
    ('arguments', 'named', 'message'),
    [
        ((), {'output': 'sharp.gif'}, "extension '.gif', but must be one of .png"),
        ((), {'output': 'photo.png'}, '--output photo.png is also an input'),
        (('--force',), {'output': 'far.png'}, '--output far.png is also an input'),
        (('--comparison', 'c.jpg'), {}, '--comparison is c.jpg, but must end in .png'),
        (('--comparison', 'sharp.png'), {}, 'are the same file'),
        ((), {'photo': 'none.jpg'}, 'Image none.jpg does not exist'),
        ((), {'photo': 'weights.pth'}, 'weights.pth is no image that can be read'),
        (('-r', 'none.jpg'), {}, 'Image none.jpg does not exist'),
        (('--tile', '8'), {}, '--tile is 8, but must be at least 16'),
        (('--overlap', '-2'), {}, '--overlap is -2, but must be at least 0'),
        (('--max-ref-megapixels', '0'), {}, 'max_ref_megapixels is 0.0, but must be above 0'),
        (('--max-megapixels', '0.005'), {}, 'lq (photo.png) would become 84x72'),
        (('--max-megapixels', '0.0003'), {}, 'photo.png has 0.0 megapixels'),
        (('--device', 'tpu'), {}, "device is 'tpu', but must be auto"),
        (('--weights', 'none.pth'), {}, 'weights is none.pth, which does not exist'),
    ],
)
def test_mistakes_end_in_one_line(fail, arguments, named, message):
    assert message in fail(*arguments, **named)


def test_output_that_is_a_folder_or_under_a_file(fail):
    Path('dir.png').mkdir()
    assert 'dir.png is a folder' in fail(output='dir.png')
    assert 'cannot be written to' in fail(output='photo.png/sharp.png')


def test_tiny_reference(fail):
    Image.new('RGB', (9, 3)).save('tiny.png')
    assert (
        'refs[1] (tiny.png) is 3x9 (HxW), but both sides of a reference must be at least 4'
        in fail('-r', 'near.png', 'tiny.png')
    )


def test_result_beyond_webp(fail):
    Image.new('RGB', (4096, 1)).save('long.png')
    assert 'WEBP ends at 16383' in fail(photo='long.png', output='sharp.webp')


@pytest.fixture
def album(folder) -> Path:
    """Folders of photos, one of them in a folder inside, one no image, and of references."""
    for name in ('in/a.png', 'in/deep/b.png', 'refs/near.png', 'refs/more/far.png'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(Path('photo.png' if 'in/' in name else 'near.png').read_bytes())
    Path('in/broken.png').write_text('no image')
    return folder


def of_album(*more: str) -> list[str]:
    return [
        'defsr-upscale', '-i', 'in', '-r', 'refs', '-o', 'out', '--weights', 'weights.pth',
        '--options', 'network.yml', *more,
    ]  # fmt: skip


def run_album(monkeypatch, capsys, *more: str) -> tuple[str, int]:
    """What a folder's run says, and its status."""
    monkeypatch.setattr('sys.argv', of_album(*more))
    status = 0
    try:
        tool.main()
    except SystemExit as error:
        status = int(error.code or 0)
    return capsys.readouterr().err, status


def test_one_bad_photo_does_not_stop_a_folder(album, monkeypatch, capsys):
    said, status = run_album(monkeypatch, capsys)
    assert status == 2 and 'error: 1 of 3 photos failed: broken.png.' in said
    assert 'in/broken.png is no image' in said
    assert 'out: 2 photos made, 0 were there already, 1 failed' in said
    made = sorted(str(path) for path in Path('out').rglob('*') if path.is_file())
    assert made == ['out/a.png', 'out/deep/b.png']
    with Image.open('out/deep/b.png') as picture:
        assert picture.size == (72, 84)


def test_what_is_there_is_not_made_again(album, monkeypatch, capsys):
    Path('in/broken.png').unlink()
    Path('out').mkdir()
    Path('out/a.png').write_bytes(b'kept')
    said, status = run_album(monkeypatch, capsys)
    assert status == 0 and '1 photos made, 1 were there already' in said
    assert Path('out/a.png').read_bytes() == b'kept'
    said, status = run_album(monkeypatch, capsys, '--force')
    assert status == 0 and '2 photos made, 0 were there' in said
    assert Path('out/a.png').read_bytes() != b'kept'


def test_a_photo_is_not_its_own_reference(album, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        Upscaler, '__call__', lambda self, photo, refs, **_: seen.append(refs) or photo
    )
    Path('in/broken.png').unlink()
    monkeypatch.setattr('sys.argv', [*of_album()[:4], 'in', *of_album()[5:]])
    tool.main()
    assert [[ref.path.name for ref in refs] for refs in seen] == [['b.png'], ['a.png']]


def test_the_references_with_most_matches_are_taken(album, monkeypatch, capsys):
    matches = {'near': 3, 'far': 50, 'photo': 20}
    monkeypatch.setattr(
        Upscaler, 'confirmed', lambda self, photo, refs: [matches[ref.path.stem] for ref in refs]
    )
    seen = []
    monkeypatch.setattr(
        Upscaler, '__call__', lambda self, photo, refs, **_: seen.append(refs) or photo
    )
    references = ['near.png', 'far.png', 'photo.png', 'in/broken.png', '--best', '2']
    network = ['--weights', 'weights.pth', '--options', 'network.yml']
    argv = ['defsr-upscale', '-i', 'in/a.png', '-o', 'sharp.png', *network, '-r', *references]
    monkeypatch.setattr('sys.argv', argv)
    tool.main()
    assert [ref.path.name for ref in seen[0]] == ['far.png', 'photo.png']
    said = capsys.readouterr().err
    assert 'Reference 1 is far.png: 50 matches.' in said
    assert 'Left out: in/broken.png is no image' in said


def test_choosing_without_rectifying_is_refused(album, monkeypatch, capsys):
    Path('in/broken.png').unlink()
    said, status = run_album(monkeypatch, capsys, '--best', '1')
    assert status == 2 and 'rectify is none, but references are to be chosen' in said


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--comparison', 'x.png'], '--comparison is for one photo'),
        (['-o', 'photo.png'], '--output photo.png is a file, but --input is a folder'),
        (['-o', 'in'], '--output in is also the input'),
        (['-r', 'empty'], '--ref empty is a folder without photos'),
        (['-i', 'empty'], '--input empty is a folder without photos'),
        (['--best', '0'], '--best is 0'),
    ],
)
def test_what_folders_refuse(album, monkeypatch, capsys, more, message):
    Path('empty').mkdir()
    said, status = run_album(monkeypatch, capsys, *more)
    assert status == 2 and message in said and not Path('out').exists()
