"""The scoring halves that come with CLArena: of classes, of a class for every token, and of language models."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clarena.record import likelihoods, metrics
from clarena.record.metrics import Floats
from clarena.record.predictions import Arrays, Predictions
from clarena.record.scoring import Groups, Scope, Scoring


class Classes(Scoring):
    """One class of several: the share of samples whose class was predicted."""

    name, score, unit = "classes", "accuracy", "samples"
    answers: ClassVar[Mapping[str, type]] = {"predicted": int}
    truth: ClassVar[Mapping[str, type]] = {"labels": int}

    def measure(self, answers: Arrays, truth: Arrays, scope: Scope) -> float:
        return float(np.mean(answers["predicted"] == truth["labels"]))

    def check(self, predictions: Predictions, names: Sequence[str] = ()) -> None:
        super().check(predictions, names)
        if names and max(predictions.labels.max(initial=0), predictions.predicted.max(initial=0)) >= len(names):
            raise ValueError(f"a prediction or a label is none of the {len(names)} classes.")

    def score_matrix(self, predictions: Predictions, names: Sequence[str] = (), groups: Groups | None = None) -> Floats:
        self.check(predictions, names)  # all cells at once, which a board of many runs notices
        owner, count = predictions.experience, predictions.experiences
        return metrics.accuracy_matrix(predictions.predicted, predictions.labels, owner, count)

    def uninformed(self, train: Arrays, test: Arrays) -> Arrays:
        commonest = np.bincount(train["labels"]).argmax()  # the first of those that are as common
        return {"predicted": np.full(len(test["labels"]), commonest)}

    def report(self, predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
        return class_fields(predictions.labels, predictions.predicted[-1], names)


class Tokens(Classes):
    """A class for every token that has a label: the share of tokens whose class was predicted."""

    name, unit = "tokens", "tokens"


class Text(Tokens):
    """The next token of a text: the share that was predicted, and beside it the bits that a byte of text takes."""

    name = "text"
    answers: ClassVar[Mapping[str, type]] = {"predicted": int, "log_probability": float}
    truth: ClassVar[Mapping[str, type]] = {"labels": int, "text_bytes": int}
    further_metrics = {"bits_per_byte": likelihoods.LANGUAGE_METRICS}

    def further(self, predictions: Predictions, names: Sequence[str], groups: Groups | None) -> dict[str, Floats]:
        told = predictions.answers["log_probability"], predictions.truth["text_bytes"], predictions.experience
        return {"bits_per_byte": likelihoods.bits_per_byte(*told, predictions.experiences)}


def class_fields(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Report by class and confusion matrix of the last row; nothing where it is not whole, or has too many classes."""
    if not 0 < len(names) <= metrics.MOST_REPORTED or not (predicted >= 0).all():
        return {}
    return {
        "class_report": metrics.class_report(labels, predicted, names),
        "confusion_matrix": metrics.confusion_matrix(labels, predicted, len(names)).tolist(),
    }


BUILT_IN: Mapping[str, Scoring] = MappingProxyType({each.name: each for each in (Classes(), Tokens(), Text())})

ANSWERED_BY_CLASSES = frozenset(BUILT_IN)
"""Targets whose answers are classes: all that come with CLArena."""
