"""Data sets, each ``*_dataset.py`` registers its own with BasicSR, and what they are made of."""
