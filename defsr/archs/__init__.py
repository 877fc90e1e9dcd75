"""Networks: each ``*_arch.py`` registers its own with BasicSR."""
