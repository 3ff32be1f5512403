"""Which metrics there are of a score, and what they are called."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType

from clarena.record.curves import CURVE_METRICS
from clarena.record.metrics import METRICS, Metric
from clarena.record.pooled import POOLED_METRICS

ACCURACY = "accuracy"
"""The score whose metrics keep the names they have by themselves."""

ACCURACY_METRICS: Mapping[str, Metric] = MappingProxyType({**METRICS, **POOLED_METRICS, **CURVE_METRICS})
"""The metrics of accuracies by name, in the order tables show them."""


def named(metric: str, score: str) -> str:
    """What a metric of accuracies is called where its matrix holds another score: `final_average_score`."""
    return metric if score == ACCURACY else metric.replace("accuracy", "score")


def unnamed(values: Mapping[str, float], score: str) -> dict[str, float]:
    """Metrics of a score under the names that they have for accuracies; what is no such metric keeps its own."""
    plain = {named(name, score): name for name in ACCURACY_METRICS}
    return {plain.get(name, name): value for name, value in values.items()}


def titled(title: str, score: str) -> str:
    """A title in which the score stands in the place of the accuracy: `Final average entity F1`."""
    return title.replace("Accuracy", score[:1].upper() + score[1:]).replace("accuracy", score)


@cache
def named_metrics(score: str) -> Mapping[str, Metric]:
    """The metrics of a score by name, in the order tables show them: the same functions under names of their own."""
    return MappingProxyType(
        {
            named(name, score): replace(metric, name=named(name, score), title=titled(metric.title, score))
            for name, metric in ACCURACY_METRICS.items()
        }
    )
