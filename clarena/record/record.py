"""A record: everything that one run (one cell) produced. It is the truth; all else is derived from it."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from clarena.protocol.frozen import FrozenModel
from clarena.protocol.protocol import Track, digest
from clarena.record.catalogue import ACCURACY, named

SCHEMA_VERSION = 2
"""1: answers are classes, or tokens of a text where there are bits per byte. 2: the record names its target, the score,
its unit and what chance is."""

Status = Literal["finished", "diverged", "out_of_memory", "failed", "timed_out", "interrupted"]
RETRIED: frozenset[Status] = frozenset({"failed", "timed_out", "interrupted", "out_of_memory"})
"""What `--retry` runs again. `diverged` is a result."""

MEASURED_SINCE = {"train_seconds": 2, "predict_seconds": 2, "peak_memory_bytes": 2, "state_bytes": 3}
"""The revision of metering since which a cost is measured as it is now; 1 for all others."""

FIRST_TUNING_SEED = 2**32
"""Seeds from here on are for tuning runs and for nothing else; all others are below."""

Number = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(lambda value: float("nan") if value is None else value),
    PlainSerializer(lambda value: value if np.isfinite(value) else None, when_used="json"),
]
"""A float whose undefined value is NaN here and `null` in JSON."""


Words = Annotated[str, Field(pattern=r"^[^\s|;][^\n|;]{0,59}$")]
"""A few words in one line, as a heading holds them."""


class StrategyInfo(FrozenModel):
    """Which strategy ran, and with what.

    Attributes:
        name: (qualified, where needed) name.
        plugin: the plugin that offered it, with the version of its distribution where it has one.
        source_hash: SHA-256 over the bytes of its source and that of its helpers: provenance.
        identity: SHA-256 over what its code does, `clarena.plugins.identity`; empty in records of before there was one.
        hyperparameters: every keyword argument, defaults included.
        learning_rate: of the optimiser, the protocol's unless the row set its own.
        reference: whether it is a bound, shown apart and never ranked.
        summary, paper, family, carries: in words.
        chosen: how the hyper-parameters were chosen: `default`, `by hand`, `paper`, `tuned (50 trials)`.
    """

    name: str
    plugin: str = ""
    source_hash: str
    identity: str = ""
    hyperparameters: dict[str, Any]
    learning_rate: float
    reference: bool = False
    summary: str = ""
    paper: str = ""
    family: str = ""
    carries: str = ""
    chosen: str = ""

    @property
    def code(self) -> str:
        """What stands for its code in a row's identity: `identity` or, where there is none, `source_hash`."""
        return self.identity or self.source_hash


class Cell(FrozenModel):
    """One run to be made: a strategy with its hyper-parameters, on a track, under a seed."""

    track: Track
    strategy: StrategyInfo
    seed: Annotated[int, Field(ge=0)]

    def __repr__(self) -> str:
        return f"Cell({self.label} on {self.track.label})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _seeds_of_tuning_are_apart(self) -> Self:
        if (self.seed >= FIRST_TUNING_SEED) != (self.track.protocol.tested_on == "validation"):
            raise ValueError(f"seeds from {FIRST_TUNING_SEED} on are for tuning runs, which take no other")
        return self

    @property
    def row(self) -> str:
        """Identity of the table's row: everything but the seed."""
        info = self.strategy
        return digest([self.track.digest, info.name, info.hyperparameters, info.learning_rate, info.code])

    @property
    def id(self) -> str:
        """Identity of the cell; environment and hardware take no part in it."""
        return digest([self.row, self.seed])

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.strategy.name} seed {self.seed}"


class ExperienceInfo(FrozenModel):
    """What an experience of the realised stream held.

    Attributes:
        classes: those trained on.
        domain: what the data calls the domain that all of it comes from; empty where there is none.
        class_samples: training samples of each of them, under the labels they were given, where the stream is varied.
        from_others: training samples that another experience of the clean stream had.
        noisy_labels: training samples whose label is wrong on purpose.
    """

    classes: list[str]
    domain: str = ""
    train_samples: int
    test_samples: int
    class_samples: list[int] = []
    from_others: int = 0
    noisy_labels: int = 0


class Cost(FrozenModel):
    """What learning one experience cost.

    Attributes:
        position: 1-based; joint has one entry, at the last position.
        train_seconds: inside `learn`, testing within the experience not counted.
        predict_seconds: inside `predict`, for the row after this experience.
        peak_memory_bytes: of the device's allocator on CUDA, of the process elsewhere, since the run began.
        state_bytes: of everything carried on to the next experience, each storage once.
        parameters: of the strategy, trainable or not.
        passes: over the experience's data; with steps, and samples replayed, scanned and accessed, as the host counted.
        viewed: views that batches gave; none are not written, so that older records stay as they are.
        mean_loss: over the steps.
    """

    position: int
    train_seconds: float
    predict_seconds: float
    peak_memory_bytes: int
    state_bytes: int
    parameters: int
    passes: float
    steps: int
    replayed: int
    scanned: int
    accesses: int
    viewed: int = 0
    mean_loss: Number

    @model_serializer(mode="wrap")
    def _only_what_was_taken(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if not self.viewed:
            del content["viewed"]
        return content


class CurvePoint(FrozenModel):
    """The score on every experience (accuracy, for classes), tested within one: `eval_every`."""

    position: int
    step: int
    accuracy: list[Number]


ABSENT = ("score_matrix", "bits_per_byte", "further", "probes", "sha256")
"""Fields of a record that are not written where there is nothing in them."""


class Record(FrozenModel):
    """Everything one run produced.

    Attributes:
        cell: what was run.
        track_digest, cell_id: their digests, so that a reader need not compute them.
        status: `finished`, or why not; `reason` in one line, `traceback` where there is one.
        output_names: the class behind each output, in the order of the stream.
        experiences: what each of them held.
        target: what was asked of an input: a name that `clarena.record.scoring` knows where it is installed.
        score: what the matrix holds, in words: `accuracy`; `unit` is what it counts: `samples`.
        chance: the score on each experience of one who knows the training labels and looks at no input; empty where
            nothing is known of it.
        accuracy_matrix: [T + 1, T], as lists; row 0 is before any learning; null is undefined.
        score_matrix: the same of another score than accuracy; a record has one of the two.
        bits_per_byte: the same of language models' bits per byte; absent where classes are not tokens of text.
        further: the same of whatever else other targets measure, by name.
        metrics: of `clarena.record.scoring.Scoring.metrics`: those of the matrix; of predictions, those of pooled
            scores; with a curve, those of curves; and those of further matrices.
        costs: one entry for each experience learned.
        curve: accuracy within experiences, where the protocol asks for it.
        probes: what was left of the general ability of a pre-trained backbone, by name: a number before any learning,
            and one after each experience; absent where the backbone has no probe.
        class_report, confusion_matrix: of the last row, per class; absent beyond `metrics.MOST_REPORTED` classes.
        predictions: SHA-256 of the array file beside the record.
        resumed: after which experiences the run was resumed (1-based).
        environment: versions, hardware, device: provenance, not identity.
        command: that ran it.
        metering: revision of how costs were measured; 1 is not written, so that older records stay as they are.
        sha256: of all the rest, as `clarena.record.reader.seal` has it; absent in records of before there was one.
    """

    schema_version: Literal[1, 2] = 2
    cell: Cell
    cell_id: str
    track_digest: str
    status: Status
    reason: str | None = None
    traceback: str | None = None
    output_names: list[str] = []
    experiences: list[ExperienceInfo] = []
    target: Words = "classes"
    score: Words = ACCURACY
    unit: Words = "samples"
    chance: list[Number] = []
    accuracy_matrix: list[list[Number]] = []
    score_matrix: list[list[Number]] = []
    bits_per_byte: list[list[Number]] = []
    further: dict[str, list[list[Number]]] = {}
    metrics: dict[str, Number] = {}
    costs: list[Cost] = []
    curve: list[CurvePoint] = []
    probes: dict[str, list[Number]] = {}
    class_report: dict[str, Any] = {}
    confusion_matrix: list[list[int]] = []
    predictions: str | None = None
    resumed: list[int] = []
    environment: dict[str, str] = {}
    command: str = ""
    metering: Annotated[int, Field(ge=1)] = 1
    started: AwareDatetime
    ended: AwareDatetime
    sha256: str | None = None

    @model_serializer(mode="wrap")
    def _only_what_was_measured(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        absent = [name for name in ABSENT if not getattr(self, name)]
        absent += ["accuracy_matrix"] * bool(self.score_matrix) + ["metering"] * (self.metering == 1)
        absent += ["target", "score", "unit", "chance"] * (self.schema_version == 1)
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in absent}

    @model_validator(mode="before")
    @classmethod
    def _language_models_of_schema_1(cls, content: Any) -> Any:
        """Before targets had names, a text was told by its bits per byte."""
        if isinstance(content, dict) and content.get("schema_version") == 1 and content.get("bits_per_byte"):
            return {**content, "target": "text", "unit": "tokens"}
        return content

    def __repr__(self) -> str:
        return f"Record({self.cell.label} on {self.cell.track.label}: {self.outcome})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from clarena.record.notebook import record_html

        return record_html(self)

    @property
    def outcome(self) -> str:
        """What became of it, in a few words: `finished, 91.3 % accurate in the end`."""
        if self.status != "finished":
            return f"{self.status.replace('_', ' ')}: {self.reason or 'no reason given'}"
        return f"finished, {self.result} in the end"

    @property
    def result(self) -> str:
        """The final average of its score, in words: `91.3 % accurate`, `entity F1 47.0 %`."""
        value = 100 * self.metric("final_average_accuracy")
        if np.isnan(value):  # as of one that goes on, where earlier test data are not at hand
            return "not tested on every experience"
        return f"{value:.1f} % accurate" if self.score == ACCURACY else f"{self.score} {value:.1f} %"

    def metric(self, name: str) -> float:
        """A metric by the name that it has for accuracies, whatever the score is; NaN where the record has it not."""
        return self.metrics.get(named(name, self.score), float("nan"))

    def changed(self, probe: str) -> float:
        """By how much what a probe measures has changed by the end of the stream; NaN where that is not known."""
        values = self.probes.get(probe, [])
        return values[-1] - values[0] if len(values) == len(self.experiences) + 1 else float("nan")

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The matrix of scores as an array [T+1, T], NaN where undefined."""
        return np.array(self.score_matrix or self.accuracy_matrix, dtype=float)

    @property
    def matrices(self) -> dict[str, NDArray[np.float64]]:
        """The further matrices by name, likewise."""
        further = self.further | ({"bits_per_byte": self.bits_per_byte} if self.bits_per_byte else {})
        return {name: np.array(matrix, dtype=float) for name, matrix in further.items()}

    @property
    def tested_within(self) -> tuple[list[int], list[list[float]]]:
        """Of each point of the curve, the experience that was being learned, and the score on each."""
        return [point.position for point in self.curve], [point.accuracy for point in self.curve]

    @property
    def train_seconds(self) -> float:
        """Seconds of training over the whole stream."""
        return sum(cost.train_seconds for cost in self.costs)

    @property
    def predict_seconds(self) -> float:
        """Seconds of prediction over all rows after learning."""
        return sum(cost.predict_seconds for cost in self.costs)

    @property
    def peak_memory_bytes(self) -> int:
        """Peak memory of the run."""
        return max((cost.peak_memory_bytes for cost in self.costs), default=0)

    @property
    def state_bytes(self) -> int:
        """The largest state carried from one experience to the next."""
        return max((cost.state_bytes for cost in self.costs), default=0)

    @property
    def parameters(self) -> int:
        """Parameters at the end."""
        return self.costs[-1].parameters if self.costs else 0

    @property
    def unranked(self) -> str | None:
        """Why this record takes no part in a ranking, or None."""
        if self.status != "finished":
            return self.status
        return self.cell.track.unranked


def counted(cost: str, meterings: Iterable[int]) -> Callable[[int], bool]:
    """Whether a cost of a record of some metering may be averaged with those of the newest among `meterings`."""
    since = MEASURED_SINCE.get(cost, 1)
    least = since if max(meterings, default=1) >= since else 1  # those of before are alike among themselves
    return lambda metering: metering >= least


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)
