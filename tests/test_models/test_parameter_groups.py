"""Learning rates by the names of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from defsr.models.parameter_groups import parameter_groups


@pytest.fixture
def net() -> nn.Module:
    layers = {'lte': nn.Conv2d(3, 4, 1), 'head': nn.Conv2d(4, 4, 1), 'lte_slow': nn.Conv2d(4, 3, 1)}
    found = nn.ModuleDict(layers)
    found['head'].bias.requires_grad_(False)
    return found


def test_without_rates_it_is_a_plain_list(net):
    found = parameter_groups(net, None, 'groups')
    assert [id(p) for p in found] == [id(p) for p in net.parameters() if p.requires_grad]


def test_the_longest_name_counts(net):
    rest, lte, slow = parameter_groups(net, {'lte': 1e-4, 'lte_slow': 1e-5}, 'groups')
    assert rest == {'params': [net['head'].weight]}
    assert lte == {'params': [*net['lte'].parameters()], 'lr': 1e-4}
    assert slow == {'params': [*net['lte_slow'].parameters()], 'lr': 1e-5}
    optimizer = torch.optim.Adam([rest, lte, slow], lr=1e-3)
    assert [group['lr'] for group in optimizer.param_groups] == [1e-3, 1e-4, 1e-5]


@pytest.mark.parametrize(
    ('rates', 'message'),
    [
        ({'ltee': 1e-4}, 'optim_g:groups:ltee fits no parameter of ModuleDict.*head.*lte'),
        ({'lte': 0}, 'optim_g:groups:lte is 0, but must be above 0'),
        ([1e-4], 'optim_g:groups is .*must be a block'),
    ],
)
def test_mistakes(net, rates, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(net, rates, 'train:optim_g:groups')
