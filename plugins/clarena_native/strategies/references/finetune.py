"""Finetune: train on each experience in turn and do nothing against forgetting.

The lower bound of every table, and what every other strategy must equal, bit for bit, when its mechanism is off.
"""

from clarena import GradientStrategy


class Finetune(GradientStrategy):
    """Trains on each experience in turn, with no protection against forgetting."""

    name = "finetune"
    reference = "The training loop as it stands; the lower bound."
    family = "reference"
    off = {}
