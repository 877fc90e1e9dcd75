"""Losses: each ``*_loss.py`` registers its own with BasicSR."""
