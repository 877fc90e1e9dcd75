"""How a denoiser is called must not change what it answers."""

from __future__ import annotations

import pickle
import shutil
from copy import deepcopy

import pytest
import torch
from denoisers import TINY_ADM
from torch import nn
from torch.testing import assert_close

from defsr.archs.adm_unet_arch import ADMUNet
from defsr.archs.denoiser_runtime import DenoiserRuntime
from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.archs.unshuffle_unet_arch import UnshuffleUNet

ADM = TINY_ADM | {'num_head_channels': 16}
UNSHUFFLE = {'type': 'UnshuffleUNet', 'num_feat': [8, 16], 'num_block': 1, 'emb_ch': 16}


def filled(net, seed=20):
    """The same random weights each time; norms stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        noise = std * torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.ndim == 1 and name.endswith('weight')
        parameter.data.copy_(noise + float(is_scale))
    return net.eval()


def enhancer(denoiser, **options):
    made = DDNMEnhancer(denoiser, diffusion={'num_steps': 4, 'eta': 0.5}, **options)
    filled(made.denoiser)
    return made


class Recorder(nn.Module):
    """Answers with x_t, and remembers in which form it was asked."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.seen = []

    def forward(self, x_t, t):
        answer = self.conv(x_t)
        self.seen.append((x_t, answer.dtype))
        return answer


@pytest.mark.parametrize('denoiser', [ADM, UNSHUFFLE], ids=lambda block: block['type'])
def test_channels_last_agrees_to_rounding(denoiser, rng):
    lq = torch.rand(2, 3, 5, 9, generator=rng)
    plain = enhancer(denoiser, channels_last=False)
    last = enhancer(denoiser)  # the default
    de = plain.enhance(lq)
    assert_close(last.enhance(lq), de, rtol=0, atol=1e-4)
    assert de.std() > 0.1
    assert (last.precision, last.channels_last, plain.channels_last) == ('fp32', True, False)
    assert last.state_dict().keys() == plain.state_dict().keys()
    for key, value in last.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key])


def test_channels_last_holds_for_weights_and_image(tmp_path, rng):
    made = enhancer(ADM)
    weights = [p for p in made.denoiser.parameters() if p.ndim == 4 and p.shape[2] > 1]
    torch.save({k: v.contiguous() for k, v in made.denoiser.state_dict().items()}, tmp_path / 'w')
    made.load_weights(tmp_path / 'w')
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert not any(p.is_contiguous() for p in weights)
    recorder, x_t = Recorder(), torch.rand(2, 3, 8, 12, generator=rng)
    for channels_last in (True, False):
        runtime = DenoiserRuntime(channels_last=channels_last)
        answer = runtime(recorder, x_t, torch.zeros(2))
        assert answer.is_contiguous()
        seen = recorder.seen.pop()[0]
        assert seen.is_contiguous() != channels_last
        assert seen.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_precision_is_that_of_the_denoiser_alone(rng):
    """bfloat16 has 8 bits: answers differ by some 1e-2, and come back as float32."""
    x_t = torch.rand(2, 3, 8, 8, generator=rng)
    recorder = Recorder()
    full = DenoiserRuntime()(recorder, x_t, torch.zeros(2))
    half = DenoiserRuntime('bf16')(recorder, x_t, torch.zeros(2))
    assert [dtype for _, dtype in recorder.seen] == [torch.float32, torch.bfloat16]
    assert full.dtype == half.dtype == torch.float32
    assert recorder.conv.weight.dtype == torch.float32
    assert 1e-5 < (full - half).abs().max() < 2e-2
    assert torch.equal(half, half.bfloat16().float())
    assert not torch.is_autocast_enabled('cpu')


def test_a_result_in_bf16_still_degrades_to_the_input(rng):
    lq = torch.rand(1, 3, 4, 4, generator=rng)
    made, exact = enhancer(UNSHUFFLE, precision='bf16'), enhancer(UNSHUFFLE)
    de = made.enhance(lq)
    assert de.dtype == torch.float32
    assert made.residual(de, lq)['unclamped'] < 1e-4
    assert 1e-5 < (de - exact.enhance(lq)).abs().mean() < 5e-2


def test_fp16_on_the_cpu_is_refused(rng):
    made = enhancer(UNSHUFFLE, precision='fp16')
    with pytest.raises(
        ValueError, match='network_e:precision is fp16, but .* on the CPU.*Set fp32'
    ):
        made(torch.rand(1, 3, 4, 4, generator=rng))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_half_precision_on_a_gpu(precision, rng):
    lq = torch.rand(2, 3, 5, 9, generator=rng).cuda()
    made, exact = enhancer(ADM, precision=precision).cuda(), enhancer(ADM).cuda()
    de = made.enhance(lq)
    assert made.residual(de, lq)['unclamped'] < 1e-3
    assert (de - exact.enhance(lq)).abs().mean() < 5e-2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'precision': 'half'}, "network_e:precision is 'half', but must be one of"),
        ({'precision': 'bf-16'}, 'Did you mean `bf16`'),
        ({'precision': 16}, 'network_e:precision is 16'),
        ({'channels_last': 'yes'}, "network_e:channels_last is 'yes', but must be true or false"),
        ({'compile': None}, 'network_e:compile is None, but must be true or false'),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DDNMEnhancer(UNSHUFFLE, **options)


# ----------------------------------------------------------------------------------- compilation


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='no C++ compiler')
def test_compiled_agrees_at_several_sizes(rng):
    plain, fast = enhancer(UNSHUFFLE), enhancer(UNSHUFFLE, compile=True)
    for size in ((4, 6), (6, 10), (9, 5)):
        lq = torch.rand(2, 3, *size, generator=rng)
        assert_close(fast.enhance(lq), plain.enhance(lq), rtol=0, atol=1e-4)
    assert fast.runtime.compile.compiled is not None


@pytest.fixture
def compiled(monkeypatch):
    """``torch.compile`` that only notes what it is given."""
    calls = []

    def compile_(module, backend):
        calls.append(module)
        return lambda x_t, t: 2 * module(x_t, t)

    monkeypatch.setattr(torch, 'compile', compile_)
    return calls


def test_the_compiled_denoiser_is_beside_the_tree(compiled, tmp_path, rng):
    lq = torch.rand(1, 3, 4, 4, generator=rng)
    made, plain = enhancer(UNSHUFFLE, compile=True), enhancer(UNSHUFFLE)
    assert compiled == []  # lazily
    doubled = made.enhance(lq)
    made.enhance(lq)
    assert compiled == [made.denoiser]
    assert (doubled - plain.enhance(lq)).abs().max() > 0.01
    assert isinstance(made.denoiser, UnshuffleUNet)
    assert made.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in made.named_modules()] == [n for n, _ in plain.named_modules()]
    torch.save(made.denoiser.state_dict(), tmp_path / 'w.pth')
    made.load_weights(tmp_path / 'w.pth')
    copy = deepcopy(made)
    assert torch.equal(copy.enhance(lq), doubled)
    assert compiled == [made.denoiser, copy.denoiser]
    assert pickle.loads(pickle.dumps(made.runtime)).compile.compiled is None
    made.denoiser = filled(UnshuffleUNet(num_feat=[8, 16], num_block=1, emb_ch=16), seed=3)
    made.enhance(lq)
    assert compiled[2] is made.denoiser


def test_no_compilation_unless_asked(compiled, rng):
    enhancer(UNSHUFFLE)(torch.rand(1, 3, 4, 4, generator=rng))
    assert compiled == []


def test_a_failed_compilation_ends_in_one_line(monkeypatch):
    class CompilerError(RuntimeError):
        pass

    CompilerError.__module__ = 'torch._inductor.exc'
    net = UnshuffleUNet(num_feat=[8], num_block=1)
    x_t, t = torch.zeros(1, 3, 4, 4), torch.zeros(1)

    def failing_with(error):
        def call(x_t, t):
            raise error

        monkeypatch.setattr(torch, 'compile', lambda module, **_: call)
        DenoiserRuntime(use_compile=True)(net, x_t, t)

    with pytest.raises(
        ValueError, match=r'network_e:compile is true.*\(No g\+\+\).*compile: false'
    ):
        failing_with(CompilerError('No g++\n\nSet TORCHDYNAMO_VERBOSE=1'))
    with pytest.raises(RuntimeError, match='out of memory'):
        failing_with(RuntimeError('out of memory'))


def test_the_network_alone_is_left_as_it_was():
    """A channels_last runtime reads the same values from the weights it rearranges."""
    net = filled(ADMUNet(**{k: v for k, v in ADM.items() if k != 'type'}))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert DenoiserRuntime().arrange(net) is net
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
