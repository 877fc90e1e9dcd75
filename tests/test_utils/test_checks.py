"""The messages are behaviour: what was given, what was expected, what to change."""

from __future__ import annotations

import pytest
import torch

from defsr.utils import checks


def test_unknown_key_names_the_nearest_one():
    with pytest.raises(ValueError, match='`train:rec_only_epoch`. Did you mean `rec_only_epochs`'):
        checks.check_keys('train', {'rec_only_epoch': 1}, ['rec_only_epochs', 'ema_decay'])
    checks.check_keys('train', {'ema_decay': 1}, ['rec_only_epochs', 'ema_decay'])


def test_choice():
    assert checks.check_choice('skip', 'de', ('none', 'de')) == 'de'
    with pytest.raises(ValueError, match="skip is 'non', .* Did you mean `none`"):
        checks.check_choice('skip', 'non', ('none', 'de'))


@pytest.mark.parametrize('value', ['4', None, True])
def test_numbers_are_numbers(value):
    with pytest.raises(ValueError, match='must be a number'):
        checks.check_at_least('scale', value, 1)


def test_ranges():
    assert checks.check_at_least('scale', 4, 2) == 4
    assert checks.check_between('eta', 0.5, 0, 1) == 0.5
    with pytest.raises(ValueError, match='scale is 1, but must be at least 2'):
        checks.check_at_least('scale', 1, 2)
    with pytest.raises(ValueError, match='eta is 2, but must be at most 1'):
        checks.check_between('eta', 2, 0, 1)


def test_divisible():
    x = torch.zeros(1, 3, 8, 12)
    assert checks.check_divisible('gt', x, 4) is x
    with pytest.raises(ValueError, match='gt is 10x12 .*multiples of scale=4. Crop it to 8x12'):
        checks.check_divisible('gt', torch.zeros(1, 3, 10, 12), 4)


@pytest.mark.parametrize(
    'x',
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)],
)
def test_images(x):
    with pytest.raises(ValueError, match=r'lq is .* must be floating point \(N, 3, H, W\)'):
        checks.check_image('lq', x)


def test_above():
    assert checks.check_above('x', 0.1, 0) == 0.1
    for bad in (0, -1, float('nan'), True, '1', None):
        with pytest.raises(ValueError, match='^x is '):
            checks.check_above('x', bad, 0)


def test_whole_numbers():
    assert checks.check_int('x', 3, 0) == 3
    written_as_float = checks.check_int('x', 5e3, 1, or_float=True)
    assert isinstance(written_as_float, int) and written_as_float == 5000
    for bad in (2.6, float('nan'), float('inf'), True, '1', None, [1]):
        for or_float in (False, True):
            with pytest.raises(ValueError, match='^x is .*, but must be a whole number; or auto'):
                checks.check_int('x', bad, 0, '; or auto', or_float=or_float)
    with pytest.raises(ValueError, match='x is 3.0, but must be a whole number'):
        checks.check_int('x', 3.0, 0)
    with pytest.raises(ValueError, match='at least 4'):
        checks.check_int('x', 3, 4)


def test_lists():
    assert checks.check_list('x', (1, 2)) == (1, 2)
    with pytest.raises(ValueError, match="^x is 'ab', but must be a list of methods.$"):
        checks.check_list('x', 'ab', ' of methods')


def test_block():
    assert checks.check_block('x', {'a': 1}) == {'a': 1}
    for bad in (None, 3, 'a', ['a']):
        with pytest.raises(ValueError, match='^x is .*, but must be a block'):
            checks.check_block('x', bad)


def test_a_choice_need_not_be_hashable():
    with pytest.raises(ValueError, match=r"x is \['a'\], but must be one of \['a', 'b'\]"):
        checks.check_choice('x', ['a'], {'a': 1, 'b': 2})
