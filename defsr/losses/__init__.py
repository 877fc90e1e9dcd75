"""Imports every ``*_loss.py`` here, so that what they define registers with BasicSR."""

from defsr.utils.registration import import_modules

import_modules(__name__, suffix='_loss')
