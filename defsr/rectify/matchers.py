"""The matchers by name."""

from __future__ import annotations

from collections.abc import Callable

from defsr.rectify.aliked_lightglue import ALIKEDLightGlue, is_installed
from defsr.rectify.matches import Matcher
from defsr.rectify.sift import SIFT

MATCHERS = dict[str, Callable[[], Matcher]](sift=SIFT, aliked_lightglue=ALIKEDLightGlue)
AUTO = 'auto'  # the better one that is installed


def matcher_name(given: str) -> str:
    """A name in ``MATCHERS`` for that or ``auto``."""
    if given != AUTO:
        return given
    return 'aliked_lightglue' if is_installed() else 'sift'
