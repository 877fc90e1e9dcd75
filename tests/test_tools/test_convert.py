"""defsr-convert: whose a file is, with which sizes, and the same weights in our own form."""

from __future__ import annotations

import os
import re

import pytest
import torch
from basicsr.archs import build_network
from scipy.io import savemat
from torch.testing import assert_close
from workspaces import run, run_well

from defsr.tools.convert import convert
from defsr.utils.fingerprints import digest_of_file
from defsr.utils.weights import load_weights, read_weights

EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2}
RRDB = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2}
RRDB |= {'num_grow_ch': 4, 'scale': 4}
MSR = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 3}
# Names of ours (BasicSR's) -> those that other releases have, as their own scripts rename them.
OLD_ESRGAN = (
    (r'^conv_first', 'model.0'),
    (r'^body\.(\d+)\.rdb(\d)\.conv(\d)', r'model.1.sub.\1.RDB\2.conv\3.0'),
    (r'^conv_body', 'model.1.sub.2'),
    (r'^conv_up1', 'model.3'),
    (r'^conv_up2', 'model.6'),
    (r'^conv_hr', 'model.8'),
    (r'^conv_last', 'model.10'),
)
NEW_ESRGAN = (
    (r'^body\.(\d+)\.rdb', r'RRDB_trunk.\1.RDB'),
    ('^conv_body', 'trunk_conv'),
    ('^conv_up', 'upconv'),
    ('^conv_hr', 'HRconv'),
)
OWN_EDSR = (
    ('^conv_first', 'head.0'),
    (r'^body\.(\d+)\.conv1', r'body.\1.body.0'),
    (r'^body\.(\d+)\.conv2', r'body.\1.body.2'),
    ('^conv_after_body', 'body.2'),
    ('^upsample', 'tail.0'),
    ('^conv_last', 'tail.1'),
)
MMSR = (('^body', 'recon_trunk'), ('^conv_hr', 'HRconv'))


def mean_shifts(img_range):
    mean = img_range * torch.tensor([0.4488, 0.4371, 0.4040])
    eye = torch.eye(3).view(3, 3, 1, 1)
    return {
        'sub_mean.weight': eye, 'sub_mean.bias': -mean, 'add_mean.weight': eye,
        'add_mean.bias': mean,
    }  # fmt: skip


@pytest.mark.parametrize(
    ('block', 'names', 'container', 'more'),
    [
        (EDSR, (), 'params', {}),
        (EDSR | {'upscale': 2}, (), 'params_ema', {}),
        (EDSR | {'upscale': 3, 'img_range': 255.0}, OWN_EDSR, None, mean_shifts(255)),
        (EDSR | {'img_range': 1.0}, OWN_EDSR, None, mean_shifts(1)),
        (EDSR | {'num_feat': 256, 'num_block': 1, 'res_scale': 0.1}, (), 'params', {}),
        (RRDB, (), 'params_ema', {}),
        (RRDB | {'scale': 2}, (), 'params_ema', {}),
        (RRDB | {'scale': 1}, (), 'params', {}),
        (RRDB, OLD_ESRGAN, None, {}),
        (RRDB, NEW_ESRGAN, None, {}),
        (MSR | {'upscale': 4}, (), 'params', {}),
        (MSR | {'upscale': 3}, MMSR, None, {}),
        (MSR | {'upscale': 2}, MMSR, 'state_dict', {}),
        ({'type': 'SRCNN', 'kernel_size': [9, 1, 5], 'num_ch': 1}, (), None, {}),
    ],
)
def test_whose_it_is(tmp_path, block, names, container, more):
    """Sizes, names and values come back, through both kinds of file."""
    torch.manual_seed(0)
    net = build_network(dict(block))
    state = net.state_dict() | more
    for ours, theirs in names:
        state = {re.sub(ours, theirs, key): value for key, value in state.items()}
    state = {f'module.{key}': value for key, value in state.items()}
    torch.save({container: state} if container else state, tmp_path / 'official.pth')
    for end in ('pth', 'safetensors'):
        found = convert(tmp_path / 'official.pth', tmp_path / f'own.{end}')
        assert {key: found.network[key] for key in block} == block
        other = build_network(dict(found.network))
        load_weights(other, tmp_path / f'own.{end}', option='w', network='network_g')
        assert_close(other.state_dict(), net.state_dict(), rtol=0, atol=0)
        lq = torch.rand(2, 3, 8, 12)
        with torch.no_grad():
            assert_close(other(lq), net(lq), rtol=0, atol=0)


def test_the_command(tmp_path):
    """A MATLAB file of SRCNN's; the block can be read from stdout alone."""
    shapes = {'weights_conv1': (81, 64), 'weights_conv2': (64, 25, 32), 'weights_conv3': (32, 25)}
    shapes |= {'biases_conv1': (64, 1), 'biases_conv2': (32, 1), 'biases_conv3': (1, 1)}
    savemat(
        tmp_path / 'x3.mat', {name: torch.rand(shape).numpy() for name, shape in shapes.items()}
    )
    done = run(tmp_path, '-m', 'defsr.tools.convert', 'x3.mat', '--out', 'new/srcnn.pth')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('network_g:\n  type: SRCNN\n  num_ch: 1\n')
    assert 'padding: replicate' in done.stdout
    assert 'or the authors as .mat; 6 tensors, 57,281 numbers' in done.stderr
    assert digest_of_file(tmp_path / 'new/srcnn.pth') in done.stderr
    assert os.listdir(tmp_path / 'new') == ['srcnn.pth']


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as a training here saves it, its moving average, and what it says."""
    torch.manual_seed(0)
    average = build_network(dict(EDSR)).state_dict()
    other = {name: torch.full_like(value, 7) for name, value in average.items()}
    said = {'network_g': {**EDSR, 'res_scale': 0.5}, 'match_key': 'ref'}
    path = tmp_path / 'net_g_latest.pth'
    torch.save({'params': other, 'params_ema': average, 'trained_with': said}, path)
    return path, average, said


@pytest.mark.parametrize('end', ['pth', 'safetensors'])
def test_what_a_training_said_goes_with_the_moving_average(checkpoint, tmp_path, end):
    path, average, said = checkpoint
    out = tmp_path / f'small.{end}'
    assert convert(path, out, 'half').network == said['network_g']
    written = read_weights(out, option='weights')
    assert {value.dtype for value in written.values()} == {torch.float16}
    net = build_network(dict(EDSR))
    net.load_state_dict(written)
    assert_close(net.state_dict(), average, rtol=2**-11, atol=1e-7)
    assert out.stat().st_size < 0.6 * path.stat().st_size / 2 + 8000
    wanted = {'network_g': EDSR}
    with pytest.raises(ValueError, match='trained with other options: .*res_scale'):
        load_weights(net, out, option='w', network='network_g', trained_with=wanted)


def test_an_option_file_says_what_a_checkpoint_does_not(tmp_path):
    torch.save({'params': {'own': torch.ones(2)}}, tmp_path / 'old.pth')
    with pytest.raises(ValueError, match=r'old.pth is of no network.*own, .*EDSR.*\(--options\)'):
        convert(tmp_path / 'old.pth')
    (tmp_path / 'o.yml').write_text('network_g: {type: MSRResNet, num_feat: 8}\n')
    found = convert(tmp_path / 'old.pth', tmp_path / 'new.pth', options=tmp_path / 'o.yml')
    assert found.network['num_block'] == 16 and found.network['type'] == 'MSRResNet'


def test_what_cannot_be_written_is_refused(checkpoint, tmp_path):
    path, _, said = checkpoint
    weights = {'params': {'weight': torch.tensor([1.0, 1e6])}, 'trained_with': said}
    torch.save(weights, tmp_path / 'large.pth')
    with pytest.raises(ValueError, match=r'not finite in half precision \(weight\)'):
        convert(tmp_path / 'large.pth', tmp_path / 'w.pth', 'half')
    with pytest.raises(ValueError, match="The end of --out is '.mat', but must be one of"):
        convert(path, tmp_path / 'w.mat')
    with pytest.raises(ValueError, match='is the file itself'):
        convert(path, path)
    assert not (tmp_path / 'w.pth').exists()


class Trap:
    def __reduce__(self):
        return os.system, ('true',)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('x.pth', {'model': Trap()}, r'system.*save the tensors alone: torch.save\(net.state_dict'),
        ('x.safetensors', b'\0' * 40, 'is no safetensors file of plain tensors'),
        (
            'x.mat',
            b'MATLAB 7.3 MAT-file' + b' ' * 105 + b'\0\2IM',
            'is no MATLAB file.*save it there with -v7',
        ),
        ('x.mat', b'MATLAB 5.0'.ljust(124) + b'\0\1IM' + b'\xff' * 99, 'is torn or damaged'),
        ('x.mat', b'\0' * (16 * 2**20 + 1), 'has more than 16,777,216 bytes'),
        ('x.caffemodel', b'\x0a\x0dSRCNN', 'no PyTorch file of plain tensors'),
    ],
)
def test_files_of_strangers(tmp_path, name, content, message):
    """SRCNN's Caffe model is one of them: no reader of protobuf is worth its one file."""
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(ValueError, match=f'^the file is .*{name}, which .*{message}') as error:
        convert(tmp_path / name)
    assert '\n' not in str(error.value)


def test_a_network_of_strange_sizes_is_none_that_is_known(tmp_path):
    """Classes are asked with tensors that they do not expect."""
    keys = ('conv_first.weight', 'conv_last.weight', 'upconv1.weight', 'upsample.0.weight')
    keys += ('body.0.rdb1.conv1.weight', 'body.0.conv1.weight', 'conv1.weight', 'weights_conv1')
    keys += ('biases_conv1', 'weights_conv2', 'add_mean.bias', *(f'conv{i}.bias' for i in (1, 2)))
    for value in (torch.zeros(()), torch.zeros(0), torch.zeros(2, 0, 3, 3), torch.zeros(5, 7)):
        torch.save(dict.fromkeys(keys, value), tmp_path / 'odd.pth')
        with pytest.raises(ValueError, match='is of no network that is known here'):
            convert(tmp_path / 'odd.pth')


def test_the_help_says_what_is_read(tmp_path):
    assert '*.safetensors; SRCNN: *.mat' in run_well(tmp_path, '-m', 'defsr.tools.convert', '-h')


def test_packed_files_are_smaller_and_hold_the_same(tmp_path):
    """A twelfth of what is shipped, which PyTorch itself reads."""
    plain, packed = tmp_path / 'plain.pth', tmp_path / 'packed.pth'
    for out in (plain, packed):
        convert('small_EDSR.pth', out, 'half', compress=out == packed)
    assert packed.stat().st_size < 0.95 * plain.stat().st_size
    contents = [torch.load(out, weights_only=True) for out in (plain, packed)]
    assert contents[0].keys() == contents[1].keys()
    for name, value in contents[0]['params'].items():
        assert torch.equal(contents[1]['params'][name], value)
