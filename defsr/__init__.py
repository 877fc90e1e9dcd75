"""DEF, the Detail-Enhancing Framework for reference-based super-resolution, as a BasicSR plugin.

Importing the package is cheap and makes BasicSR importable with today's torchvision; its archs,
data sets, losses and models are found by BasicSR's registries from then on.
"""

from defsr import imports

imports.install()

__all__ = ['upscale']

__version__ = '0.3.0'


def __getattr__(name: str) -> object:
    if name == 'upscale':
        from defsr.upscaling import upscale  # PyTorch, and all that a network needs: seconds

        return upscale
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
