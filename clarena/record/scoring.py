"""Scoring: the half of a target that records, board, MLflow and `verify` need, in numpy and without torch.

What is asked of an input is a class, a class for every token, a number, …: the target. Its other half, in torch, is
what models are trained by. This half says what is kept of an answer, what the answers of a run are worth, and how that
is called; every number of a record follows from it and from the run's `Predictions`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clarena.record import curves, metrics
from clarena.record.catalogue import ACCURACY, named, named_metrics
from clarena.record.metrics import Floats, Metric
from clarena.record.pooled import POOLED_METRICS
from clarena.record.predictions import Arrays, Predictions

Groups = Sequence[Sequence[int]]
"""For each experience the outputs that are its own, where cells of the matrix are by output."""


@dataclass(frozen=True)
class Scope:
    """What a score is taken over, beside the samples.

    Attributes:
        names: of all outputs, in the order of the stream.
        outputs: those that count here; all of them, unless cells are by output.
        truth: of the whole test set, [N, …], for what must be the same in all cells, such as a variance.
    """

    names: Sequence[str]
    outputs: Sequence[int]
    truth: Arrays


class Scoring(ABC):
    """What the answers of a run are worth.

    Attributes:
        name: of the target.
        score: what a cell of its matrix is called in tables: `accuracy`, `entity F1`. Accuracies keep the names that
            metrics have by themselves; all others are named after the score, `final_average_score` and so on.
        unit: what is counted or measured: `samples`, `tokens`, `entities`.
        answers: the arrays kept of the answers, by name: int or float, each [T + 1, N, …]. Whole numbers are 0 or more,
            and -1 where nothing was asked; fractions are NaN there.
        truth: the arrays kept of the truth, likewise, each [N, …].
        by_output: whether, in the class scenario, every cell is taken over all samples and the outputs of its
            experience alone, rather than over the samples of its experience.
        further_metrics: of `further`: for each further matrix its metrics, by name.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    unit: ClassVar[str]
    answers: ClassVar[Mapping[str, type]]
    truth: ClassVar[Mapping[str, type]]
    by_output: ClassVar[bool] = False
    further_metrics: ClassVar[Mapping[str, Mapping[str, Metric]]] = {}

    # ---- What a target says of itself ----

    @abstractmethod
    def measure(self, answers: Arrays, truth: Arrays, scope: Scope) -> float:
        """The score of a cell, a fraction in [0, 1] of which more is better; NaN where it is undefined.

        Args:
            answers: by name, [n, …], n at least 1: of one row, to the samples of the cell, all of which were asked.
            truth: by name, [n, …].
            scope: what it is taken over.
        """

    def uninformed(self, train: Arrays, test: Arrays) -> Arrays | None:
        """The best answers of one who knows the training labels and looks at no input; None: nothing is said of chance.

        Args:
            train: the truth of all training samples, by name, [M, …].
            test: the truth of the samples that are asked, [N, …], for its shape and for what a constant gets there.

        Returns:
            By name, [N, …], as `answers` has them.
        """
        return None

    def further(self, predictions: Predictions, names: Sequence[str], groups: Groups | None) -> dict[str, Floats]:
        """Other matrices, [T + 1, T], that are shown beside the score: those of `further_metrics`."""
        return {}

    def report(self, predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
        """Other fields of a record that follow from the answers at the end."""
        return {}

    # ---- What follows ----

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """All metrics that a record of this target may hold, by name, in the order tables show them."""
        further = {name: metric for group in self.further_metrics.values() for name, metric in group.items()}
        return {**named_metrics(self.score), **further}

    def check(self, predictions: Predictions, names: Sequence[str] = ()) -> None:
        """Raise ValueError for other arrays than this target keeps, or for ones that fit neither each other nor names.

        Args:
            names: of the outputs; none where they are not known.
        """
        rows, samples = predictions.experiences + 1, predictions.experience.shape
        for kind, lead in (("answers", (rows, *samples)), ("truth", samples)):
            declared, found = getattr(self, kind), getattr(predictions, kind)
            if declared.keys() != found.keys():
                raise ValueError(f"the {kind} of {self.name} are {_listed(declared)}, not {_listed(found)}.")
            for name, array in found.items():
                if (array.dtype.kind == "f") != (declared[name] is float):
                    raise ValueError(f"{name} holds no {'fractions' if declared[name] is float else 'whole numbers'}.")
                if len(samples) != 1 or array.shape[: len(lead)] != lead:
                    raise ValueError(f"{name} has shape {list(array.shape)}, which does not begin with {list(lead)}.")
        owner = predictions.experience
        if rows < 2 or np.any(owner < 0) or np.any(owner >= rows - 1):
            raise ValueError(f"Each test sample must belong to an experience in 0..{rows - 2}.")

    def score_matrix(self, predictions: Predictions, names: Sequence[str] = (), groups: Groups | None = None) -> Floats:
        """The matrix of scores [T + 1, T], with rows, columns and NaN as in `clarena.record.metrics`.

        R[i, j] is the score on the test samples of experience j; or, where cells are by output, on all test samples of
        the outputs of experience j alone, from the row on in which it is learned.

        Args:
            predictions: of the run.
            names: of its outputs.
            groups: the outputs of each experience, where cells are by output; None where they are by sample.

        Raises:
            ValueError: for predictions that are not this target's, or a cell of which only some samples were asked.
        """
        self.check(predictions, names)
        told = predictions.truth, predictions.experience, predictions.experiences, names, groups
        rows = range(predictions.experiences + 1)
        return np.array([self.row(_row(predictions, i), *told, after=i) for i in rows]).reshape(len(rows), -1)

    def pooled(self, predictions: Predictions, names: Sequence[str] = (), groups: Groups | None = None) -> Floats:
        """The pooled scores [T]: see `clarena.record.pooled`. Arguments and errors are those of `score_matrix`."""
        self.check(predictions, names)
        told = predictions.truth, predictions.experience, names, groups
        rows = range(1, predictions.experiences + 1)
        return np.array([self._cell(_row(predictions, i), *told, range(i), i) for i in rows])

    def row(
        self,
        answers: Arrays,
        truth: Arrays,
        experience: NDArray[np.int64],
        experiences: int,
        names: Sequence[str] = (),
        groups: Groups | None = None,
        *,
        after: int,
    ) -> list[float]:
        """The score on each experience, [T], of answers given while, or just after, experience `after` was learned.

        Args:
            answers: by name, [N, …].
            truth, experience: of the samples, as `Predictions` has them.
            experiences: T.
            names, groups: as `score_matrix` takes them.
            after: counted from 1; 0 is before any learning.
        """
        return [self._cell(answers, truth, experience, names, groups, [j], after) for j in range(experiences)]

    def chance(
        self,
        train: Sequence[Arrays],
        predictions: Predictions,
        names: Sequence[str] = (),
        groups: Groups | None = None,
        *,
        told: bool,
    ) -> list[float]:
        """What `uninformed` answers score on each experience at the end of the stream, [T]; empty where there are none.

        Args:
            train: the truth of the training samples of each experience.
            predictions: of the run, whose test samples are asked.
            told: whether the experience is known when a sample is tested, as in the task scenario: then there is an
                answer for each, from its own training labels; else there is one for all.
        """
        truth, owner, count = predictions.truth, predictions.experience, predictions.experiences
        if told:
            parts = [(train[j], np.flatnonzero(owner == j)) for j in range(count)]
        else:
            together = {name: np.concatenate([each[name] for each in train]) for name in self.truth}
            parts = [(together, np.arange(owner.size))]
        answers: dict[str, NDArray[Any]] = {}
        for known, samples in parts:
            given = self.uninformed(known, {name: array[samples] for name, array in truth.items()})
            if given is None:
                return []
            for name, array in given.items():
                shape = (owner.size, *array.shape[1:])
                answers.setdefault(name, np.zeros(shape, array.dtype))[samples] = array
        return self.row(answers, truth, owner, count, names, groups, after=count)

    def values(
        self,
        predictions: Predictions,
        names: Sequence[str] = (),
        groups: Groups | None = None,
        curve: tuple[Sequence[int], Sequence[Sequence[float]]] | None = None,
    ) -> tuple[dict[str, Floats], dict[str, float]]:
        """All matrices of a run by name, the scores as `score`, and all its metrics by name."""
        scores = self.score_matrix(predictions, names, groups)
        further = self.further(predictions, names, groups)
        values = summarise(scores, self.score, curve, self.pooled(predictions, names, groups))
        for name, matrix in further.items():
            values |= metrics.summarise(matrix, self.further_metrics[name])
        return {"score": scores, **further}, values

    def _cell(
        self,
        answers: Arrays,
        truth: Arrays,
        experience: NDArray[np.int64],
        names: Sequence[str],
        groups: Groups | None,
        experiences: Sequence[int],
        after: int,
    ) -> float:
        """The score of a row over these experiences together."""
        if groups is None:
            samples = np.flatnonzero(np.isin(experience, np.asarray(experiences)))
            outputs: Sequence[int] = range(len(names))
        elif max(experiences) >= after:
            return float("nan")  # its outputs do not exist yet
        else:
            samples = np.arange(experience.size)
            outputs = [output for j in experiences for output in groups[j]]
        if not samples.size:
            return float("nan")
        unasked = _unasked(answers[next(iter(self.answers))][samples])
        if unasked.any():
            if len(experiences) == 1 and not unasked.all():
                raise ValueError(
                    f"After experience {after}, only some test samples of experience {experiences[0] + 1} were "
                    f"asked: {unasked.sum()} of {samples.size} were not. A cell is asked as a whole or not at all."
                )
            return float("nan")
        given = {name: array[samples] for name, array in answers.items()}
        true = {name: array[samples] for name, array in truth.items()}
        return float(self.measure(given, true, Scope(names, outputs, truth)))


def _row(predictions: Predictions, i: int) -> Arrays:
    """The answers after experience i, by name, [N, …]."""
    return {name: array[i] for name, array in predictions.answers.items()}


def summarise(
    scores: Floats,
    score: str = ACCURACY,
    curve: tuple[Sequence[int], Sequence[Sequence[float]]] | None = None,
    pooled: Floats | None = None,
) -> dict[str, float]:
    """The metrics of a matrix of scores and, where there are any, of pooled scores and of a curve; named by the score.

    Raises:
        ValueError: for what no run can have measured, or a curve that does not fit the matrix.
    """
    values = metrics.summarise(scores)
    if pooled is not None:
        values |= {name: metric.function(pooled) for name, metric in POOLED_METRICS.items()}
    if curve is not None and curve[0]:
        values |= curves.summarise(scores, *curve)
    return {named(name, score): value for name, value in values.items()}


# ---- Looking one up ----

_OFFERED: dict[str, Callable[[], type[Scoring]]] = {}
_SEARCHES: list[Callable[[], object]] = []


def offer(name: str, load: Callable[[], type[Scoring]]) -> None:
    """Make the scoring half of a target known by name; `load` is called when it is first asked for."""
    _OFFERED[name] = load
    scoring.cache_clear()


def search_with(find: Callable[[], object]) -> None:
    """What to call, once, when a name is asked for that nobody has offered yet: it looks for plugins, which do."""
    _SEARCHES.append(find)
    scoring.cache_clear()


@cache
def scoring(name: str) -> Scoring | None:
    """The scoring half of a target; None where it is not installed, or cannot be loaded."""
    from clarena.record.scorings import BUILT_IN

    if name in BUILT_IN:
        return BUILT_IN[name]
    try:
        while name not in _OFFERED and _SEARCHES:
            _SEARCHES.pop()()
        return _OFFERED[name]()() if name in _OFFERED else None
    except Exception:  # a plugin may fail in any way; its rows are then shown as those of a target that is not here
        return None


def metrics_of(target: str, score: str) -> Mapping[str, Metric]:
    """All metrics of a target by name; of one that is not installed, those that every matrix of its score has."""
    found = scoring(target)
    return named_metrics(score) if found is None else found.metrics


def further_of(target: str) -> dict[str, Sequence[Metric]]:
    """The metrics of each further matrix of a target, by the matrix, the first of which stands for it in tables."""
    found = scoring(target)
    groups = {} if found is None else found.further_metrics
    return {name: tuple(group.values()) for name, group in groups.items() if group}


def _unasked(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Of answers [n, …] those that are -1 or NaN all over, [n]."""
    nothing = np.isnan(array) if array.dtype.kind == "f" else array == -1
    return np.asarray(nothing.reshape(len(array), -1).all(axis=1))


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
