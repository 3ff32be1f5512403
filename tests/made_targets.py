"""Targets that are not built in, as plugins would offer them, with made-up runs; nothing is trained."""

from contextlib import contextmanager
from typing import Any

import numpy as np
from records_with_predictions import made_record

from clarena.record import scoring as lookup
from clarena.record.metrics import Metric
from clarena.record.predictions import Predictions
from clarena.record.recomputation import facts
from clarena.record.record import Record
from clarena.record.scoring import Scoring, offer


def final_error(matrix):
    """Mean error over all experiences at the end."""
    return float(np.asarray(matrix)[-1].mean())


class Numbers(Scoring):
    """Two numbers a sample: the mean over them of 1 / (1 + mean squared error / variance of the whole test set)."""

    name, score, unit = "made-up numbers", "fit", "degrees"
    answers = {"value": float}
    truth = {"value": float, "site": int}

    def measure(self, answers, truth, scope):
        variance = scope.truth["value"].astype(float).var(axis=0)
        error = ((answers["value"].astype(float) - truth["value"]) ** 2).mean(axis=0)
        return float((1 / (1 + error / variance)).mean())

    further_metrics = {
        "error": {"final_error": Metric("final_error", "Final error in degrees", "number", False, final_error)}
    }

    def further(self, predictions, names, groups):
        """The root of the mean squared error of each cell."""
        value, owner = predictions.truth["value"], predictions.experience
        errors = ((predictions.answers["value"] - value) ** 2).mean(axis=2, dtype=float)
        return {"error": np.sqrt(np.stack([errors[:, owner == j].mean(axis=1) for j in range(3)], axis=1))}

    def uninformed(self, train, test):
        mean = train["value"].mean(axis=0, dtype=float).astype(np.float32)
        return {"value": np.broadcast_to(mean, test["value"].shape)}


class Tags(Scoring):
    """Several labels a sample: hits among all that are given or true, over the labels that count in a cell."""

    name, score, unit, by_output = "made-up tags", "tag F1", "tags", True
    answers = {"given": int}
    truth = {"true": int}

    def measure(self, answers, truth, scope):
        given, true = (each[:, list(scope.outputs)] for each in (answers["given"], truth["true"]))
        whole = given.sum() + true.sum()
        return 2 * (given & true).sum() / whole if whole else float("nan")


@contextmanager
def installed(*kinds: type[Scoring]):
    """Have these targets known by their names meanwhile."""
    for kind in kinds:
        offer(kind.name, lambda kind=kind: kind)
    try:
        yield
    finally:
        for kind in kinds:
            del lookup._OFFERED[kind.name]
        lookup.scoring.cache_clear()


def numbers(seed: int = 0, samples: int = 30) -> Predictions:
    """Three experiences, known better the later they were learned."""
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(samples, 2))
    owner = np.arange(samples) % 3
    noise = rng.normal(size=(4, samples, 2)) * np.array([2.0, 1.0, 0.7, 0.3])[:, None, None]
    return Predictions({"value": value + noise}, {"value": value, "site": rng.integers(0, 300, samples)}, owner)


def made_numbers(seed: int = 0, name: str = "ewc", **fields: Any) -> tuple[Record, Predictions]:
    """A finished run of that target."""
    predictions = numbers(seed)
    target = Numbers()
    told = facts(target, predictions, ["sine", "cosine"])
    told["chance"] = target.chance([predictions.truth] * 3, predictions, told=False)
    outputs: dict[str, Any] = {"output_names": ["sine", "cosine"], "accuracy_matrix": []}
    record, _ = made_record(seed, name, **outputs | {"class_report": {}, "confusion_matrix": []} | told | fields)
    return record, predictions
