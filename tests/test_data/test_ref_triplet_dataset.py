"""The data set: what an item holds, and that its images fit each other."""

from __future__ import annotations

import copy
import random
import shutil
from functools import partial

import cv2
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from torch.utils.data import DataLoader

from defsr.data.image_source import ImageSource, decode_image
from defsr.data.lmdb_writer import create_lmdb
from defsr.data.ref_triplet_dataset import RefTripletDataset
from defsr.diffusion.degradation import Degradation

MATLAB = Degradation('matlab', 4)


def read(path) -> torch.Tensor:
    return decode_image(path.read_bytes(), str(path))


def save(path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    assert cv2.imwrite(str(path), pixels[..., ::-1])


def find_patch(whole: torch.Tensor, patch: torch.Tensor) -> list[tuple[int, int]]:
    """Every (top, left) where ``whole`` holds ``patch`` exactly."""
    height, width = patch.shape[-2:]
    rows, columns = (
        max(w - p + 1, 0) for w, p in zip(whole.shape[1:], patch.shape[1:], strict=True)
    )
    corners = (whole[:, :rows, :columns] == patch[:, :1, :1]).all(0).nonzero().tolist()
    return [
        (y, x) for y, x in corners if torch.equal(whole[:, y : y + height, x : x + width], patch)
    ]


def orientations(image: torch.Tensor):
    for transpose in (False, True):
        turned = image.transpose(-1, -2) if transpose else image
        for axes in ([], [-1], [-2], [-1, -2]):
            yield (transpose, *axes), turned.flip(axes)


# What an item holds -----------------------------------------------------------------------


def test_val_item(block, triplets):
    dataset = build_dataset(block())
    assert len(dataset) == 3 and dataset.opt['name'] == 'Tiny'
    for index, name in enumerate('abc'):
        item = dataset[index]
        assert set(item) == {'lq', 'gt', 'ref', 'lq_path', 'gt_path', 'ref_path'}
        gt = MATLAB.cut(read(triplets / 'gt' / f'{name}.png'))
        assert torch.equal(item['gt'], gt)
        assert torch.equal(item['lq'], MATLAB.degrade(gt))
        assert torch.equal(item['ref'], read(triplets / 'ref' / f'{name}.png'))
        assert item['lq_path'] == item['gt_path'] == str(triplets / 'gt' / f'{name}.png')
        assert item['ref_path'] == str(triplets / 'ref' / f'{name}.png')
        assert all(item[key].dtype == torch.float32 for key in ('lq', 'gt', 'ref'))


def test_center_crop_takes_the_middle_of_everything(block, triplets):
    """GT, input and cache on one grid; the reference on its own; smaller images as they are."""
    save(triplets / 'de' / 'a.png', 1 - MATLAB.cut(read(triplets / 'gt' / 'a.png')))
    for name in 'bc':
        save(triplets / 'de' / f'{name}.png', MATLAB.cut(read(triplets / f'gt/{name}.png')))
    more = {'dataroot_de': str(triplets / 'de')}
    whole = RefTripletDataset(block(**more))[0]
    item = RefTripletDataset(block(**more, center_crop=24))[0]
    assert whole['gt'].shape == (3, 48, 60)
    assert torch.equal(item['gt'], whole['gt'][:, 12:36, 16:40])
    assert torch.equal(item['lq'], whole['lq'][:, 3:9, 4:10])
    torch.testing.assert_close(item['de'], 1 - item['gt'], rtol=0, atol=1e-6)
    assert torch.equal(item['ref'], whole['ref'][:, 20:44, 32:56])
    item = RefTripletDataset(block(**more, center_crop=56))[0]
    assert torch.equal(item['gt'], whole['gt'][:, :, 0:56])
    own = {'dataroot_ref': 'lq', 'center_crop': 24}
    item = RefTripletDataset(block(**own))[0]
    assert torch.equal(item['ref'], item['lq']) and item['lq'].shape == (3, 6, 6)


def test_images_kept_in_memory_are_read_once(block, monkeypatch):
    """Crops are drawn anew from them."""
    kept, plain = (RefTripletDataset(block('train', keep_in_memory=k)) for k in (True, False))

    def read(dataset):
        random.seed(0)
        return [dataset[i][key] for _ in range(3) for i in range(3) for key in ('lq', 'gt', 'ref')]

    first, expected = read(kept), read(plain)
    monkeypatch.setattr(ImageSource, 'read', None)
    for images in (first, read(kept)):
        assert all(torch.equal(*pair) for pair in zip(images, expected, strict=True))
    with pytest.raises(ValueError, match='keep_in_memory is 1.5, but must be one of'):
        RefTripletDataset(block(keep_in_memory=1.5))


def test_center_crop_is_refused(block):
    with pytest.raises(ValueError, match='center_crop is for val and test only'):
        RefTripletDataset(block('train', center_crop=24))
    with pytest.raises(ValueError, match='center_crop is 26, but must be a multiple of scale=4'):
        RefTripletDataset(block(center_crop=26))


def test_the_options_are_left_alone(block):
    for phase in ('val', 'train'):
        opt = block(phase)
        before = copy.deepcopy(opt)
        first, second = RefTripletDataset(opt), RefTripletDataset(opt)
        assert first[0].keys() == second[0].keys()
        assert opt == before


def test_pil_degradation(block):
    matlab, pil = (RefTripletDataset(block(degradation=d))[0]['lq'] for d in ('matlab', 'pil'))
    difference = (matlab - pil).abs().mul(255).round()
    assert 0 < difference.max() < 40
    assert difference[:, 2:-2, 2:-2].max() <= 1  # PIL rounds twice, and differs at borders


# Training: alignment and augmentation ------------------------------------------------------


def test_lq_is_the_degraded_whole_image_cropped_with_gt(block, triplets):
    """Also at the crop's border, where degrading the crop instead would differ."""
    dataset = RefTripletDataset(block('train', use_hflip=False, use_rot=False))
    whole = MATLAB.cut(read(triplets / 'gt' / 'a.png'))
    small = MATLAB.degrade(whole)
    seen = set()
    for _ in range(60):
        item = dataset[0]
        assert item['gt'].shape == (3, 32, 32) and item['lq'].shape == (3, 8, 8)
        [(top, left)] = find_patch(whole, item['gt'])
        assert top % 4 == left % 4 == 0
        expected = small[:, top // 4 : top // 4 + 8, left // 4 : left // 4 + 8]
        assert torch.equal(item['lq'], expected)
        seen.add((top, left))
    assert {top for top, _ in seen} == {0, 4, 8, 12, 16}
    assert {left for _, left in seen} == {0, 4, 8, 12, 16, 20, 24, 28}


def test_augmentation_keeps_everything_aligned(block, triplets):
    """Inside, the degraded gt crop is the lq crop, however both were turned."""
    gt, ref = read(triplets / 'gt' / 'a.png'), read(triplets / 'ref' / 'a.png')
    save(triplets / 'de' / 'a.png', 1 - MATLAB.cut(gt))
    save(triplets / 'ref_de' / 'a.png', 1 - MATLAB.cut(ref))
    for name in 'bc':
        (triplets / 'gt' / f'{name}.png').unlink()
    roots = {f'dataroot_{root}': str(triplets / root) for root in ('de', 'ref_de')}
    dataset = RefTripletDataset(block('train', ref_augment='independent', **roots))
    whole, seen = MATLAB.cut(gt), set()
    for _ in range(80):
        item = dataset[0]
        inside = (MATLAB.degrade(item['gt']) - item['lq'])[:, 2:-2, 2:-2]
        assert inside.abs().max() < 1.01 / 255  # the kernel reaches two pixels, rounding one
        torch.testing.assert_close(item['de'], 1 - item['gt'])
        torch.testing.assert_close(item['ref_de'], 1 - item['ref'])
        seen |= {way for way, turned in orientations(item['gt']) if find_patch(whole, turned)}
    assert len(seen) == 8


@pytest.mark.parametrize('ref_augment', ['together', 'independent', 'none'])
def test_ref_augment(block, triplets, ref_augment):
    save(triplets / 'ref' / 'a.png', read(triplets / 'gt' / 'a.png'))
    dataset = RefTripletDataset(block('train', ref_augment=ref_augment))
    whole = read(triplets / 'gt' / 'a.png')
    ways = []
    for _ in range(40):
        item = dataset[0]
        ways.append(
            tuple(
                next(way for way, turned in orientations(item[key]) if find_patch(whole, turned))
                for key in ('gt', 'ref')
            )
        )
    same = sum(gt_way == ref_way for gt_way, ref_way in ways)
    ref_ways = {ref_way for _, ref_way in ways}
    if ref_augment == 'together':
        assert same == 40 and len(ref_ways) >= 6
    elif ref_augment == 'independent':
        assert same < 20 and len(ref_ways) >= 6
    else:
        assert ref_ways == {(False,)} and same < 20


def test_together_keeps_the_relative_position(block, triplets):
    """A reference of GT's size, loosely aligned as in stereo, still overlaps the input."""
    shutil.copy(triplets / 'gt' / 'a.png', triplets / 'ref' / 'a.png')
    opt = block('train', use_hflip=False, use_rot=False)
    whole = read(triplets / 'gt' / 'a.png')
    dataset = RefTripletDataset(opt)
    for _ in range(20):
        item = dataset[0]
        [(gt_y, gt_x)], [(ref_y, ref_x)] = (find_patch(whole, item[k]) for k in ('gt', 'ref'))
        assert abs(gt_y - ref_y) <= 4 and abs(gt_x - ref_x) <= 4


def test_ref_size_crops_and_pads(block, triplets):
    """Reference a (70x91) is cropped, b (30x37) mirrored, c (41x29) both, at 36x36."""
    opt = block('train', ref_size=36, use_hflip=False, use_rot=False)
    dataset = RefTripletDataset(opt)
    items = [dataset[i] for i in range(3)]
    assert all(item['ref'].shape == (3, 36, 36) for item in items)
    assert all(item['gt'].shape == (3, 32, 32) for item in items)
    refs = [read(triplets / 'ref' / f'{name}.png') for name in 'abc']
    assert len(find_patch(refs[0], items[0]['ref'])) == 1
    assert len(find_patch(refs[1], items[1]['ref'][:, :30])) == 1
    assert torch.equal(items[1]['ref'][:, 30:], items[1]['ref'][:, 23:29].flip(1))
    assert len(find_patch(refs[2], items[2]['ref'][:, :, :29])) == 1
    assert torch.equal(items[2]['ref'][:, :, 29:], items[2]['ref'][:, :, 21:28].flip(2))


def test_ref_size_defaults_to_gt_size(block):
    assert RefTripletDataset(block('train', gt_size=40))[0]['ref'].shape == (3, 40, 40)


def test_items_repeat_with_the_seed(block):
    dataset = RefTripletDataset(block('train'))
    random.seed(7)
    first = [dataset[i] for i in range(3)]
    random.seed(7)
    second = [dataset[i] for i in range(3)]
    assert all(
        torch.equal(a[k], b[k]) for a, b in zip(first, second, strict=True) for k in ('gt', 'ref')
    )
    third = [dataset[i] for i in range(3)]
    assert not all(torch.equal(a['gt'], b['gt']) for a, b in zip(first, third, strict=True))


# Where the images come from ----------------------------------------------------------------


def test_given_lq_is_read_and_gt_cropped_to_it(block, triplets):
    for name in 'abc':
        whole = MATLAB.cut(read(triplets / 'gt' / f'{name}.png'))
        save(triplets / 'lq' / f'{name}.png', 1 - MATLAB.degrade(whole))
    dataset = RefTripletDataset(block(dataroot_lq=str(triplets / 'lq')))
    item = dataset[0]
    assert torch.equal(item['lq'], read(triplets / 'lq' / 'a.png'))
    assert torch.equal(item['gt'], read(triplets / 'gt' / 'a.png')[:, :48, :60])
    assert item['lq_path'] == str(triplets / 'lq' / 'a.png')
    save(triplets / 'lq' / 'a.png', torch.zeros(3, 11, 15))
    with pytest.raises(ValueError, match='gt .*a.png is 50x61 .* must be 44x60 or up to 3 more'):
        dataset[0]
    save(triplets / 'lq' / 'a.png', torch.zeros(3, 13, 15))
    with pytest.raises(ValueError, match='must be 52x60'):
        dataset[0]


def test_real_lq_without_gt(block, triplets):
    opt = block(dataroot_gt=None, dataroot_lq=str(triplets / 'gt'))
    item = RefTripletDataset(opt)[1]
    assert set(item) == {'lq', 'ref', 'lq_path', 'ref_path'}
    assert torch.equal(item['lq'], read(triplets / 'gt' / 'b.png'))
    (triplets / 'list.txt').write_text('c.png a.png\n')
    item = RefTripletDataset(opt | {'pair_list': str(triplets / 'list.txt')})[0]
    assert torch.equal(item['lq'], read(triplets / 'gt' / 'c.png'))
    assert item['lq_path'].endswith('gt/c__a.png')


def test_lq_as_its_own_reference(block, triplets):
    (triplets / 'list.txt').write_text('b.png b.png\na.png\n')
    for pair_list in (None, str(triplets / 'list.txt')):
        dataset = RefTripletDataset(block(dataroot_ref='lq', pair_list=pair_list))
        item = dataset[0]
        assert torch.equal(item['ref'], item['lq'])
        assert item['ref'].data_ptr() != item['lq'].data_ptr()
        assert item['ref_path'] == item['lq_path'] == item['gt_path']
    (triplets / 'list.txt').write_text('b.png a.png\n')
    with pytest.raises(ValueError, match='is `lq`, but pair_list gives b.png the references'):
        RefTripletDataset(block(dataroot_ref='lq', pair_list=str(triplets / 'list.txt')))


def test_cached_images(block, triplets):
    """A cache of PNGs serves JPEGs; the reference is cut to what its cache holds."""
    gt, ref = read(triplets / 'gt' / 'a.png'), read(triplets / 'ref' / 'a.png')
    (triplets / 'gt' / 'a.png').rename(triplets / 'gt' / 'a.jpg')
    for name in 'bc':
        (triplets / 'gt' / f'{name}.png').unlink()
    save(triplets / 'de' / 'a.png', 1 - MATLAB.cut(gt))
    save(triplets / 'ref_de' / 'a.png', 1 - MATLAB.cut(ref))
    roots = {f'dataroot_{root}': str(triplets / root) for root in ('de', 'ref_de')}
    dataset = RefTripletDataset(block(**roots))
    item = dataset[0]
    assert item['de'].shape == item['gt'].shape == (3, 48, 60)
    assert item['ref_de'].shape == item['ref'].shape == (3, 68, 88)
    assert torch.equal(item['ref'], ref[:, :68, :88])
    torch.testing.assert_close(item['de'], 1 - item['gt'])
    save(triplets / 'de' / 'a.png', torch.zeros(3, 48, 56))
    with pytest.raises(ValueError, match='de .*a.png is 48x56 .* must be 48x60. Check'):
        dataset[0]
    save(triplets / 'de' / 'a.png', gt[:, :48, :60])
    save(triplets / 'ref_de' / 'a.png', torch.zeros(3, 60, 88))
    with pytest.raises(ValueError, match='its ref_de'):
        dataset[0]


def test_several_references(block, triplets):
    (triplets / 'list.txt').write_text('a.png b.png c.png a.png\n')
    item = RefTripletDataset(block(pair_list=str(triplets / 'list.txt')))[0]
    refs = [read(triplets / 'ref' / f'{name}.png') for name in 'bca']
    assert len(item['refs']) == 3
    assert all(torch.equal(a, b) for a, b in zip(item['refs'], refs, strict=True))
    assert torch.equal(item['ref'], refs[0]) and item['ref_path'].endswith('ref/b.png')
    assert item['lq_path'] == str(triplets / 'gt' / 'a__b+c+a.png')
    for batch in DataLoader(RefTripletDataset(block(pair_list=str(triplets / 'list.txt')))):
        assert [ref.shape[0] for ref in batch['refs']] == [1, 1, 1]


def test_training_draws_one_of_several_references(block, triplets):
    (triplets / 'list.txt').write_text('a.png b.png c.png a.png\n')
    dataset = RefTripletDataset(block('train', pair_list=str(triplets / 'list.txt')))
    items = [dataset[0] for _ in range(60)]
    assert all('refs' not in item for item in items)
    paths = [item['ref_path'] for item in items]
    assert all(paths.count(str(triplets / 'ref' / f'{name}.png')) > 8 for name in 'abc')
    plain = block('train', pair_list=str(triplets / 'list.txt'), use_hflip=False, use_rot=False)
    for item in (RefTripletDataset(plain)[0] for _ in range(10)):
        source = read(triplets / 'ref' / item['ref_path'][-5:])
        height, width = (min(32, side) for side in source.shape[-2:])
        assert find_patch(source, item['ref'][:, :height, :width])


def test_five_lists_of_one_input_have_five_results(block, triplets):
    paths = set()
    for name in 'bc':
        (triplets / 'list.txt').write_text(f'a.png {name}.png\n')
        dataset = RefTripletDataset(block(pair_list=str(triplets / 'list.txt')))
        paths.add(dataset[0]['lq_path'])
    assert paths == {str(triplets / 'gt' / f'a__{name}.png') for name in 'bc'}


def test_the_reference_being_gt_is_reported(block, triplets, monkeypatch):
    said = []
    logger = type('Logger', (), {'warning': lambda self, text: said.append(text)})()
    monkeypatch.setattr('defsr.data.ref_triplet_dataset.get_root_logger', lambda: logger)
    RefTripletDataset(block())
    RefTripletDataset(block(dataroot_ref='lq'))
    (triplets / 'list.txt').write_text('a.png b.png\n')
    same = {'dataroot_ref': str(triplets / 'gt')}
    RefTripletDataset(block(pair_list=str(triplets / 'list.txt'), **same))
    assert said == []
    RefTripletDataset(block(**same))
    assert len(said) == 1 and 'is its ground truth (so for 3 of 3 inputs)' in said[0]


# LMDB --------------------------------------------------------------------------------------


@pytest.fixture
def lmdb_block(block, triplets):
    folders = {'gt': triplets / 'gt', 'ref': triplets / 'ref'}
    create_lmdb(folders, triplets / 'packed')
    roots = {f'dataroot_{root}': str(triplets / 'packed' / f'{root}.lmdb') for root in folders}
    return partial(block, io_backend={'type': 'lmdb'}, **roots)


@pytest.mark.parametrize('phase', ['val', 'train'])
def test_lmdb_and_disk_give_the_same_items(block, lmdb_block, phase):
    on_disk, packed = RefTripletDataset(block(phase)), RefTripletDataset(lmdb_block(phase))
    assert len(on_disk) == len(packed) == 3
    for index in range(3):
        random.seed(index)
        expected = on_disk[index]
        random.seed(index)
        item = packed[index]
        assert item.keys() == expected.keys()
        for key in ('lq', 'gt', 'ref'):
            assert torch.equal(item[key], expected[key])
        assert item['lq_path'].endswith(f'gt.lmdb/{"abc"[index]}.png')


def test_data_sets_share_an_lmdb_across_workers(lmdb_block, triplets):
    """LMDB refuses to be opened twice in one process; workers inherit an open one."""
    (triplets / 'list.txt').write_text('a.png b.png\n')
    first = RefTripletDataset(lmdb_block())
    second = RefTripletDataset(lmdb_block(pair_list=str(triplets / 'list.txt')))
    assert torch.equal(first[0]['gt'], second[0]['gt'])
    loader = DataLoader(first, batch_size=1, num_workers=2)
    assert [tuple(batch['gt'].shape[-2:]) for batch in loader] == [(48, 60), (40, 44), (40, 52)]


def test_a_rebuilt_lmdb_is_read_anew(lmdb_block, triplets):
    before = RefTripletDataset(lmdb_block())[0]['gt']
    save(triplets / 'gt' / 'a.png', 1 - read(triplets / 'gt' / 'a.png'))
    create_lmdb({'gt': triplets / 'gt'}, triplets / 'packed', force=True)
    torch.testing.assert_close(RefTripletDataset(lmdb_block())[0]['gt'], 1 - before)


# With BasicSR ------------------------------------------------------------------------------


def test_basicsr_loaders(block):
    opt = block('train', num_worker_per_gpu=2, batch_size_per_gpu=3)
    loader = build_dataloader(build_dataset(opt), opt, num_gpu=0, seed=0)
    [batch] = list(loader)
    assert batch['lq'].shape == (3, 3, 8, 8)
    assert batch['gt'].shape == batch['ref'].shape == (3, 3, 32, 32)
    assert len(batch['ref_path']) == 3
    opt = block('val')
    shapes = [b['ref'].shape[-2:] for b in build_dataloader(build_dataset(opt), opt)]
    assert shapes == [(70, 91), (30, 37), (41, 29)]


def sr_model_opt(tmp_path, is_train: bool) -> dict:
    """BasicSR's EDSR, tiny, as an option file would set it up on the CPU."""
    return {
        'name': 'tiny',
        'model_type': 'SRModel',
        'scale': 4,
        'num_gpu': 0,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'is_train': is_train,
        'network_g': {
            'type': 'EDSR',
            'num_in_ch': 3,
            'num_out_ch': 3,
            'num_feat': 4,
            'num_block': 1,
            'upscale': 4,
        },
        'path': {'visualization': str(tmp_path / 'shown')},
        'val': {
            'suffix': None,
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
        },
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [10]},
            'pixel_opt': {'type': 'L1Loss'},
        },
    }


def test_basicsr_sr_model_trains_and_names_its_results(block, triplets, tmp_path):
    opt = block('train')
    model = build_model(sr_model_opt(tmp_path, is_train=True))
    [batch, *_] = build_dataloader(build_dataset(opt), opt, num_gpu=0)
    model.feed_data(batch)
    model.optimize_parameters(1)
    assert model.log_dict['l_pix'] > 0
    (triplets / 'list.txt').write_text('a.png b.png\nb.png c.png\n')
    opt = block('val', pair_list=str(triplets / 'list.txt'))
    model = build_model(sr_model_opt(tmp_path, is_train=False))
    model.nondist_validation(build_dataloader(build_dataset(opt), opt), 0, None, save_img=True)
    saved = sorted(path.name for path in (tmp_path / 'shown' / 'Tiny').iterdir())
    assert saved == ['a__b_tiny.png', 'b__c_tiny.png']


def test_cufed_training_pairs(data_root):
    """Real names with @, references of 159 columns."""
    opt = {
        'name': 'CUFED',
        'phase': 'train',
        'scale': 4,
        'dataroot_gt': str(data_root / 'cufed_train' / 'input'),
        'dataroot_ref': str(data_root / 'cufed_train' / 'ref'),
        'gt_size': 160,
    }
    [batch] = DataLoader(RefTripletDataset(opt), batch_size=10)
    assert batch['gt'].shape == batch['ref'].shape == (10, 3, 160, 160)
    assert batch['lq'].shape == (10, 3, 40, 40)


def test_cufed5_with_all_references(data_root):
    opt = {
        'name': 'CUFED5',
        'phase': 'val',
        'scale': 4,
        'dataroot_gt': str(data_root / 'cufed5'),
        'dataroot_ref': str(data_root / 'cufed5'),
        'pair_list': 'datasets/small/cufed5_001_all_refs.txt',
    }
    item = RefTripletDataset(opt)[0]
    assert item['gt'].shape == (3, 332, 500) and item['lq'].shape == (3, 83, 125)
    assert [ref.shape[1] for ref in item['refs']] == [333, 333, 333, 334, 333]
    assert item['lq_path'].endswith('001_0__001_1+001_2+001_3+001_4+001_5.png')


# Mistakes ----------------------------------------------------------------------------------


def test_missing_images_are_reported_at_the_start(block, triplets):
    with pytest.raises(FileNotFoundError, match='datasets:Tiny:dataroot_gt is .*nowhere'):
        RefTripletDataset(block(dataroot_gt=str(triplets / 'nowhere')))
    (triplets / 'empty').mkdir()
    with pytest.raises(ValueError, match='datasets:Tiny:dataroot_gt is .*no images'):
        RefTripletDataset(block(dataroot_gt=str(triplets / 'empty')))
    with pytest.raises(FileNotFoundError, match='datasets:Tiny:dataroot_ref .*no image a.png'):
        RefTripletDataset(block(dataroot_ref=str(triplets / 'empty')))
    with pytest.raises(FileNotFoundError, match='datasets:Tiny:dataroot_de .*no image a.png'):
        RefTripletDataset(block(dataroot_de=str(triplets / 'empty')))
    (triplets / 'list.txt').write_text('a.png z.png\n')
    with pytest.raises(FileNotFoundError, match='datasets:Tiny:dataroot_ref .*no image z.png'):
        RefTripletDataset(block(pair_list=str(triplets / 'list.txt')))
    (triplets / 'list.txt').write_text('a.png\n')
    with pytest.raises(ValueError, match='pair_list has no reference for a.png'):
        RefTripletDataset(block(pair_list=str(triplets / 'list.txt')))


def test_results_that_would_overwrite_each_other(block, triplets):
    (triplets / 'list.txt').write_text('a.png b.png\na.png b.png\n')
    with pytest.raises(ValueError, match='would both be saved as a__b'):
        RefTripletDataset(block(pair_list=str(triplets / 'list.txt')))
    assert len(RefTripletDataset(block('train', pair_list=str(triplets / 'list.txt')))) == 2


def test_gt_smaller_than_its_crop(block):
    dataset = RefTripletDataset(block('train', gt_size=48))
    assert dataset[0]['gt'].shape == (3, 48, 48)
    message = r'b.png is 40x44 \(HxW.*smaller than datasets:Tiny:gt_size=48.* at most 40'
    with pytest.raises(ValueError, match=message):
        dataset[1]


def test_gt_smaller_than_a_pixel(block, triplets):
    save(triplets / 'gt' / 'a.png', torch.zeros(3, 3, 20))
    with pytest.raises(ValueError, match='both sides must be at least scale=4'):
        RefTripletDataset(block())[0]


def test_broken_files_are_named(block, triplets):
    (triplets / 'ref' / 'b.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='ref/b.png cannot be read as an image'):
        RefTripletDataset(block())[1]
