"""Joint: one training on the data of the whole stream, shuffled together.

The upper bound of every table. It spends the protocol's number of passes once, over all the data, so that each
sample is seen as often as by the other rows. There is nothing to measure in between: only the rows before learning
and after it exist.
"""

from clarena import GradientStrategy


class Joint(GradientStrategy):
    """Trains once on the data of the whole stream; the upper bound."""

    name = "joint"
    reference = "Multi-task training on the union of all experiences; the upper bound."
    family = "reference"
    needs = frozenset({"all_data"})
