"""Weight files to ship: the moving average, in half precision, that loads as before."""

from __future__ import annotations

import os

import pytest
import torch
from basicsr.archs import build_network
from torch.testing import assert_close
from workspaces import run_well

from defsr.tools.export_weights import export_weights
from defsr.utils.fingerprints import digest_of_file
from defsr.utils.weights import read_weights

EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as BasicSR saves it, and its moving average."""
    torch.manual_seed(0)
    average = build_network(dict(EDSR)).state_dict()
    other = {name: torch.full_like(value, 7) for name, value in average.items()}
    path = tmp_path / 'net_g_latest.pth'
    torch.save({'params': other, 'params_ema': average}, path)
    return path, average


def test_the_moving_average_in_half_precision(checkpoint, tmp_path):
    path, average = checkpoint
    out = tmp_path / 'deep' / 'small.pth'
    export_weights(path, out)
    written = read_weights(out, option='weights')
    assert {value.dtype for value in written.values()} == {torch.float16}
    net = build_network(dict(EDSR))
    net.load_state_dict(written)
    assert_close(net.state_dict(), average, rtol=2**-11, atol=1e-7)
    assert out.stat().st_size < 0.6 * path.stat().st_size / 2 + 5000
    assert os.listdir(out.parent) == ['small.pth']


def test_full_precision_changes_nothing(checkpoint, tmp_path):
    path, average = checkpoint
    assert_close(export_weights(path, tmp_path / 'w.pth', 'full'), average, rtol=0, atol=0)


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    torch.save({'params': {'weight': torch.tensor([1.0, 1e6])}}, tmp_path / 'large.pth')
    with pytest.raises(ValueError, match=r'not finite in half precision \(weight\)'):
        export_weights(tmp_path / 'large.pth', tmp_path / 'w.pth')
    assert not (tmp_path / 'w.pth').exists()
    with pytest.raises(FileNotFoundError):
        export_weights(tmp_path / 'nowhere.pth', tmp_path / 'w.pth')


def test_the_command_prints_the_digest(checkpoint, tmp_path):
    out = tmp_path / 'small.pth'
    command = ('-m', 'defsr.tools.export_weights', str(checkpoint[0]), '--out', str(out))
    said = run_well(tmp_path, *command)
    assert digest_of_file(out) in said
