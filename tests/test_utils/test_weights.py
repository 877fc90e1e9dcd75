"""One reader for every weight file: containers, strangers' files, other architectures."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from defsr.utils.weights import (
    check_same_layout,
    check_trained_with,
    load_weights,
    read_checkpoint,
    read_weights,
)

OPTION = 'path:pretrain_network_g'


def state(value: float, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {'conv.weight': torch.full((2, 3), value), 'conv.bias': torch.zeros(2), **more}


@pytest.fixture
def save(tmp_path):
    def write(content: object) -> str:
        torch.save(content, tmp_path / 'w.pth')
        return str(tmp_path / 'w.pth')

    return write


@pytest.mark.parametrize(
    ('content', 'param_key', 'value'),
    [
        (state(1), None, 1),
        ({'params': state(2)}, None, 2),
        ({'params': state(1), 'params_ema': state(3)}, None, 3),
        ({'params': state(1), 'params_ema': state(3)}, 'params', 1),
        ({'ema': state(4), 'step': 7}, None, 4),
        ({'state_dict': state(5), 'epoch': 3}, None, 5),
        ({'generator': state(7)}, 'generator', 7),
        ({f'module.{key}': tensor for key, tensor in state(8).items()}, None, 8),
    ],
)
def test_containers(save, content, param_key, value):
    found = read_weights(save(content), option=OPTION, param_key=param_key)
    assert set(found) == {'conv.weight', 'conv.bias'}
    assert torch.equal(found['conv.weight'], torch.full((2, 3), float(value)))


@pytest.mark.parametrize(
    ('content', 'param_key', 'message'),
    [
        (
            {'ema': state(1)},
            'params',
            'no state dict `params`, but ema. Set path:param_key_g: ema',
        ),
        (state(1), 'params', 'no state dict `params`, but a bare one. Set path:param_key_g: ~'),
        ([torch.zeros(2)], None, 'holds a list, expected a state dict'),
        (torch.zeros(2), None, 'holds a Tensor, expected a state dict'),
        ({'iter': 3, 'epoch': 1}, None, r"no state dict; its keys are \['epoch', 'iter'\]"),
        ({'params': {'a': {'b': 1}}}, None, r"no state dict; its keys are \['a'\]"),
        ({'params': {3: torch.zeros(1)}}, None, r"no state dict; its keys are \['3'\]"),
        ({}, None, 'no state dict'),
        (argparse.Namespace(lr=1), None, 'the Python object argparse.Namespace'),
    ],
)
def test_files_without_a_state_dict(save, content, param_key, message):
    with pytest.raises(ValueError, match=f'^{OPTION} is .*w.pth, which .*{message}') as error:
        read_weights(save(content), option=OPTION, param_key=param_key)
    assert '\n' not in str(error.value)


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (exec, ('raise SystemError',))


def test_code_is_not_run(tmp_path, save):
    file = tmp_path / 'plain.pth'
    file.write_bytes(pickle.dumps(Trap(), protocol=2))
    for path in (save(Trap()), save({'params': Trap()}), file):
        with pytest.raises(ValueError, match='asks for the Python object .*exec') as error:
            read_weights(path, option=OPTION)
        assert 'weights_only' not in str(error.value)
    file.write_bytes(pickle.dumps(Trap(), protocol=4))
    with pytest.raises(ValueError, match='is no PyTorch file of plain tensors'):
        read_weights(file, option=OPTION)


def test_damaged_files(tmp_path, save):
    content = Path(save({'params': state(1)})).read_bytes()
    damaged = [content[:cut] for cut in range(0, len(content), 97)]
    damaged += [b'hello', b'PK\x03\x04 torn', b'\x80\x02', b'\x89PNG', bytes(5000)]
    for data in damaged:
        (tmp_path / 'torn.pth').write_bytes(data)
        with pytest.raises(ValueError, match=f'^{OPTION} is .*torn.pth, which is no PyTorch file'):
            read_weights(tmp_path / 'torn.pth', option=OPTION)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'{OPTION} is none.pth, which does not exist'):
        read_weights('none.pth', option=OPTION)
    with pytest.raises(FileNotFoundError, match='which is a folder'):
        read_checkpoint(tmp_path, option=OPTION)


def check(found, wanted):
    check_same_layout('w.pth', found, wanted, option=OPTION, network='network_g')


def test_layout():
    check(state(1), state(2))
    other = {'a': torch.ones(1), 'b': torch.ones(1), 'c': torch.ones(1), 'd': torch.ones(1)}
    start = f'{OPTION} is w.pth, which is of another architecture than network_g: '
    with pytest.raises(ValueError, match=start + r'4 unexpected \(a, b, c\). Change the options'):
        check(state(1, **other), state(1))
    with pytest.raises(
        ValueError, match=start + r'1 missing \(a\); 1 of another shape \(conv.bias'
    ):
        check(state(1, **{'conv.bias': torch.ones(3)}), state(1, a=torch.ones(1)))


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_values_that_are_not_finite(value):
    with pytest.raises(ValueError, match='where conv.weight has values that are NaN or infinite'):
        check(state(float(value)), state(1.0))


@pytest.mark.parametrize(
    ('change', 'kind'),
    [
        (lambda x: x.to_sparse(), 'a sparse_coo tensor'),
        (lambda x: x.to_sparse_csr(), 'a sparse_csr tensor'),
        (lambda x: x.to('meta'), 'a tensor without values'),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), 'a quantized tensor'),
        (lambda x: x.to(torch.int8), 'of torch.int8'),
        (lambda x: x.bool(), 'of torch.bool'),
        (lambda x: x.cfloat(), 'of torch.complex64'),
    ],
)
def test_tensors_of_another_kind(change, kind):
    wrong = state(1.0) | {'conv.weight': change(state(1.0)['conv.weight'])}
    with pytest.raises(ValueError, match=f'conv.weight is {kind}, but must be of floating point'):
        check(wrong, state(1.0))
    check({key: value.half() for key, value in state(1.0).items()}, state(1.0))


def test_a_net_that_takes_what_fits_takes_nothing_strange(tmp_path):
    for value in (float('inf'), float('nan')):
        torch.save({'weight': torch.full((2, 3), value)}, tmp_path / 'w.pth')
        net = torch.nn.Linear(3, 2)
        with pytest.raises(ValueError, match='NaN or infinite'):
            load_weights(net, tmp_path / 'w.pth', option=OPTION, network='n', strict=False)


def alias_bomb():
    lists = [[0] * 9]
    for _ in range(9):
        lists.append([lists[-1]] * 9)
    return lists[-1]


def nest(depth):
    return [nest(depth - 1)] if depth else []


@pytest.mark.parametrize('content', [alias_bomb(), nest(60)], ids=['aliases', 'depth'])
def test_what_a_walk_would_not_come_back_from(tmp_path, content):
    """What the message would show of it, or `trained_with` be compared with."""
    torch.save({'params': state(1.0), 'trained_with': {'a': content}}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='nested too deep, or holds too many values'):
        read_checkpoint(tmp_path / 'w.pth', option=OPTION)


def test_a_mapping_whose_methods_are_something_else(tmp_path):
    content = OrderedDict(state(1.0))
    content.get = 3
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='it has a mapping with attributes'):
        read_checkpoint(tmp_path / 'w.pth', option=OPTION)


def test_trained_with_something_that_is_no_option(tmp_path):
    content = {'params': state(1.0), 'trained_with': {'scale': torch.ones(3)}}
    with pytest.raises(ValueError, match='w.pth, whose `trained_with` holds no options'):
        check_trained_with(content, {'scale': 4}, 'w.pth', OPTION)
