"""Which packages are there that make some operations faster, without loading them."""

import importlib.util

HAS_NUMBA = importlib.util.find_spec('numba') is not None
HAS_TRITON = importlib.util.find_spec('triton') is not None  # PyTorch brings it on Linux
