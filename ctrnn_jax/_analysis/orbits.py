"""For `_command/train.py` alone, until it imports from `frequencies`."""

from .frequencies import natural_frequencies as natural_frequencies
