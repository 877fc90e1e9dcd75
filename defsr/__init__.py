"""DEF, the Detail-Enhancing Framework for reference-based super-resolution, as a BasicSR plugin.

Importing the package is cheap and makes BasicSR importable with today's torchvision; its archs,
data sets, losses and models are found by BasicSR's registries from then on.
"""

from typing import TYPE_CHECKING

from defsr import imports

imports.install()

__all__ = ['Upscaler', 'upscale']

__version__ = '0.5.0'


if TYPE_CHECKING:
    from defsr.upscaling import Upscaler, upscale
else:

    def __getattr__(name: str) -> object:
        if name in __all__:
            from defsr import upscaling  # PyTorch, and all that a network needs: seconds

            return getattr(upscaling, name)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
