"""Everything in a process that belongs to its owner and not to a library: photographed, compared.

As a script it prints what importing and using the package changes in a process of its own.
"""

from __future__ import annotations

import locale
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageFile

# Their modules make loggers when imported; the last comes in behind numba.
NOISY = ('torch', 'PIL', 'setuptools', 'packaging', 'numba', 'charset_normalizer')


def photograph() -> dict[str, object]:
    """Name -> a value that compares."""
    loggers = {'root': logging.getLogger()} | logging.root.manager.loggerDict
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "Python's generator": random.getstate(),
        "NumPy's generator": repr(np.random.get_state()),
        "PyTorch's generator": torch.get_rng_state().tolist(),
        'default dtype': torch.get_default_dtype(),
        'default device': torch.get_default_device(),
        'threads': (torch.get_num_threads(), torch.get_num_interop_threads()),
        'gradients': (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        'autocast': (torch.is_autocast_enabled('cpu'), torch.is_autocast_enabled('cuda')),
        'deterministic': torch.are_deterministic_algorithms_enabled(),
        'cudnn': (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        'precision': (matmul.allow_tf32, torch.get_float32_matmul_precision()),
        'matplotlib': {k: repr(v) for k, v in dict.items(matplotlib.rcParams)},
        'loggers': {
            name: (logger.level, list(logger.handlers), logger.propagate, logger.disabled)
            for name, logger in loggers.items()
            if isinstance(logger, logging.Logger) and not name.startswith(NOISY)
        },
        'logging': (logging.root.manager.disable, logging.getLoggerClass()),
        'warnings': (list(warnings.filters), warnings.showwarning),
        'Pillow': (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        'OpenCV': (cv2.getNumThreads(), cv2.useOptimized(), cv2.ocl.useOpenCL()),
        'NumPy': (np.geterr(), np.get_printoptions()),
        'environment': dict(os.environ),
        'folder': os.getcwd(),
        'signals': {number: signal.getsignal(number) for number in signal.valid_signals()},
        'hooks': (sys.excepthook, sys.displayhook, sys.stdout, sys.stderr),
        'recursion': sys.getrecursionlimit(),
        'arguments': list(sys.argv),
        'threads alive': threading.active_count(),
        'locale': locale.setlocale(locale.LC_ALL),
        'start method': multiprocessing.get_start_method(allow_none=True),
    }


def changes(before: dict[str, object], after: dict[str, object]) -> dict[str, tuple]:
    """What differs; of dictionaries, as the loggers, the entries that do (a new, bare logger is
    no difference)."""
    found = {}
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            keys = {key for key in {*old, *new} if old.get(key) != new.get(key)}
            pairs = {key: (old.get(key), new.get(key)) for key in keys}
            bare = (None, (logging.NOTSET, [], True, False))
            pairs = {key: pair for key, pair in pairs.items() if pair != bare}
            if pairs:
                found[name] = pairs
        elif old != new:
            found[name] = (old, new) if 'generator' not in name else ('moved',)
    return found


def main() -> None:
    """Print the changes by importing, building and calling, one line each."""
    before = photograph()
    import defsr

    imported = photograph()
    upscaler = defsr.Upscaler(device='cpu')
    built = photograph()
    lq, ref = np.zeros((16, 16, 3)), np.zeros((24, 24, 3))
    upscaler(lq, [ref], max_ref_megapixels=1e-4)
    called = photograph()
    defsr.upscale(lq, ref, device='cpu', tile=None)
    states = (before, imported, built, called, photograph())
    for old, new in zip(states, states[1:], strict=False):
        sys.stdout.write(f'{changes(old, new)}\n')


if __name__ == '__main__':
    main()
