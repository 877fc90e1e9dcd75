"""Training and validation: each ``*_model.py`` registers its own with BasicSR."""
