"""Every optimizer of the option files trains, is saved, and goes on exactly."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from workspaces import train, weights

from defsr.running.optimizers import NAMES, build_optimizer, check_optimizer
from defsr.running.states import check_state, read_state
from defsr.running.training_run import build_safe_model
from defsr.utils.seeding import seed_generators

MORE = {
    'SGD': [{}, {'momentum': 0.9, 'nesterov': True}, {'foreach': True}, {'fused': True}],
    'RMSprop': [{}, {'momentum': 0.9, 'centered': True}],
    'Rprop': [{'etas': [0.4, 1.1], 'step_sizes': [1e-5, 0.01]}],
    'Adam': [{'amsgrad': True}, {'fused': True}],
}
CASES = [(name, options) for name in NAMES for options in MORE.get(name, [{}])]


@pytest.mark.parametrize(('name', 'options'), CASES, ids=str)
def test_a_run_goes_on_exactly(opt, tmp_path, name, options):
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 1}
    opt['train']['optim_g'] = {'type': name, 'lr': 1e-3, **options}
    model = build_safe_model(opt)
    assert type(model.optimizer_g).__name__ == name
    assert all(model.optimizer_g.param_groups[0][key] == value for key, value in options.items())
    before = weights(model.net_g)
    train(model, opt, 1, 1)
    assert not torch.equal(weights(model.net_g), before)
    model.save(epoch=0, current_iter=1)
    state = read_state(tmp_path / 'training_states/1.state', torch.device('cpu'))
    seed_generators('batches')
    train(model, opt, 2, 3)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models/net_g_1.pth')
    again = build_safe_model(opt)
    again.resume_training(deepcopy(state))
    seed_generators('batches')
    train(again, opt, 2, 3)
    assert torch.equal(weights(again.net_g), weights(model.net_g))
    values = state['optimizers'][0]['state'].get(0) or {}
    for key in [key for key, value in values.items() if value is not None]:
        lacking = deepcopy(state)
        del lacking['optimizers'][0]['state'][0][key]
        if lacking['optimizers'][0]['state'][0]:  # all of it may be missing: it was never stepped
            with pytest.raises(ValueError, match='an optimizer has not all values of parameter 0'):
                check_state(lacking, again.optimizers, again.schedulers)


def test_a_state_of_another_optimizer_is_refused(opt, tmp_path):
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 1}
    model = build_safe_model(opt)
    train(model, opt, 1, 1)
    model.save(epoch=0, current_iter=1)
    state = read_state(tmp_path / 'training_states/1.state', torch.device('cpu'))
    opt['train']['optim_g'] = {'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9}
    with pytest.raises(ValueError, match='The training state cannot be resumed'):
        build_safe_model(opt).resume_training(state)


def test_learning_rates_by_name_go_with_any(opt):
    opt['train']['optim_g'] = {'type': 'SGD', 'lr': 1e-3, 'groups': {'transfer': 1e-5}}
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 1}
    model = build_safe_model(opt)
    assert sorted(group['lr'] for group in model.optimizer_g.param_groups) == [1e-5, 1e-3]


def test_what_pytorch_refuses_is_one_line():
    with pytest.raises(ValueError, match='^o: SGD cannot have these options: Nesterov .*[.]$'):
        check_optimizer('o', {'type': 'SGD', 'lr': 0.1, 'nesterov': True})
    made = build_optimizer('AdamW', [torch.nn.Parameter(torch.ones(2))], 0.1, fused=True)
    assert made.param_groups[0]['fused'] is True
