"""One way to a method and its networks: what it reads decides, and options count everywhere."""

from __future__ import annotations

import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from PIL import Image
from references import prepared, references
from torch import nn

from defsr.archs.enhancer_base import Enhancer
from defsr.archs.interface import Restoration
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import project
from defsr.methods.build import Restorer, build_method, method_class, trained_with
from defsr.methods.from_references import FromReferences
from defsr.methods.matched import Matched
from defsr.methods.single_image import SingleImage
from defsr.ops.resize import upsample_bicubic

CPU = torch.device('cpu')
MATLAB, PIL = Degradation('matlab', 4), Degradation('pil', 4)
TRUNK = {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'none'}


class Registered:
    """Takes archs of a test out of BasicSR's registry again."""

    def __enter__(self):
        self.before = dict(iter(ARCH_REGISTRY))  # all of them, which a look-up imports

    def __exit__(self, *_):
        ARCH_REGISTRY._obj_map.clear()
        ARCH_REGISTRY._obj_map.update(self.before)


@pytest.fixture(autouse=True)
def archs():
    """Networks that read references or matches, in a few lines each."""
    with Registered():

        @ARCH_REGISTRY.register()
        class Blend(nn.Module):
            """Half of the input's and half of the reference's mean colour."""

            reads = 'references'
            size_multiple = 8

            def __init__(self, share: float = 0.5) -> None:
                super().__init__()
                self.share = nn.Parameter(torch.tensor(share))

            def forward(self, lq, refs):
                assert not any(side % 8 for side in lq.shape[-2:])
                assert not any(side % 32 for ref in refs for side in ref.shape[-2:])
                mean = torch.stack([ref.mean(dim=(2, 3), keepdim=True) for ref in refs]).mean(0)
                sr = upsample_bicubic(lq, 4) * (1 - self.share) + mean * self.share
                index = torch.zeros(len(lq), *lq.shape[-2:], dtype=torch.int64)
                return Restoration(sr, index=index, key_size=(1, 1))

            @classmethod
            def from_official(cls, state):
                return {'share': state['alpha'].reshape(())}

        @ARCH_REGISTRY.register()
        class Gather(nn.Module):
            """Knows nothing of refined matches, and answers with the image alone."""

            reads = 'matches'

            def __init__(self) -> None:
                super().__init__()
                self.one = nn.Parameter(torch.ones(()))

            def forward(self, lq, aligned):
                assert aligned.feat_de['relu1_1'].shape[-2:] == aligned.de.shape[-2:]
                return aligned.de

        @ARCH_REGISTRY.register()
        class Plodding(Enhancer):
            """An enhancer as documented: costly, and no more than a ``forward``."""

            costly = True

            def __init__(self, scale: int = 4) -> None:
                super().__init__(scale, 'matlab')

            def forward(self, lq):
                return upsample_bicubic(lq, 4).clamp(0, 1)

        yield


@pytest.fixture
def matching() -> dict:
    edsr = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1}
    network_e = {'type': 'SISREnhancer', 'network': edsr | {'upscale': 4}}
    return {
        'scale': 4,
        'network_e': network_e,
        'network_t': dict(TRUNK),
        'network_g': {'type': 'Gather'},
        'path': {},
    }


@pytest.fixture
def weights(matching, tmp_path):
    """Files of the enhancer's network and of the extractor."""
    torch.manual_seed(0)
    edsr = build_network(dict(matching['network_e']['network']))
    torch.save({'params': edsr.state_dict()}, tmp_path / 'e.pth')
    trunk = build_network(dict(TRUNK)).state_dict()
    torch.save({'params': {k: v + 1 for k, v in trunk.items()}}, tmp_path / 't.pth')
    return {f'pretrain_network_{label}': str(tmp_path / f'{label}.pth') for label in 'et'}


def restore(opt, lq, refs, **options):
    restorer = Restorer.build(opt, CPU, MATLAB, **options)
    return restorer(lq, refs)


def test_what_the_network_reads_decides():
    edsr = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3}
    for block, wanted in (
        (edsr, SingleImage),
        ({'type': 'Blend'}, FromReferences),
        ({'type': 'Gather'}, Matched),
        ({'type': 'DEFNet', 'transfer': {}, 'aggregator': {}}, Matched),
    ):
        assert method_class({'network_g': block}) is wanted


@pytest.mark.parametrize('tile', [None, 16])
def test_a_network_of_references_of_any_size(tile):
    """Sides are padded to what it takes, and the result is cut back."""
    lq, refs = torch.rand(1, 3, 21, 30), [torch.rand(1, 3, 50, 61), torch.rand(1, 3, 33, 90)]
    opt = {'network_g': {'type': 'Blend', 'share': 0.0}}
    method, net_g = build_method(opt, CPU, MATLAB)
    found = method.super_resolve(net_g, lq, references(refs), tile=tile)
    assert found.sr.shape == (1, 3, 84, 120) and found.index.shape == (1, 21, 30)
    torch.testing.assert_close(
        found.sr[..., 8:-8, 8:-8], upsample_bicubic(lq, 4)[..., 8:-8, 8:-8], rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match='reads references, but the data have none'):
        method.super_resolve(net_g, lq, [])


def test_gradients_reach_all_of_a_network_of_references():
    method, net_g = build_method({'network_g': {'type': 'Blend'}}, CPU, MATLAB)
    refs = references([torch.rand(1, 3, 32, 32)])
    method.super_resolve(net_g, torch.rand(1, 3, 8, 8), refs).sr.sum().backward()
    assert float(net_g.share.grad.abs()) > 0


RECTIFY = {
    'rectify': {'matcher': 'sift'},
    'gate': 'evidence',
    'network_e': {'type': 'BicubicEnhancer'},
}


def test_references_are_rectified_in_front_of_every_network_that_reads_them(stereo):
    """One that does not explain the input leaves the enhanced input, of the network's own scale."""
    opt = {'network_g': {'type': 'Blend'}, 'path': {}} | RECTIFY
    assert method_class(opt).blocks_of(opt) == ('network_e',)
    restorer = Restorer.build(opt, CPU, MATLAB)
    photo = stereo[0].reshape(1, *stereo[0].shape[-3:])[..., 120:280, 200:400]
    lq = MATLAB.make_lq(photo)[1]
    noise = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(restorer(lq, [noise]), upsample_bicubic(lq, 4).clamp(0, 1))
    assert not torch.allclose(restorer(lq, [photo]), upsample_bicubic(lq, 4).clamp(0, 1))


def test_references_are_brought_to_an_enhancer_of_their_own(matching, weights, stereo):
    """Beside that of the query: what stays where none explains the input is ``network_r``'s."""
    photo = stereo[0].reshape(1, *stereo[0].shape[-3:])[..., 120:280, 200:400]
    lq, noise = MATLAB.make_lq(photo)[1], torch.rand(1, 3, 96, 96)
    opt = matching | {
        'network_e': {'type': 'BicubicEnhancer'},
        'network_r': matching['network_e'],
        'rectify': {'matcher': 'sift'},
        'gate': 'evidence',
        'path': {'pretrain_network_r': weights['pretrain_network_e']},
    }
    assert method_class(opt).blocks_of(opt) == ('network_e', 'network_t', 'network_r')
    restorer = Restorer.build(opt, CPU, MATLAB)
    method = restorer.method
    torch.testing.assert_close(method.enhance(lq), upsample_bicubic(lq, 4).clamp(0, 1))
    sharp = method.frozen['network_r'](lq)
    assert not torch.allclose(sharp, method.enhance(lq))
    torch.testing.assert_close(restorer(lq, [noise]), sharp)
    assert not torch.allclose(restorer(lq, [photo]), sharp)
    large = restorer(lq.repeat(1, 1, 7, 6), [noise])
    torch.testing.assert_close(large, method.anchor(lq.repeat(1, 1, 7, 6)))


def test_a_single_image_method_may_be_made_consistent(matching, weights, stereo):
    opt = {'network_g': matching['network_e']['network'], 'project': 'exact'}
    opt['path'] = {'pretrain_network_g': weights['pretrain_network_e']}
    lq = MATLAB.make_lq(stereo[0][..., 120:280, 200:400])[1]
    sr = Restorer.build(opt, CPU, MATLAB)(lq, [])
    plain = Restorer.build(opt | {'project': 'off'}, CPU, MATLAB)(lq, [])
    torch.testing.assert_close(sr, project(plain, lq, MATLAB.operator))
    assert not torch.allclose(sr, plain)


@pytest.mark.parametrize('block', ['network_e', 'network_r'])
def test_rectifying_wants_an_enhancer_that_fits(block):
    opt = {'network_g': {'type': 'Blend'}, 'path': {}} | RECTIFY
    opt[block] = {'type': 'BicubicEnhancer', 'scale': 2}
    with pytest.raises(ValueError, match=f'{block}:scale is 2, but scale is 4'):
        build_method(opt, CPU, MATLAB)
    assert method_class(opt).blocks_of(opt | {'rectify': 'none'}) == ()


def test_the_key_of_the_weights_counts(tmp_path):
    """``path:param_key_g``; without it the moving average, as for all who restore images."""
    file = tmp_path / 'g.pth'
    states = {k: {'share': torch.tensor(v)} for k, v in (('params', 0.0), ('params_ema', 1.0))}
    torch.save(states, file)
    path = {'pretrain_network_g': str(file)}
    for more, share in (({}, 1.0), ({'param_key_g': 'params'}, 0.0)):
        opt = {'network_g': {'type': 'Blend'}, 'path': path | more}
        assert float(Restorer.build(opt, CPU, MATLAB).net_g.share) == share
    opt['path']['param_key_g'] = 'ema'
    with pytest.raises(ValueError, match='no state dict `ema`.*Set path:param_key_g: params_ema'):
        Restorer.build(opt, CPU, MATLAB)


def test_a_result_that_is_not_finite_is_none(tmp_path):
    torch.save({'share': torch.tensor(3e38)}, tmp_path / 'g.pth')
    opt = {'network_g': {'type': 'Blend'}, 'path': {'pretrain_network_g': str(tmp_path / 'g.pth')}}
    restorer = Restorer.build(opt, CPU, MATLAB)
    with torch.no_grad():
        restorer.net_g.share *= 10
    with pytest.raises(FloatingPointError, match='NaN or infinite'):
        restorer(torch.rand(1, 3, 8, 8), [torch.rand(1, 3, 32, 32)])


def test_published_weights_go_through_the_networks_own_names(tmp_path):
    torch.save({'alpha': torch.tensor([0.25])}, tmp_path / 'official.pth')
    path = {'pretrain_network_g': str(tmp_path / 'official.pth')}
    _, net_g = build_method({'network_g': {'type': 'Blend'}, 'path': path}, CPU, MATLAB)
    assert float(net_g.share) == 0.25


def test_weights_of_the_extractor_count(matching, weights):
    matching['path'] = weights
    method = Restorer.build(matching, CPU, MATLAB).method
    plain = build_network(dict(TRUNK)).state_dict()
    for key, value in method.net_t.state_dict().items():
        torch.testing.assert_close(value, plain[key] + 1)


def test_an_enhancer_of_another_degradation_is_refused(matching, weights):
    matching['path'] = weights
    build_method(matching, CPU, MATLAB)
    with pytest.raises(ValueError, match='network_e:degradation is matlab, but .* is pil'):
        build_method(matching, CPU, PIL)
    matching['network_e'] = {'type': 'BicubicEnhancer'}
    matching['path'] = {}
    build_method(matching, CPU, PIL)  # it inverts nothing


def test_an_enhancer_without_weights_is_refused(matching):
    with pytest.raises(ValueError, match='path:pretrain_network_e is missing: SISREnhancer is of'):
        build_method(matching, CPU, MATLAB)


def test_a_network_of_matches_need_not_know_of_refinement(matching, weights):
    lq, ref = torch.rand(1, 3, 16, 20), torch.rand(1, 3, 64, 80)
    opt = matching | {'path': weights, 'match_refine': 2}
    assert restore(opt, lq, [ref]).shape == (1, 3, 64, 80)


def test_a_costly_enhancer_needs_no_more_than_is_documented(matching):
    lq, ref, seen = torch.rand(1, 3, 16, 20), torch.rand(1, 3, 64, 80), []
    opt = matching | {'network_e': {'type': 'Plodding'}}
    restorer = Restorer.build(opt, CPU, MATLAB)
    sr = restorer(lq, [ref], progress=lambda *call: seen.append(call))
    torch.testing.assert_close(sr, upsample_bicubic(lq, 4).clamp(0, 1))
    assert seen[0] == ('enhance', 0, 1)


def test_references_are_softened_as_the_data_are(stereo):
    """With PIL's bicubic too, which rounds twice: by PIL itself."""
    ref = stereo[1][..., 100:164, 200:296]
    extractor = build_network(dict(TRUNK))
    method = Matched(build_network({'type': 'BicubicEnhancer'}), extractor, 'ref_down_up', PIL)
    pixels = ref[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    small = torch.from_numpy(np.array(Image.fromarray(pixels).resize((24, 16), Image.BICUBIC)))
    soft = upsample_bicubic(small.permute(2, 0, 1)[None].float() / 255, 4).clamp(0, 1)
    torch.testing.assert_close(prepared(method, [ref]).key, extractor(soft)['relu3_1'])


def test_weights_say_what_they_were_trained_with(matching, tmp_path):
    """Another network or another matching is refused, unless it is asked for."""
    opt = matching | {'network_e': {'type': 'BicubicEnhancer'}, 'match_refine': 2}
    torch.save(
        {'params': {'one': torch.ones(())}, 'trained_with': trained_with(opt)}, tmp_path / 'g.pth'
    )
    opt['path'] = {'pretrain_network_g': str(tmp_path / 'g.pth')}
    build_method(opt, CPU, MATLAB)
    other = deepcopy(opt) | {'match_refine': 0, 'match_key': 'ref_down_up'}
    with pytest.raises(ValueError, match='trained with other options: match_key ref_down_up here'):
        build_method(other, CPU, MATLAB)
    with pytest.raises(ValueError, match='match_refine 0 here, 2 when.*check_trained: false'):
        build_method(other, CPU, MATLAB)
    build_method(other | {'check_trained': False}, CPU, MATLAB)
    defaults = deepcopy(opt) | {'match_patch_size': 3, 'match_search': 'exact'}
    build_method(defaults, CPU, MATLAB)  # written out or not


def test_older_weights_load_with_one_line(matching, tmp_path, caplog):
    torch.save({'params': {'one': torch.ones(())}}, tmp_path / 'g.pth')
    opt = matching | {'network_e': {'type': 'BicubicEnhancer'}}
    opt['path'] = {'pretrain_network_g': str(tmp_path / 'g.pth')}
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    build_method(opt, CPU, MATLAB)
    logger.removeHandler(caplog.handler)
    assert caplog.text.count('does not say what it was trained with') == 1


def test_padding_is_no_part_of_the_result():
    """Where the sides fit already nothing is padded."""
    lq = torch.rand(2, 3, 8, 16)
    method, net_g = build_method({'network_g': {'type': 'Blend', 'share': 0.0}}, CPU, MATLAB)
    sr = method.super_resolve(net_g, lq, references([torch.rand(2, 3, 32, 32)])).sr
    torch.testing.assert_close(sr, upsample_bicubic(lq, 4))
