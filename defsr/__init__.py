"""DEF, the Detail-Enhancing Framework for reference-based super-resolution, as a BasicSR plugin.

Importing the package registers its archs, data sets, losses and models with BasicSR.
"""

from defsr import compat

compat.apply()  # before the first import of BasicSR

from defsr import archs, data, losses, models  # noqa: E402, F401
from defsr.upscaling import upscale  # noqa: E402

__all__ = ['upscale']

__version__ = '0.2.0'
