"""Where the checkout is that these tests belong to."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
