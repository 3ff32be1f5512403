"""What is held equal: the protocol, and the track (benchmark × scenario × backbone × protocol) with its digest.

A benchmark's stream is a clean split unless the track varies it: `Variation`.

`docs/protocol.md` states in words what these fields mean for a run.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from clarena.errors import UsageError, unknown_name
from clarena.protocol.features import Precision, frozen
from clarena.protocol.frozen import Continuation, FrozenModel
from clarena.protocol.frozen import NamedPart as NamedPart
from clarena.protocol.presets import FINAL, NAMED
from clarena.protocol.pretraining import UNKNOWN, Pretraining

Scenario = Literal["class", "domain", "task"]
"""van de Ven & Tolias (2019): what is to be inferred at test time."""

SCENARIOS: tuple[Scenario, ...] = ("class", "domain", "task")

AugmentationKind = Literal["crop", "flip", "crop-flip", "contrastive"]
"""Which views of a training image there are: cropped out of its padded self, mirrored, or both; or those of contrastive
learning: enlarged parts, mirrored, in other colours."""

REVISION = 1
"""Raised whenever a change of the host moves results; golden trajectories in the tests force it."""


TOTAL = 200
"""The default of `buffer_size`, at which it stays where exemplars are counted per class."""


Model = TypeVar("Model", bound=FrozenModel)


class Protocol(FrozenModel):
    """Everything that is equal for all rows of a table, and never chosen by a strategy."""

    revision: Annotated[int, Field(description="Revision of the host's procedure.")] = REVISION
    epochs: Annotated[int, Field(ge=1, description="Passes over an experience's data that learning may spend.")] = 10
    batch_size: Annotated[int, Field(ge=1, description="Samples of the stream per step.")] = 32
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"], Field(description="The optimiser that strategies are given.")
    ] = "adam"
    learning_rate: Annotated[
        float, Field(gt=0, description="Its learning rate, unless a strategy's row sets its own.")
    ] = 0.001
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum, for sgd.")] = 0.0
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay.")] = 0.0
    schedule: Annotated[
        Literal["constant", "cosine", "milestones"],
        Field(description="How the learning rate falls over the passes of an experience; stepped once per pass."),
    ] = "constant"
    milestones: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(description="Passes of an experience after which schedule=milestones lowers the rate."),
    ] = ()
    gamma: Annotated[
        float, Field(gt=0, lt=1, description="What the rate is multiplied by at each of the milestones.")
    ] = 0.1
    warmup: Annotated[
        int, Field(ge=0, description="First passes of an experience in which the rate rises linearly to its full size.")
    ] = 0
    clip_norm: Annotated[
        float | None,
        Field(gt=0, description="Greatest norm of a step's gradient, to which a longer one is shortened; none: any."),
    ] = None
    accumulation: Annotated[
        int, Field(ge=1, description="Parts of a batch whose gradients are added up to one step.")
    ] = 1
    optimizer_state: Annotated[
        Literal["kept", "reset"],
        Field(description="Whether the optimiser's state lives on from experience to experience."),
    ] = "reset"
    heads: Annotated[
        Literal["growing", "full"],
        Field(description="Outputs are added as classes appear, or all there from the start."),
    ] = "growing"
    loss_over: Annotated[
        Literal["seen", "current", "all"],
        Field(description="Class scenario: the outputs over which a stream sample's softmax runs."),
    ] = "seen"
    stream_length: Annotated[
        Literal["unknown", "known"],
        Field(description="Whether a strategy is told the number of experiences and outputs in advance."),
    ] = "unknown"
    boundaries: Annotated[
        Literal["known", "hidden"],
        Field(description="Whether a strategy is told where one experience ends and the next begins."),
    ] = "known"
    buffer_size: Annotated[int, Field(ge=0, description="Upper limit on stored exemplars, in total samples.")] = TOTAL
    exemplars_per_class: Annotated[
        int | None,
        Field(ge=1, description="In place of buffer_size: so many stored exemplars for each class seen so far."),
    ] = None
    scans: Annotated[
        int | None,
        Field(ge=0, description="Looks at an experience's data outside training, in passes over it; none: any number."),
    ] = None
    eval_batch_size: Annotated[int, Field(ge=1, description="Test samples per call of predict.")] = 512
    eval_every: Annotated[
        int,
        Field(
            ge=0,
            description="Also test every so many steps within an experience; 0 tests only between experiences.",
        ),
    ] = 0
    augmentation: Annotated[
        AugmentationKind | None,
        Field(description="The views in which a backbone sees its training images; none: as they are."),
    ] = None
    own_views: Annotated[
        bool, Field(description="Whether a strategy may take views by a policy of its own besides the protocol's.")
    ] = False
    views: Annotated[
        int | None,
        Field(ge=0, description="Views that a strategy may take of each sample of a step; none: any number."),
    ] = None
    precision: Annotated[
        Literal["float32", "tf32", "bf16"],
        Field(description="Arithmetic of products; tf32: on CUDA only; bf16: of a model in training, by autocast."),
    ] = "float32"
    limit: Annotated[
        int | None,
        Field(ge=1, description="Use only so many training and test samples of each experience; never ranked."),
    ] = None
    tested_on: Annotated[
        Literal["test", "validation"],
        Field(description="The test data or, in a tuning run, held-out training data of the first experiences."),
    ] = "test"
    validation_fraction: Annotated[
        float, Field(gt=0, lt=1, description="Share of each class's training data that a tuning run holds out.")
    ] = 0.2
    tuning_experiences: Annotated[int, Field(ge=1, description="Experiences at most that a tuning run sees.")] = 3

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """What it prints: the fields that are not at their default."""
        yield from self.model_dump(exclude_defaults=True).items()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads == "full" and self.stream_length == "unknown":
            raise ValueError("full heads reveal the number of outputs: set stream_length=known as well")
        if self.loss_over == "all" and self.heads == "growing":
            raise ValueError("loss_over=all needs outputs that exist from the start: set heads=full as well")
        if self.boundaries == "hidden" and self.optimizer_state == "reset":
            raise ValueError("the optimiser cannot start anew at boundaries that are hidden: set optimizer_state=kept")
        if self.boundaries == "hidden" and self.loss_over == "current":
            raise ValueError("where boundaries are hidden there is no current experience: set loss_over=seen")
        if self.exemplars_per_class is not None and self.buffer_size != TOTAL:
            raise ValueError(
                f"buffer_size={self.buffer_size} counts exemplars in total, exemplars_per_class="
                f"{self.exemplars_per_class} for each class: set one of them"
            )
        return self

    @model_validator(mode="after")
    def _updates_fit_the_budget(self) -> Self:
        told = self.boundaries == "known"
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup={self.warmup} leaves no pass at the full rate: set it below epochs={self.epochs}")
        if (self.schedule == "milestones") != bool(self.milestones):
            raise ValueError("schedule=milestones and milestones go together: set both, or neither")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)} are not in ascending order: name each pass once")
        if self.milestones and not self.warmup < self.milestones[0] <= self.milestones[-1] < self.epochs:
            raise ValueError(
                f"milestones={list(self.milestones)} do not all lie after the warm-up of {self.warmup} and before the "
                f"last of {self.epochs} passes: set each from {self.warmup + 1} to {self.epochs - 1}"
            )
        if self.gamma != Protocol.model_fields["gamma"].default and self.schedule != "milestones":
            raise ValueError("gamma has an effect at milestones only: set schedule=milestones, or leave it out")
        if self.schedule == "cosine" and told and self.epochs - self.warmup < 2:
            raise ValueError("schedule=cosine changes the rate once per pass, and has a single one: set epochs higher")
        if not told and self.stream_length == "unknown" and (self.schedule != "constant" or self.warmup):
            raise ValueError(
                "where boundaries are hidden a schedule runs over the whole stream, whose end is not known: set "
                "stream_length=known as well, or schedule=constant and warmup=0"
            )
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation={self.accumulation} cuts a batch of {self.batch_size} into more parts than samples: set "
                "it to batch_size at most"
            )
        return self


PRESETS: dict[str, Protocol] = {name: Protocol(**preset.protocol) for name, preset in NAMED.items()}
"""What `presets` names."""

HIDDEN = {"boundaries": "hidden", "optimizer_state": "kept"}
"""What hidden boundaries mean for a preset: an optimiser cannot start anew at what nobody is told."""


def protocol(preset: str = "standard", changes: dict[str, Any] | None = None) -> Protocol:
    """A preset, with some of its fields changed.

    `boundaries=hidden` keeps the optimiser's state unless told otherwise; `exemplars_per_class` stands in for the
    preset's `buffer_size`.

    Raises:
        UsageError: for an unknown preset or field, or a value that does not fit.
    """
    if preset not in PRESETS:
        raise unknown_name("protocol", preset, PRESETS)
    fields = set(Protocol.model_fields) - {"revision", "tested_on"}  # these two are the host's
    for field in changes or {}:
        if field not in fields:
            raise unknown_name("protocol field", field, fields)
    given = {key: _read(key, value) for key, value in (changes or {}).items()}
    implied: dict[str, Any] = dict(HIDDEN) if given.get("boundaries") == "hidden" else {}
    if given.get("exemplars_per_class") is not None:
        implied["buffer_size"] = TOTAL
    return _checked(Protocol, PRESETS[preset].model_dump() | implied | given, "protocol")


def _read(field: str, value: Any) -> Any:
    """What text on the command line means: `none`, a list such as `60,80`, or itself."""
    if value in ("none", "null"):
        return () if field == "milestones" else None
    if field == "milestones" and isinstance(value, str):
        return [part.strip() for part in value.strip("()[] ").split(",") if part.strip()]
    return value


class Variation(FrozenModel):
    """How a track's stream departs from the clean split of its benchmark; as it stands, not at all.

    Only training data change, in this order: `clarena.run.variation`.
    """

    imbalance: Annotated[
        float,
        Field(ge=1, description="Long tail: how many times more samples the largest class has than the smallest."),
    ] = 1.0
    repeats: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of an experience's samples that is held back and comes in later ones."),
    ] = 0.0
    blur: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of an experience's samples that is exchanged for those of all others."),
    ] = 0.0
    label_noise: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of an experience's labels that is replaced by others that occur in it."),
    ] = 0.0


def variation(changes: Mapping[str, Any] | None = None) -> Variation:
    """The clean stream, varied as `changes` say; raises `UsageError` for what is unknown or does not fit."""
    for field in changes or {}:
        if field not in Variation.model_fields:
            raise unknown_name("variation of a stream", field, Variation.model_fields)
    return _checked(Variation, dict(changes or {}), "stream")


def _checked(model: type[Model], values: dict[str, Any], owner: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            sentence = f" {field}: {model.model_fields[field].description}" if field else ""
            lines.append(f"{owner}{'.' + field if field else ''} is not valid: {problem['msg']}.{sentence}")
        raise UsageError("\n".join(lines)) from error


class Track(FrozenModel):
    """One leaderboard table; no seed takes part in it.

    One that goes on from another run (`continues`) has a single record: the fingerprint of its benchmark is that of the
    new data, and all else is as the run has it that it goes on from. What is known of the weights that it starts from
    (`pretraining`) takes no part in its digest.
    """

    benchmark: NamedPart
    scenario: Scenario
    backbone: NamedPart
    protocol: Protocol
    stream: Variation = Variation()
    continues: Continuation | None = None
    pretraining: Pretraining | None = None

    @model_serializer(mode="wrap")
    def _as_before_there_were_these(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        absent = [name for name in ("continues", "pretraining") if getattr(self, name) is None]
        return {name: value for name, value in content.items() if name not in absent}

    def __repr__(self) -> str:
        return f"Track({self.label}, {self.digest[:12]})"

    __str__ = __repr__

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal.

        Of the protocol only the revision and the fields that are not at their default take part, and so it is with
        the variation of the stream: what is added later, whose default is what was done before, moves no digest.
        The code of benchmark and backbone takes part where it is not built in.
        Weights that a backbone starts from take part by their fingerprint, and not by where they lie (its option
        `weights`).
        """
        data = self.model_dump(mode="json", exclude={"stream", "pretraining"})
        data["protocol"] = self.protocol.model_dump(mode="json", exclude_defaults=True)
        data["protocol"]["revision"] = self.protocol.revision
        if varied := self.stream.model_dump(mode="json", exclude_defaults=True):
            data["stream"] = varied
        for part in ("benchmark", "backbone"):
            if data[part]["identity"] is None:
                del data[part]["identity"]
        if self.backbone.fingerprint is not None:
            data["backbone"]["options"].pop("weights", None)
        return digest(data)

    @property
    def frozen(self) -> Precision | None:
        """What the features are kept as that stand for inputs, where the backbone is frozen and they are computed once;
        else None."""
        return frozen(self.backbone.options)[1]

    @property
    def preset(self) -> str:
        """The preset that the protocol is, `online+hidden` where its boundaries are hidden, or `custom`.

        A preset that says how classes are split is that of a benchmark with these options alone.
        """
        options = self.model_dump(mode="json", include={"benchmark"})["benchmark"]["options"].items()
        for name, preset in PRESETS.items():
            if NAMED[name].benchmark.items() <= options:
                if preset == self.protocol:
                    return name
                if preset.model_copy(update=HIDDEN) == self.protocol:
                    return f"{name}+hidden"
        return "custom"

    @property
    def headline(self) -> str:
        """The metric by which rows are compared: that of a paper's preset, else the final average accuracy."""
        name = self.preset.removesuffix("+hidden")
        return NAMED[name].headline if name in NAMED else FINAL

    @property
    def label(self) -> str:
        """What a person calls it: `split-digits/class/mlp/standard`."""
        backbone = f"{self.backbone.name}+frozen" if self.frozen else self.backbone.name
        return f"{self.stream_label}/{self.scenario}/{backbone}/{self.preset}"

    @property
    def stream_label(self) -> str:
        """The benchmark, and how its stream is varied: `split-digits+blur=0.2`."""
        varied = self.stream.model_dump(exclude_defaults=True)
        then = f" then {self.continues.data}" if self.continues else ""
        return "+".join([self.benchmark.name, *(f"{name}={value:g}" for name, value in varied.items())]) + then

    @property
    def pretrained(self) -> bool:
        """Whether its backbone starts from weights that were trained before."""
        return self.backbone.fingerprint is not None and self.backbone.options.get("weights") != "none"

    @property
    def seen(self) -> list[str]:
        """What its weights have seen, and what of that is asked again, in sentences; none where it starts from none."""
        known = self.pretraining
        return (known.told(self.benchmark.name) if known else [UNKNOWN]) if self.pretrained else []

    @property
    def unranked(self) -> str | None:
        """Why rows of this track are never ranked, or None."""
        if self.continues is not None:
            return f"it goes on from the run {self.continues.cell[:12]}, on data that no other has"
        if self.protocol.tested_on == "validation":
            return "a tuning run: held-out training data stands in for the test data"
        if self.protocol.limit is not None:
            return f"only {self.protocol.limit} samples of each experience were used"
        return None


def digest(data: Any) -> str:
    """SHA-256, in hexadecimal, of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
