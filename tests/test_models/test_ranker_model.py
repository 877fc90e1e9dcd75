"""RankSRGAN end to end, small: ranked images made, a Ranker trained, a generator by its taste."""

from __future__ import annotations

import re
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from golden_weights import fill
from repository import REPOSITORY
from torchvision.utils import save_image
from workspaces import (
    TRAIN,
    adam,
    loader_of,
    pairs,
    resume_alike,
    run,
    run_well,
    save_options,
    weights,
)

from defsr.archs.ranksrgan_arch import Ranker
from defsr.benchmark.ranked import niqe
from defsr.config.files import load_options
from defsr.data.rank_labels import LABELS, read_rank_labels
from defsr.running.training_run import build_safe_model

SMALL = REPOSITORY / 'options/small'


@pytest.fixture(scope='module')
def made(tmp_path_factory, stereo):
    """What the tool makes of one image with two methods that need no weights, and says."""
    folder = tmp_path_factory.mktemp('ranked')
    (folder / 'gt').mkdir()
    save_image(stereo[0][..., :320, 100:420], folder / 'gt/x.png')
    opt = load_options(SMALL / 'benchmark_ranker.yml')
    opt['datasets']['photos']['dataroot_gt'] = 'gt'
    opt['methods'] = {'bicubic': {'method': 'bicubic'}, 'pinv': {'method': 'pinv'}}
    file = save_options(folder / 'b.yml', opt)
    command = ('-m', 'defsr.tools.make_ranked', '-opt', file, '--out', 'ranked')
    said = run_well(folder, *command, '--size', '200', '--stride', '60', '--least', '0.01')
    return folder / 'ranked', said, command


def test_images_have_their_own_niqe(made):
    folder, said, _ = made
    labels = read_rank_labels(folder / LABELS)
    assert labels.methods == ['bicubic', 'pinv'] and 2 <= len(labels.scores) <= 9
    assert f'Wrote {len(labels.scores)} of 9 patches by 2 methods to ranked.' in said
    for name, scores in labels.scores.items():
        images = [cv2.imread(str(folder / method / name)) for method in labels.methods]
        assert images[0].shape == (200, 200, 3) and not np.array_equal(*images)
        assert [niqe(image) for image in images] == pytest.approx(scores, abs=1e-6)
        assert abs(scores[0] - scores[1]) >= 0.01


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (('--size', '199'), '--size is 199, but must be at least 200'),
        (('--size', '200', '--least', '90', '--force'), 'none is of use: .*Lower one of them'),
        ((), '--out .*ranked is not empty. Remove it, or replace it with --force'),
    ],
)
def test_what_the_tool_refuses(made, more, message):
    folder, _, command = made
    done = run(folder.parent, *command, *more)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
    assert (folder / LABELS).is_file()


@pytest.fixture
def opt(tmp_path, made):
    block = {'type': 'RankedImageDataset', 'dataroot_ranked': str(made[0])}
    block |= {'io_backend': {'type': 'disk'}, 'scale': 4}
    train = block | {'name': 't', 'phase': 'train', 'batch_size_per_gpu': 2}
    path = {name: str(tmp_path / name) for name in ('models', 'training_states')}
    for name in path.values():
        (tmp_path / name).mkdir()
    return {
        'name': 'ranker',
        'model_type': 'RankerModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'datasets': {
            'train': train | {'num_worker_per_gpu': 0},
            'val': block | {'name': 'v', 'phase': 'val'},
        },
        'network_g': {'type': 'Ranker', 'num_feat': 4},
        'path': path | {'log': str(tmp_path)},
        'train': {
            'optim_g': adam(),
            'scheduler': {'type': 'MultiStepLR', 'milestones': [], 'gamma': 0.5},
            'total_iter': 30,
        },
        'val': {'val_freq': 2, 'save_img': False},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 1, 'keep_best': 'accuracy'},
    }


class Knowing(torch.nn.Module):
    """Scores images by their own labels, those of ``wrong`` upside down."""

    def __init__(self, model, wrong=()):
        super().__init__()
        self.model, self.wrong, self.seen = [model], wrong, -1

    def forward(self, images):
        assert not self.training  # or the versions of an image would be normalised together
        self.seen += 1
        return self.model[0].scores[0, :, None] * (-1 if self.seen in self.wrong else 1)


def test_accuracy_is_the_share_of_pairs_in_order(opt, tmp_path):
    model = build_safe_model(opt)
    loader = loader_of(opt, 'val')
    for number, (wrong, accuracy) in enumerate((((), 1.0), ((0,), 1 - 1 / len(loader)))):
        model.net_g, model.current_iter = Knowing(model, wrong), number
        model.validation(loader, number, None)
        assert model.metric_results['accuracy'] == pytest.approx(accuracy)


def train(model, opt, first, last):
    found = []
    for current_iter in range(first, last + 1):
        torch.manual_seed(current_iter)
        model.update_learning_rate(current_iter)
        model.feed_data(next(iter(loader_of(opt, 'train'))))
        model.optimize_parameters(current_iter)
        found.append(model.get_current_log()['l_rank'])
    return found


def test_it_learns_the_order(opt):
    """Of images whose noise is their score; then of others that it has not seen."""
    torch.manual_seed(0)
    opt['train']['optim_g']['lr'] = 5e-3
    model = build_safe_model(opt)

    def batch(number: int) -> dict:
        scores = torch.rand(number, 2)
        noise = torch.randn(number, 2, 3, 40, 40) * 0.2 * scores.view(number, 2, 1, 1, 1)
        return {'images': 0.5 + noise, 'scores': scores}

    losses = []
    for current_iter in range(1, 41):
        model.update_learning_rate(current_iter)
        model.feed_data(batch(8))
        model.optimize_parameters(current_iter)
        losses.append(model.get_current_log()['l_rank'])
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])
    unseen = batch(32)
    with torch.no_grad():
        one, other = (model.net_g(unseen['images'][:, i]) for i in range(2))
    right = (one > other).squeeze(1) == (unseen['scores'][:, 0] > unseen['scores'][:, 1])
    assert right.float().mean() > 0.8


def test_it_goes_on_exactly(opt):
    """Running statistics and Adam's moments are in what is saved."""
    import random

    def seeded(change=None):
        torch.manual_seed(20)
        return build_safe_model(deepcopy(opt) | (change or {}))

    def steps(model, first, last):
        random.seed(first)
        train(model, opt, first, last)

    whole, half = seeded(), seeded()
    for model in (whole, half):
        steps(model, 1, 2)
    steps(whole, 3, 4)
    half.save(0, 2)
    path = opt['path'] | {'pretrain_network_g': f'{opt["path"]["models"]}/net_g_2.pth'}
    resumed = seeded({'path': path})
    resumed.resume_training(
        torch.load(f'{opt["path"]["training_states"]}/2.state', weights_only=True)
    )
    steps(resumed, 3, 4)
    assert torch.equal(weights(resumed.net_g), weights(whole.net_g))
    for one, other in zip(resumed.net_g.buffers(), whole.net_g.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['train'].update(margin=0), 'train:margin is 0, but must be above 0'),
        (lambda o: o['train'].update(pixel_opt={}), 'Unknown option `train:pixel_opt`'),
        (lambda o: o['val'].update(tile=8), 'Unknown option `val:tile`'),
    ],
)
def test_options_that_cannot_be(opt, change, message):
    change(opt)
    with pytest.raises(ValueError, match=message):
        build_safe_model(opt)


def test_the_commands(workspace, made):
    """A Ranker by ``train.py``, then RankSRGAN by what it saved: the loss of rank falls, and
    generator and critic go on to the bit."""
    ranker = load_options(SMALL / 'ranker_x4.yml')
    for phase in ('train', 'val'):
        ranker['datasets'][phase]['dataroot_ranked'] = str(made[0])
    ranker['datasets']['train']['batch_size_per_gpu'] = 2
    ranker['network_g']['num_feat'] = 4
    ranker['train'] |= {'total_iter': 2}
    ranker['val']['val_freq'] = 2
    ranker['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 2}
    said = run_well(workspace, TRAIN, '-opt', save_options(workspace / 'r.yml', ranker))
    assert 'l_rank: ' in said and re.search(r'accuracy: \d', said)
    file = workspace / 'experiments/small_ranker_x4/models/net_g_latest.pth'
    taste = Ranker(num_feat=4)
    taste.load_state_dict(torch.load(file, weights_only=True)['params'])
    torch.save({'params': fill(taste.state_dict(), 2.4)}, file)  # of two steps it has none yet

    opt = load_options(SMALL / 'RankSRGAN_x4.yml')
    opt['datasets'] = {
        'train': opt['datasets']['train'] | pairs() | {'batch_size_per_gpu': 2},
        'val': pairs(name='pairs'),
    }
    opt['network_g'] |= {'num_feat': 8, 'num_block': 1}
    opt['network_d'] |= {'num_feat': 2}
    opt['path']['pretrain_network_g'] = None
    opt['train'] |= {'total_iter': 12}
    opt['train']['optim_g']['lr'] = 2e-3
    opt['train']['rank_opt'] |= {'num_feat': 4, 'weights': str(file)}
    opt['train']['perceptual_opt'] |= {'perceptual_weight': 1e-6}
    opt['train']['gan_opt'] |= {'loss_weight': 1e-6}
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 6}
    opt['val'] |= {'val_freq': 12, 'tb_images': 0, 'compare_bicubic': False}
    file = save_options(workspace / 'g.yml', opt)
    said = run_well(workspace, TRAIN, '-opt', file)
    ranks = [float(value) for value in re.findall(r'l_g_rank: ([\d.e+-]+)', said)]
    assert len(ranks) == 12 and sum(ranks[-3:]) < sum(ranks[:3])
    assert 'l_g_pix' not in said and 'l_g_gan' in said
    state = torch.load(workspace / 'experiments/small_RankSRGAN_x4/models/net_g_latest.pth',
                       weights_only=True)  # fmt: skip
    assert not any('ranker' in key for key in state['params'])
    resume_alike(workspace, file)
