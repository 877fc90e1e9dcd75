"""C2-Matching's three trainings: teacher, student, and the network that uses the student."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close
from workspaces import (
    SMALL,
    TRAIN,
    loader_of,
    pairs,
    resume_alike,
    resumed_at,
    run_well,
    save_options,
    weights,
)

from defsr.config.files import load_options
from defsr.models.contrastive_model import is_inside, true_places
from defsr.running.training_run import build_safe_model


def small(name: str) -> dict:
    """An option file's content on the workspace's photographs, for seconds."""
    opt = load_options(SMALL / name)
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 2}
    opt['val']['val_freq'] = 4
    opt['train']['total_iter'] = 4
    if opt['model_type'] == 'ContrastiveModel':
        for block in opt['datasets'].values():
            block |= {'dataroot_gt': 'datasets/gt', 'gt_size': 44}
        opt['datasets']['train'] |= {'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 1}
        opt['network_g']['weights'] = 'none'
    else:
        train = opt['datasets']['train'] | pairs() | {'batch_size_per_gpu': 2}
        train |= {'gt_size': 32, 'ref_size': 32}
        opt['datasets'] = {'train': train, 'val': pairs(name='pairs', center_crop=32)}
    return opt


def losses_of(said: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf'{name}: ([\d.e+-]+)', said)]


def test_the_three_trainings_as_typed(workspace):
    """Each uses what the one before has left; the losses fall, the hit rate is printed.

    The student goes on to the bit, beside its teacher.
    """
    teacher = small('C2_teacher_x4.yml')
    teacher['train'] |= {'total_iter': 8}
    said = run_well(workspace, TRAIN, '-opt', save_options(workspace / 't.yml', teacher))
    found = losses_of(said, 'l_contrastive')
    assert len(found) == 8 and sum(found[-2:]) < 0.9 * sum(found[:2])
    rates = losses_of(said, 'hit_rate')
    assert len(rates) >= 2 and 0 < rates[-1] <= 100

    student = small('C2_student_x4.yml')
    file = save_options(workspace / 's.yml', student)
    said = run_well(workspace, TRAIN, '-opt', file)
    assert len(losses_of(said, 'l_distill')) == len(losses_of(said, 'l_contrastive')) == 4
    resume_alike(workspace, file)

    last = small('C2_x4.yml')
    last['network_t']['weights'] = 'none'
    last['network_g'] |= {'num_feat': 8, 'num_block': 1}
    said = run_well(workspace, TRAIN, '-opt', save_options(workspace / 'g.yml', last))
    assert len(losses_of(said, 'l_g_pix')) == 4 and re.search(r'\nSR +\d+\.\d{4}', said)
    lr = re.search(r'lr:\(([^)]*)\)', said)[1].split(',')
    assert len([rate for rate in lr if rate]) == 3
    saved = torch.load(workspace / 'experiments/small_C2_x4/models/net_g_4.pth', weights_only=True)
    assert all(key.startswith(('content_', 'stage.')) for key in saved['params'])


@pytest.fixture
def opt(opt, tmp_path):
    """A teacher on the crops of the stereo pair."""
    block = {'type': 'PlantedPairDataset', 'scale': 4, 'gt_size': 48, 'perturb': 4}
    block['dataroot_gt'] = opt['datasets']['train']['dataroot_gt']
    train = {'name': 'crops', 'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    run = ('is_train', 'dist', 'rank', 'world_size', 'path', 'num_gpu', 'name', 'scale')
    return {key: opt[key] for key in run} | {
        'model_type': 'ContrastiveModel',
        'manual_seed': 0,
        'query': 'gt',
        'datasets': {
            'train': block | train,
            'val': block | {'name': 'centres', 'phase': 'val'},
        },
        'network_g': {'type': 'ContrastiveExtractor'},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [], 'gamma': 0.5},
            'total_iter': 10,
            'contrastive_opt': {'type': 'ContrastiveLoss'},
        },
        'val': {'val_freq': 2, 'save_img': False},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 1, 'keep_best': 'hit_rate'},
    }


def step(model, batch, first, last):
    for current_iter in range(first, last + 1):
        model.update_learning_rate(current_iter)
        model.feed_data(batch)
        model.optimize_parameters(current_iter)


def test_resumes_to_the_bit(opt):
    batch = next(iter(loader_of(opt, 'train')))
    whole, half = (build_safe_model(deepcopy(opt)) for _ in 'ab')
    step(whole, batch, 1, 4)
    step(half, batch, 1, 2)
    half.save(0, 2)
    resumed = resumed_at(opt, 2, build_safe_model)
    step(resumed, batch, 3, 4)
    assert torch.equal(weights(resumed.net_g), weights(whole.net_g))
    assert not torch.equal(weights(whole.net_g), weights(half.net_g))


def test_the_teacher_reads_ground_truth_and_stays(opt, tmp_path):
    model = build_safe_model(deepcopy(opt))
    file = str(tmp_path / 'teacher.pth')
    torch.save({'params': model.net_g.state_dict()}, file)
    opt |= {'query': 'lq', 'network_t': {'type': 'ContrastiveExtractor'}}
    opt['path']['pretrain_network_t'] = file
    opt['train']['distill_opt'] = {'type': 'CorrelationDistillationLoss'}
    student = build_safe_model(deepcopy(opt))
    seen = {}
    for name in ('net_g', 'net_t'):
        net = getattr(student, name)
        net.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args}))
    before = weights(student.net_t)
    step(student, next(iter(loader_of(opt, 'train'))), 1, 1)
    assert torch.equal(seen['net_t'][0], student.gt)
    assert 0 < float((seen['net_g'][0] - student.gt).abs().mean()) < 0.1
    assert torch.equal(weights(student.net_t), before)
    assert not torch.equal(weights(student.net_g), before)


class Perfect(torch.nn.Module):
    """One feature for each place, so that the query's are those at the true ones."""

    def __init__(self, model, shift):
        super().__init__()
        self.model, self.shift = [model], shift

    def forward(self, image, ref):
        places = self.model[0].places.round().long() + self.shift
        size = [side // 4 for side in ref.shape[-2:]]
        key = torch.nn.functional.one_hot(torch.arange(size[0] * size[1]))
        key = key.view(1, *size, -1).permute(0, 3, 1, 2).float().repeat(len(ref), 1, 1, 1)
        rows, columns = (places[:, i].clamp(0, size[i] - 1) for i in (0, 1))
        flat = rows * size[1] + columns
        return torch.nn.functional.one_hot(flat, size[0] * size[1]).permute(0, 3, 1, 2).float(), key


@pytest.mark.parametrize(('shift', 'rate'), [(0, 100), (3, 0)])
def test_the_hit_rate_of_what_is_known(opt, shift, rate):
    model = build_safe_model(deepcopy(opt) | {'is_train': False})
    model.net_g = Perfect(model, shift)
    model.validation(loader_of(opt, 'val'), 2, None)
    assert model.metric_results['hit_rate'] == pytest.approx(rate, abs=3)


def test_places_of_a_translation():
    homography = torch.tensor([[1.0, 0, 8], [0, 1, -4], [0, 0, 1]]).repeat(2, 1, 1)
    places = true_places(homography, 5, 7)
    own = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(7), indexing='ij')).double()
    assert_close(places[1], own + torch.tensor([-1, 2]).view(2, 1, 1), rtol=0, atol=1e-12)
    turned = true_places(torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]]), 3, 4)
    assert_close(turned[0], own[:, :3, :4].flip(0), rtol=0, atol=1e-12)
    valid = is_inside(places, (28, 28))  # from pixel 10 to 17
    assert valid[0].nonzero().tolist() == [[4, 1]]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o.update(query='sr'), "query is 'sr'"),
        (lambda o: o.pop('query'), 'query is missing'),
        (lambda o: o['train'].pop('contrastive_opt'), 'train:contrastive_opt is missing'),
        (lambda o: o['train'].update(distill_opt={'type': 'X'}), 'distill_opt and network_t'),
        (
            lambda o: o.update(network_t={'type': 'ContrastiveExtractor'}),
            'distill_opt and network_t',
        ),
        (lambda o: o.update(network_g={'type': 'EDSR'}), 'network_g:type is EDSR'),
        (lambda o: o['train'].update(pixel_opt={}), 'Unknown option `train:pixel_opt`'),
    ],
)
def test_wrong_options_end_in_one_line(opt, change, message):
    change(opt)
    with pytest.raises(ValueError, match=message):
        build_safe_model(opt)


def test_refuses_a_batch_without_places(opt):
    """At 20 pixels a side all are within 10 of the border."""
    opt['datasets']['train'] |= {'gt_size': 20, 'perturb': 0}
    model = build_safe_model(opt)
    with pytest.raises(ValueError, match='Set datasets:train:gt_size larger'):
        step(model, next(iter(loader_of(opt, 'train'))), 1, 1)
