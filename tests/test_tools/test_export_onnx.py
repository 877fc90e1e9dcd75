"""defsr-export-onnx: files that give what PyTorch gives, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from workspaces import SMALL, load_options, run, save_options

from defsr.archs.plain_inputs import named_inputs, random_inputs, with_plain_inputs
from defsr.tools import export_onnx
from defsr.tools.export_onnx import export, size_of

SIZES = (((8, 13), (11, 7)), ((15, 10), (6, 16)))  # of the input and of the reference


def _runtime():
    """ONNX Runtime, where the extra and a PyTorch that can export are installed."""
    for name in ('onnx', 'onnxscript'):
        pytest.importorskip(name, reason='defsr[onnx] is not installed')
    if not hasattr(torch.compiler, 'is_exporting'):
        pytest.skip('PyTorch before 2.7 does not say when it exports')
    return pytest.importorskip('onnxruntime', reason='defsr[onnx] is not installed')


def _check_an_export(file: Path, weights: str, inputs: int, out: Path) -> None:
    """What ONNX Runtime makes of the file is what PyTorch makes of the network, at two sizes."""
    onnxruntime = _runtime()
    found = export(file, out, weights)
    assert len(found.inputs) == inputs and found.difference < 1e-4
    assert found.inputs['lq'][1] == 3 and isinstance(found.inputs['lq'][2], str)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    content = out.read_bytes()
    assert b'defsr/' not in content and b'site-packages' not in content
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    said = json.loads(session.get_modelmeta().custom_metadata_map['trained_with'])
    net, _ = export_onnx._loaded(file, weights)
    assert said['network_g']['type'] == type(net).__name__
    for number, sizes in enumerate(SIZES, start=1):
        example = random_inputs(net, *sizes, number)
        with torch.no_grad():
            wanted = with_plain_inputs(net)(**example)
        named = {key: value.numpy() for key, value in named_inputs(example).items()}
        [sr] = session.run(['sr'], named)
        assert sr.shape == (number, 3, *(4 * side for side in sizes[0]))
        torch.testing.assert_close(torch.from_numpy(sr), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', ['EDSR', 'SRCNN', 'RankSRGAN', 'ESRGAN'])
def test_a_shipped_network(name, tmp_path):
    _check_an_export(SMALL / f'{name}_x4.yml', f'small_{name}.pth', 1, tmp_path / 'net.onnx')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['best', 'SRNTT'])  # both transfers, both aggregators
def test_a_network_that_is_given_textures(name, tmp_path):
    """One block a level, where those shipped have up to six: a tracer takes its time for each."""
    opt = load_options(SMALL / f'{name}_x4.yml')
    opt['network_g'].get('aggregator', opt['network_g'])['num_block'] = [1, 1, 1, 1]
    weights = tmp_path / 'net.pth'
    torch.save({'params': build_network(opt['network_g']).state_dict()}, weights)
    (tmp_path / 'out').mkdir()
    file = save_options(tmp_path / 'net.yml', opt)
    _check_an_export(Path(file), str(weights), 12, tmp_path / 'out/net.onnx')


def test_one_size(tmp_path):
    _runtime()
    found = export(SMALL / 'SRCNN_x4.yml', tmp_path / 'net.onnx', 'small_SRCNN.pth', (9, 12))
    assert found.inputs == {'lq': [1, 3, 9, 12]} and found.size == (9, 12)


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    _runtime()
    monkeypatch.setattr(export_onnx, 'TOLERANCE', 0.0)
    with pytest.raises(ValueError, match=r'ONNX Runtime differs from PyTorch by .* is written'):
        export(SMALL / 'SRCNN_x4.yml', tmp_path / 'net.onnx', 'small_SRCNN.pth', (9, 12))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['TTSR', 'MASA', 'C2', 'DATSR'])
def test_networks_that_match_inside_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, '_check_packages', lambda: None)
    with pytest.raises(ValueError, match='by itself .* that is not in ONNX. Export a network'):
        export(SMALL / f'{name}_x4.yml', tmp_path / 'net.onnx', f'small_{name}.pth')


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('null_space', 'network_g is ReferenceNullSpace, which has no weights: there is nothing'),
        ('SRCNN', 'SRCNN has no weights: path:pretrain_network_g is missing. Give --weights'),
        ('best_rectified', 'network_g has a fusion, which reads rectified references'),
    ],
)
def test_what_cannot_be_in_a_file_is_refused(name, said, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, '_check_packages', lambda: None)
    with pytest.raises(ValueError, match=said):
        export(SMALL / f'{name}_x4.yml', tmp_path / 'net.onnx')


def test_arguments_that_cannot_be(tmp_path):
    file = SMALL / 'SRCNN_x4.yml'
    with pytest.raises(ValueError, match="The end of --out is '.pth', but must be one of"):
        export(file, tmp_path / 'net.pth', 'small_SRCNN.pth')
    with pytest.raises(ValueError, match='--size: width is 3, but must be at least 4.'):
        export(file, tmp_path / 'net.onnx', 'small_SRCNN.pth', (9, 3))
    with pytest.raises(ValueError, match="--size is '9', but must be HxW, such as 128x96."):
        size_of('9')
    assert size_of('128x96') == (128, 96)


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx: pip install 'defsr\[onnx\]'"):
        export(SMALL / 'SRCNN_x4.yml', tmp_path / 'net.onnx', 'small_SRCNN.pth')


def test_the_command_refuses_in_one_line(tmp_path):
    done = run(
        tmp_path, '-m', 'defsr.tools.export_onnx', '-opt', 'none.yml', '--out', 'net.onnx',
        '--size', '8',
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith('error: --size is')
