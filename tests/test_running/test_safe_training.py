from __future__ import annotations

import json
import logging
import random
import signal
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from workspaces import loader_of, train, weights, with_gan, write_pairs

from defsr.running.safe_training import NonFiniteError, SafeTraining, make_safe
from defsr.running.training_run import build_safe_model


@pytest.fixture
def opt(opt):
    return opt | {'logger': {'print_freq': 1, 'save_checkpoint_freq': 1}}


def poison(model, key='gt', value=float('nan')):
    """The model's next batches hold one pixel that is no number."""
    feed = model.feed_data

    def feed_poison(data):
        data[key][0, 0, 0, 0] = value
        feed(data)

    model.feed_data = feed_poison


def test_every_model_can_be_made_safe():
    for name in ('SRModel', 'SRGANModel', 'ESRGANModel', 'DEFModel'):
        cls = MODEL_REGISTRY.get(name)
        safe = make_safe(cls)
        assert issubclass(safe, SafeTraining) and issubclass(safe, cls) and safe.__name__ == name
        assert make_safe(safe) is safe


def test_options_are_left_as_they_are(opt):
    opt['train']['grad_clip_norm'] = 1.0
    before = deepcopy(opt)
    build_safe_model(opt)
    assert opt == before


def test_an_iterations_numbers_depend_on_its_number_alone(opt):
    model = build_safe_model(opt)

    def numbers(current_iter):
        model.update_learning_rate(current_iter)
        return random.random(), np.random.rand(), torch.rand(()).item()

    first, second = numbers(5), numbers(6)
    assert first != second
    assert numbers(5) == first
    model.opt['manual_seed'] = 1
    assert numbers(5) != first


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_loss_that_is_no_number_stops_the_run(opt, value):
    model = build_safe_model(opt)
    train(model, opt, 1, 2)
    model.save(0, 2)
    before = weights(model.net_g)
    poison(model, value=value)
    message = (
        f'Iteration 3: .*l_g_pix is {value}.*batch: .*/gt/.*.png.*last checkpoint: .*/2.state.*'
        'train:nonfinite: skip'
    )
    with pytest.raises(NonFiniteError, match=message):
        train(model, opt, 3, 3)
    assert model.checkpoints.newest() == (2, [])
    assert torch.equal(weights(model.net_g), before), 'no step is taken on such a loss'


def test_the_loss_that_is_at_fault_is_named(opt):
    opt = with_gan(opt)
    opt['train']['rec_only_epochs'] = 0
    model = build_safe_model(opt)
    model.cri_perceptual.forward = lambda x, gt: (x.sum() * float('nan'), None)
    with pytest.raises(NonFiniteError, match='gradient of optimizer_g is nan; l_g_percep is nan'):
        train(model, opt, 1, 1)


def test_skipping_is_counted_and_has_an_end(opt, caplog):
    opt['train'] |= {'nonfinite': 'skip', 'max_nonfinite': 2}
    model = build_safe_model(opt)
    train(model, opt, 1, 1)
    before, ema = weights(model.net_g), weights(model.net_g_ema)
    feed = model.feed_data
    poison(model)
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    train(model, opt, 2, 3)
    logger.removeHandler(caplog.handler)
    assert 'Iteration 2: l_g_pix is nan' in caplog.text
    assert '2 of at most 2 (train:max_nonfinite)' in caplog.text
    assert torch.equal(weights(model.net_g), before)
    assert torch.isfinite(weights(model.net_g_ema)).all() and not torch.equal(ema, before)

    model.feed_data = feed
    (log,) = train(model, opt, 4, 4)
    assert log['num_nonfinite'] == 2.0
    assert not torch.equal(weights(model.net_g), before), 'good batches go on to train'
    poison(model)
    with pytest.raises(NonFiniteError, match='Iteration 5'):
        train(model, opt, 5, 5)


def test_gradients_are_clipped(opt):
    opt['train']['optim_g'] |= {'betas': [0.0, 0.0]}
    opt['train']['grad_clip_norm'] = 1e-3
    model = build_safe_model(opt)
    norms = []

    def note(optimizer, *_):
        gradients = [
            p.grad for g in optimizer.param_groups for p in g['params'] if p.grad is not None
        ]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    model.optimizer_g.register_step_pre_hook(note)
    train(model, opt, 1, 2)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_a_state_of_other_parameters_is_refused(opt, tmp_path, caplog):
    """It is taken by position, so another order would be wrong in silence; names tell."""
    model = build_safe_model(opt)
    train(model, opt, 1, 1)
    model.save(epoch=0, current_iter=1)
    state = torch.load(tmp_path / 'training_states/1.state', weights_only=False)
    names = state['optimizers'][0]['param_groups'][0]['param_names']
    assert names == [f'net_g.{name}' for name, _ in model.net_g.named_parameters()]
    build_safe_model(opt).resume_training(deepcopy(state))
    grouped = deepcopy(opt)
    grouped['train']['optim_g']['groups'] = {'transfer': 1e-5}
    with pytest.raises(ValueError, match='of other parameters .* net_g.aggregator.* here, net'):
        build_safe_model(grouped).resume_training(deepcopy(state))
    del state['optimizers'][0]['param_groups'][0]['param_names']
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    build_safe_model(opt).resume_training(state)
    logger.removeHandler(caplog.handler)
    assert caplog.text.count('does not name its parameters') == 1


def test_resumed_it_is_what_it_was(opt, tmp_path):
    opt = with_gan(opt)
    opt['logger']['keep_last'] = 1
    model = build_safe_model(opt)
    model.clock.iters_per_epoch = 2
    train(model, opt, 1, 3)
    model.num_nonfinite = 4
    for current_iter in (2, 3):
        model.save(epoch=1, current_iter=current_iter)
    names = {p.name for p in (tmp_path / 'models').iterdir()}
    assert names == {'net_g_3.pth', 'net_d_3.pth'}
    state = torch.load(tmp_path / 'training_states/3.state', weights_only=False)
    known = {'images_done': 1, 'manual_seed': 0, 'num_nonfinite': 4, 'ema_decay': 0.9}
    assert state['defsr'] == known

    for net in 'gd':
        opt['path'][f'pretrain_network_{net}'] = str(tmp_path / f'models/net_{net}_3.pth')
    again = build_safe_model(opt)
    again.resume_training(state)
    assert torch.equal(weights(again.net_g), weights(model.net_g))
    assert torch.equal(weights(again.net_g_ema), weights(model.net_g_ema))
    assert again.num_nonfinite == 4


@pytest.mark.parametrize(('resume_with', 'rate'), [(None, 2e-3), ('state', 2e-3), ('file', 1e-5)])
def test_which_learning_rate_is_in_force_is_said(opt, tmp_path, caplog, resume_with, rate):
    opt['train']['optim_g']['lr'] = 2e-3
    model = build_safe_model(opt)
    train(model, opt, 1, 1)
    model.save(epoch=0, current_iter=1)
    state = torch.load(tmp_path / 'training_states/1.state', weights_only=False)
    opt['train']['optim_g']['lr'] = 1e-5
    opt['train'] |= {'resume_with': resume_with, 'ema_decay': 0.5}
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models/net_g_1.pth')
    again = build_safe_model(opt)
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    again.resume_training(state)
    logger.removeHandler(caplog.handler)
    whose = "file's" if resume_with == 'file' else "state's"
    assert f'train:optim_g:lr is 1e-05 here, 0.002 there. The {whose} are in force' in caplog.text
    assert 'train:ema_decay is 0.5, which is in force; the training state was' in caplog.text
    again.update_learning_rate(2)
    assert again.get_current_learning_rate() == [rate]


def single_image(opt):
    """The same data for BasicSR's SRModel."""
    network = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1}
    return opt | {'model_type': 'SRModel', 'network_g': network | {'upscale': 4}}


@pytest.mark.parametrize('change', [dict, single_image], ids=['DEF', 'SR'])
def test_without_ground_truth_metrics_that_need_none_remain(opt, caplog, change):
    """With a data set before and after that has one: each gets all it can."""
    opt = change(opt) | {'is_train': False}
    opt['val']['metrics']['niqe'] = {'type': 'calculate_niqe', 'crop_border': 0}
    opt['path']['pretrain_network_g'] = None
    folder = Path(opt['datasets']['val']['dataroot_gt'])
    for path in folder.iterdir():
        path.unlink()
    write_pairs(folder.parent, [torch.rand(3, 96, 192)] * 2, [(0, 0, 96, 192)])
    whole = opt['datasets']['val']
    opt['datasets']['real'] = whole | {'name': 'real', 'dataroot_lq': whole['dataroot_gt']}
    del opt['datasets']['real']['dataroot_gt']
    model = build_safe_model(opt)
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    found = {}
    for phase in ('val', 'real', 'val'):
        model.validation(loader_of(opt, phase), 'x', None, save_img=False)
        found.setdefault(phase, []).append(set(model.metric_results))
    logger.removeHandler(caplog.handler)
    assert found == {'val': [{'psnr', 'ssim', 'niqe'}] * 2, 'real': [{'niqe'}]}
    assert caplog.text.count('real has no ground truth: psnr, ssim are left out.') == 1


@pytest.mark.parametrize('change', [dict, single_image], ids=['DEF', 'SR'])
@pytest.mark.parametrize('value', [3e38, float('inf')])
def test_a_result_that_is_not_finite_is_none(opt, change, value):
    opt = change(opt) | {'is_train': False}
    model = build_safe_model(opt)
    with torch.no_grad():
        for parameter in model.net_g.parameters():
            parameter.fill_(value)
    with pytest.raises(FloatingPointError, match='result has values that are NaN or infinite'):
        model.validation(loader_of(opt, 'val'), 'x', None, save_img=True)


@pytest.fixture
def slow_logger(tmp_path, monkeypatch):
    """A TensorBoard writer that lags behind, as on a busy machine; ``steps`` are on the disk."""
    write = RecordWriter.write

    def write_late(self, data):
        time.sleep(0.2)
        write(self, data)

    monkeypatch.setattr(RecordWriter, 'write', write_late)
    logger = SummaryWriter(str(tmp_path / 'tb'))

    def steps(tag):
        found = EventAccumulator(str(tmp_path / 'tb')).Reload()
        return [e.step for e in found.Scalars(tag)] if tag in found.Tags()['scalars'] else []

    yield logger, steps
    logger.close()


def test_curves_are_on_the_disk_before_a_checkpoint_counts(opt, slow_logger, monkeypatch):
    model = build_safe_model(opt)
    train(model, opt, 1, 2)
    model.tb_logger, steps = slow_logger
    for current_iter in (1, 2):
        model.tb_logger.add_scalar('losses/l_g_pix', 0.5, current_iter)
    found = []
    publish = model.checkpoints.publish

    def note(*args):
        found.append(steps('losses/l_g_pix'))
        publish(*args)

    monkeypatch.setattr(model.checkpoints, 'publish', note)
    model.save(0, 2)
    assert found == [[1, 2]]


def test_metrics_are_on_the_disk_before_a_validation_counts(opt, slow_logger, monkeypatch):
    logger, steps = slow_logger
    model = build_safe_model(opt)
    train(model, opt, 1, 2)
    found = []
    save = model.record.save

    def note():
        found.append(steps('metrics/tinyval/psnr'))
        save()

    monkeypatch.setattr(model.record, 'save', note)
    model.validation(loader_of(opt, 'val'), 2, logger)
    assert found == [[2]]


def test_validations_are_recorded_and_not_repeated(opt, tmp_path, monkeypatch):
    opt['logger']['keep_best'] = 'psnr'
    model = build_safe_model(opt)
    train(model, opt, 1, 2)
    loader = loader_of(opt, 'val')
    model.validation(loader, 2, None)
    record = json.loads((tmp_path / 'training_states/validation.json').read_text())
    assert list(record) == ['2'] and set(record['2']['tinyval']) == {'psnr', 'ssim'}
    best = {k: v['val'] for k, v in model.best_metric_results['tinyval'].items()}
    assert record['2']['tinyval'] == best
    best = torch.load(tmp_path / 'models/net_g_best.pth')
    assert torch.equal(
        best['params']['aggregator.tail.0.weight'],
        model.net_g.state_dict()['aggregator.tail.0.weight'],
    )
    monkeypatch.setattr(model, 'nondist_validation', None)
    model.validation(loader, 3, None)  # BasicSR's number for the validation after the last

    model.save(0, 2)
    state = torch.load(tmp_path / 'training_states/2.state', weights_only=False)
    again = build_safe_model(opt)
    again.val_loaders = [loader]
    monkeypatch.setattr(again, 'nondist_validation', None)
    again.resume_training(state)
    assert again.best_metric_results == model.best_metric_results


def test_a_validation_that_was_cut_off_is_made_up_for(opt, tmp_path):
    model = build_safe_model(opt)
    train(model, opt, 1, 2)
    model.save(0, 2)
    state = torch.load(tmp_path / 'training_states/2.state', weights_only=False)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models/net_g_2.pth')
    again = build_safe_model(opt)
    again.val_loaders = [loader_of(opt, 'val')]
    again.resume_training(state)
    assert again.record.has(2, 'tinyval')
    assert again.best_metric_results['tinyval']['psnr']['iter'] == 2


def test_the_best_is_kept_not_the_last(opt, tmp_path):
    opt['logger']['keep_best'] = 'tinyval/ssim'
    model = build_safe_model(opt)
    for current_iter, psnr in ((2, 1.0), (4, 3.0), (6, 2.0)):
        train(model, opt, current_iter, current_iter)
        model._initialize_best_metric_results('tinyval')
        model._means = {'ssim': psnr}
        model._note_best('tinyval', model._means, current_iter)
        model._keep_best('tinyval', current_iter)
        if current_iter == 4:
            best = weights(model.net_g)
    kept = torch.load(tmp_path / 'models/net_g_best.pth')['params']
    assert torch.equal(
        torch.cat([kept[k].flatten() for k, _ in model.net_g.named_parameters()]), best
    )


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(opt, tmp_path, number, code):
    model = build_safe_model(opt)
    train(model, opt, 1, 1)
    model.stop.signal = number
    train(model, opt, 2, 2)  # the loop may log it
    with pytest.raises(SystemExit) as leaving:
        train(model, opt, 3, 3)
    assert leaving.value.code == code
    assert model.checkpoints.newest() == (2, [])
    latest = torch.load(tmp_path / 'models/net_g_latest.pth')['params']
    assert all(torch.equal(latest[k], v) for k, v in model.net_g.state_dict().items())


def test_a_signal_in_a_validation(opt):
    model = build_safe_model(opt)
    train(model, opt, 1, 2)
    model.stop.signal = signal.SIGTERM
    with pytest.raises(SystemExit):
        model.validation(loader_of(opt, 'val'), 2, None)
    assert model.checkpoints.newest() == (2, [])
    assert not model.record.has(2, 'tinyval')


def test_a_checkpoint_of_another_network(opt, tmp_path):
    model = build_safe_model(opt)
    model.save_network(model.net_g, 'net_g', 7)
    opt['path']['pretrain_network_g'] = path = str(tmp_path / 'models/net_g_7.pth')
    build_safe_model(opt)
    opt['network_g']['aggregator']['num_feat'] = 16
    message = f'path:pretrain_network_g is {path}.*num_feat 16 here, 8 when it was trained'
    with pytest.raises(ValueError, match=message):
        build_safe_model(opt)
    message = f'path:pretrain_network_g is {path}.*of another shape .*network_g'
    with pytest.raises(ValueError, match=message):
        build_safe_model(opt | {'check_trained': False})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['train'].update(nonfinite='ignore'), "train:nonfinite is 'ignore'"),
        (lambda o: o['train'].update(grad_clip_norm=-1), 'grad_clip_norm is -1'),
        (lambda o: o['train'].update(max_nonfinite='many'), 'max_nonfinite is .many.'),
        (lambda o: o['logger'].update(keep_best='pnsr'), 'keep_best is .pnsr.*Did you mean `psnr`'),
    ],
)
def test_wrong_options_end_in_one_line(opt, change, message):
    change(opt)
    with pytest.raises(ValueError, match=message):
        build_safe_model(opt)


def test_a_gradient_that_is_no_number_beside_losses_that_are(opt):
    """The square root's derivative at zero."""
    model = build_safe_model(opt)
    model.cri_pix.forward = lambda x, gt: ((x - x.detach()) ** 2).sum().sqrt()
    before = weights(model.net_g)
    with pytest.raises(NonFiniteError, match='the gradient of optimizer_g is nan'):
        train(model, opt, 1, 1)
    assert torch.equal(weights(model.net_g), before)
