from __future__ import annotations

import torch
from basicsr.losses import build_loss
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from defsr.losses.relativistic import critic_losses, generator_loss


def test_by_hand(rng):
    """ESRGAN's relativistic average, as MASA-SR halves it; gradients reach what they should."""
    cri = build_loss({'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.5})
    net_d = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).requires_grad_(False)
    fake, real = torch.rand(2, 3, 3, 2, 2, generator=rng)
    fake.requires_grad_()
    a, b = net_d(fake), net_d(real)
    want = F.softplus(-(a - b.mean())).mean() / 4 + F.softplus(b - a.mean()).mean() / 4
    found = generator_loss(cri, net_d, fake, real)
    assert_close(found, want)
    assert_close(*(torch.autograd.grad(x, fake, retain_graph=True)[0] for x in (found, want)))
    assert_close(generator_loss(cri, net_d, fake, None), F.softplus(-a).mean() / 2)
    l_real, l_fake = critic_losses(cri, b, a.detach(), relativistic=True)
    assert_close(l_real, F.softplus(-(b - a.mean())).mean().detach() / 2)
    assert_close(l_fake, F.softplus(a - b.mean()).mean().detach() / 2)
    plain = critic_losses(cri, b, a.detach(), relativistic=False)
    assert_close(plain[0], F.softplus(-b).mean())
    assert_close(plain[1], F.softplus(a.detach()).mean())
