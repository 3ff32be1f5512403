"""Cumulative: at each experience, go on training on all the data seen so far.

A bound for each moment of the stream. In experience i it spends the protocol's passes over the union of the first
i experiences, so its cost grows with the stream; the model is not started over.
"""

from clarena import GradientStrategy


class Cumulative(GradientStrategy):
    """Trains at each experience on all the data seen so far; a bound over time."""

    name = "cumulative"
    reference = "Training on the union of the experiences so far; an upper bound over time."
    family = "reference"
    needs = frozenset({"past_data"})
    carries = "the model and all data seen so far (the data is not counted in its state)"
