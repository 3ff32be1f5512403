"""What one run is made of: the stream realised on the device, what a strategy is granted, and what it is tested on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from clarena.contract.augmentation import require_backbone, require_images
from clarena.contract.backbone import Backbone, require_model
from clarena.contract.benchmark import Benchmark, Split, Stream, Transform, limited, with_validation
from clarena.contract.data import Data
from clarena.contract.experience import Experience, HiddenStream
from clarena.contract.outputs import OutputSpace
from clarena.contract.rows import Conversion, Part, Rows, conversion
from clarena.contract.strategy import Context, Strategy
from clarena.contract.target import Target, built_in
from clarena.errors import PluginError, UsageError
from clarena.plugins.parameters import parse
from clarena.protocol.features import frozen
from clarena.protocol.protocol import Track, Variation
from clarena.record.predictions import Arrays, Predictions
from clarena.record.record import ExperienceInfo
from clarena.record.scoring import Groups, Scoring, scoring
from clarena.run.data import load
from clarena.run.features import Features, FrozenBackbone, as_numbers, in_features, require_frozen
from clarena.run.testset import TestSet
from clarena.run.variation import varied
from clarena.toolbox.schedule import Budget
from clarena.toolbox.seeding import BEFORE_LEARNING, Seeds
from clarena.toolbox.together import part, shape_of


@dataclass(frozen=True)
class CellClasses:
    """The classes that a cell names, looked up; and where the target is that the data of its benchmark name."""

    strategy: type[Strategy]
    benchmark: type[Benchmark]
    backbone: type[Backbone]
    targets: Callable[[str], type[Target]] = built_in


class Realisation:
    """One seed's stream of a track, for strategies of one kind of need.

    Attributes:
        target: what is asked of an input.
        stream: the realisation experiences.
        steps: which experiences' data are learned from together, one after another: each alone, or for a strategy
            that needs past or all data, the union.
        space: which outputs exist and are in play by now.
        conversion: how what is stored becomes a row, and a row an input.
        seeds: the named generators.
        carried: what a trained model keeps of this besides.
        source: the data as the benchmark has them, where `data` holds features in their place.
        source_splits: the experiences of the whole stream in rows of the source, where `stream` has them in features.
    """

    carried: Mapping[str, Any] = {}
    conversion: Conversion

    def __init__(self, track: Track, parts: CellClasses, seed: int, device: torch.device) -> None:
        self.track, self.parts, self.device, self.protocol = track, parts, device, track.protocol
        options = track.benchmark.options
        self.benchmark = parts.benchmark(**parse(parts.benchmark, options, track.benchmark.name))
        loaded = load(parts.benchmark, options, parts.targets)
        self.data, self.target = loaded.data, loaded.target
        self._check_target()
        self.seeds = Seeds(seed)
        tuning = self.protocol.tested_on == "validation"
        if tuning:
            self.data = self.data.without_test()
        stream = self.benchmark.stream(self.data, track.scenario, self.seeds.numpy("class_order"))
        first = self.protocol.tuning_experiences if tuning else len(stream.splits)
        if tuning:
            # A varied stream is varied as a whole, so that its beginning is that of a ranked run.
            count = first if track.stream == Variation() else len(stream.splits)
            fraction, rows = self.protocol.validation_fraction, len(self.data.y_train)
            held_out = self.seeds.numpy("validation")
            stream = with_validation(stream, count, fraction, rows, held_out, self.target.labels_are_classes)
        stream.validate(self.data, track.benchmark.name, self.target)
        stream = limited(stream, self.protocol.limit, self.target.labels_are_classes)
        stream = varied(stream, track.stream, track.scenario, self.seeds, self.target)
        self.source, self.source_splits = self.data, stream.splits
        if track.frozen:
            self.data, stream = self._frozen(stream)
        self._transforms = [split.transform for split in stream.splits]
        self.conversion = conversion(self.inputs, self.data.x_train, self._transforms)
        self.stream = replace(stream, splits=stream.splits[:first])
        self.steps = _steps(len(self.stream.splits), parts.strategy.needs)
        self._evaluation = self.seeds.torch("evaluation")
        self.space = self._fresh_space()
        self.budget = Budget()

    def _frozen(self, stream: Stream) -> tuple[Data, Stream]:
        """The data and the stream in features of the frozen backbone."""
        require_frozen(self.track, self.parts.strategy)

        def of(rows: Any, transform: Transform | None, side: str) -> Tensor:
            where = {"train": "training", "test": "test"}[side]
            made = self.conversion_of(transform)
            return self.backbone.of(rows, made, f"{self.track.benchmark.name}, {where} samples")

        return in_features(self.data, stream, of, whole=self.protocol.limit is None)

    def conversion_of(self, transform: Transform | None) -> Transform:
        """What makes inputs of stored rows that are seen through a transform."""
        convert = self.benchmark.inputs
        return convert if transform is None else lambda rows: transform(convert(rows))

    @cached_property
    def backbone(self) -> FrozenBackbone:
        """The track's backbone, where it is frozen and its features stand for inputs."""
        sample = self.conversion_of(self.source_splits[0].transform)(part(self.source.x_train, slice(1)))
        return FrozenBackbone(self.track, self.parts.backbone, shape_of(sample), self.tokens(), self.device)

    @property
    def inputs(self) -> Transform:
        """What makes an input of what is stored: the benchmark's conversion; of features, none."""
        return as_numbers if self.track.frozen else self.benchmark.inputs

    def _check_target(self) -> None:
        """Raise `UsageError` where what is asked makes no sense in the scenario, or the strategy cannot learn it."""
        name, asked, scenario = self.track.benchmark.name, self.target, self.track.scenario
        if scenario not in asked.scenarios:
            raise UsageError(
                f"{name} asks for {asked.name}, which makes no sense in the {scenario} scenario: "
                f"--scenario {' or '.join(asked.scenarios)}."
            )
        strategy = self.parts.strategy
        if strategy.targets is not None and asked.name not in strategy.targets:
            raise UsageError(
                f"{strategy.name} learns {' and '.join(sorted(strategy.targets))}, and {name} asks for {asked.name}. "
                "Take a strategy that learns any target, such as finetune, er or ewc."
            )

    def _fresh_space(self) -> OutputSpace:
        asked, names = self.target, self.stream.output_names
        return OutputSpace(self.track.scenario, self.protocol, self.stream.outputs, self.device, asked, names)

    def _shown(self, position: int) -> frozenset[int]:
        """The outputs that the training labels of an experience show."""
        return self.target.shown(self.stream.splits[position].y_train, self.stream.outputs)

    @cached_property
    def test(self) -> TestSet:
        """The test samples, on the device."""
        return TestSet(
            self.conversion,
            self.data,
            self.target,
            self.stream,
            self.track.scenario,
            self.protocol,
            self._evaluation,
            self.device,
            by_output=self._by_output,
        )

    def set_up(self, strategy: Strategy, learning_rate: float | None = None) -> Strategy:
        """Start over: hand the strategy a fresh context, and put it on the device.

        Raises:
            UsageError: when track and strategy do not go together.
        """
        self.seeds.start(BEFORE_LEARNING)
        self.space = self._fresh_space()
        self.budget = Budget()
        strategy.setup(self.context(learning_rate))
        if self.protocol.augmentation is not None:
            require_backbone(strategy, strategy.name)
        if self.protocol.precision == "bf16":
            require_model(strategy, strategy.name)
        return strategy.to(self.device)

    def context(self, learning_rate: float | None = None) -> Context:
        """What the protocol grants."""
        transform = self.stream.splits[0].transform
        sample = self.inputs(part(self.data.x_train, slice(1)))
        input_shape = shape_of(sample if transform is None else transform(sample))
        if self.protocol.augmentation is not None:
            require_images(input_shape, self.benchmark.name)
        known = self.protocol.stream_length == "known"
        return Context(
            scenario=self.track.scenario,
            protocol=self.protocol,
            device=self.device,
            input_shape=input_shape,
            learning_rate=self.protocol.learning_rate if learning_rate is None else learning_rate,
            space=self.space,
            seeds=self.seeds,
            make_backbone=backbone_maker(self.track, self.parts.backbone, input_shape, self.tokens()),
            inputs=self.conversion,
            budget=self.budget,
            needs=self.parts.strategy.needs,
            outputs=self.stream.outputs if known else None,
            experiences=len(self.stream.splits) if known and not self.hidden else None,
        )

    def tokens(self) -> list[Any]:
        """What a backbone is told of tokens, if anything; raises `UsageError` where it does not take these inputs."""
        backbone, benchmark = self.parts.backbone, self.benchmark
        if backbone.takes_tokens != (benchmark.vocabulary is not None):
            kinds = ("tokens", "numbers") if backbone.takes_tokens else ("numbers", "tokens")
            raise UsageError(
                f"The backbone {backbone.name} takes {kinds[0]}, and the inputs of {benchmark.name} are {kinds[1]}. "
                "Choose another: clarena list."
            )
        return [benchmark.vocabulary, bool(self.positions)] if backbone.takes_tokens else []

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape of the positions at which each sample is asked; none for most targets."""
        return self.target.positions(self.data.y_train)

    @property
    def hidden(self) -> bool:
        """Whether the stream is learned in one call, untold where an experience ends; a union of all has no end."""
        return self.protocol.boundaries == "hidden" and "all_data" not in self.parts.strategy.needs

    def begin_hidden(self) -> None:
        """Reseed, once for the whole stream; outputs are revealed by the batches that show them."""
        self.seeds.start(0)

    def hidden_stream(self, parts: Iterator[Experience]) -> HiddenStream:
        """The stream made of these experiences; if its length is known, updaters know for how many steps it is."""
        stream, p = HiddenStream(parts, self.space, self.protocol), self.protocol
        if p.stream_length == "known":
            steps = sum(p.epochs * -(-len(split.train) // p.batch_size) for split in self.stream.splits)
            self.budget.begin(stream.meter, steps, size=1, by_steps=True)
        return stream

    def begin(self, positions: list[int]) -> None:
        """Reseed, and reveal the outputs of what is learned next."""
        self.seeds.start(positions[-1])
        self.space.begin([self._shown(i) for i in positions])

    def experience(self, positions: list[int]) -> Experience:
        """The data of these experiences; call `begin` first."""
        parts: list[Part] = []
        labels, tasks = [], []
        for i in positions:
            split = self.stream.splits[i]
            parts += self._parts(split)
            labels.append(split.y_train)
            tasks.append(torch.full_like(labels[-1], i))
        y = torch.cat(labels)
        with_task = self.track.scenario == "task"
        experience = Experience(
            position=positions[-1],
            task=positions[0] if with_task and len(positions) == 1 else None,
            classes=tuple(sorted(frozenset().union(*map(self._shown, positions)))),
            outputs=self.space.width,
            space=self.space,
            rows=Rows(parts, self.conversion, self.device).ready(),
            y=y.to(self.device, copy=True),
            labels=y,
            tasks=torch.cat(tasks).to(self.device) if with_task else None,
            protocol=self.protocol,
            generator=self.seeds.apart("data", positions[-1]) if self.hidden else self.seeds.torch("data"),
            view_generator=self.seeds.torch("views"),
        )
        if not self.hidden:
            self.budget.begin(experience.meter, self.protocol.epochs, len(y), self.protocol.batch_size)
        return experience

    def _parts(self, split: Split) -> list[Part]:
        """The training samples of an experience, each seen through the transform of the one it comes from."""
        if split.origin is None:
            return [Part(self.data.x_train, split.train, split.transform)]
        origins, counts = split.origin.unique_consecutive(return_counts=True)
        transforms = [self._transforms[origin] for origin in origins]
        parts = zip(split.train.split(counts.tolist()), transforms)
        return [Part(self.data.x_train, index, transform) for index, transform in parts]

    @property
    def scoring(self) -> Scoring:
        """How the answers of this run are scored; raises `PluginError` where that half of the target is broken."""
        found = scoring(self.data.target)
        if found is None or found.name != self.data.target:
            raise PluginError(f"The scoring of the target {self.data.target} cannot be used: clarena doctor says why.")
        return found

    @property
    def _by_output(self) -> bool:
        """Whether a cell of the matrix is scored by outputs."""
        found = scoring(self.data.target)
        return found is not None and found.by_output and self.track.scenario == "class"

    @property
    def groups(self) -> Groups | None:
        """The outputs of each experience, where a cell of the matrix is scored by outputs and not by samples."""
        if not self._by_output:
            return None
        return [sorted(self._shown(position)) for position in range(len(self.stream.splits))]

    def scores(self, answers: Arrays, after: int) -> list[float]:
        """The score on each experience of what was answered while experience `after`, from 1, was learned."""
        told = self.test.truth, self.test.experience, len(self.stream.splits), self.stream.output_names, self.groups
        return self.scoring.row(answers, *told, after=after)

    def chance(self, predictions: Predictions) -> list[float]:
        """What one scores on each experience, in the end, who knows the training labels and looks at no input."""
        told = self.trained_on(), predictions, self.stream.output_names, self.groups
        return self.scoring.chance(*told, told=self.track.scenario == "task")

    def trained_on(self) -> list[Arrays]:
        """The truth of the training samples of each experience."""
        known: list[Arrays] = []
        for split in self.stream.splits:
            counted = self.target.counted(split.y_train)
            y = split.y_train if counted is None else split.y_train[counted]
            known.append(self.target.truth(y.numpy(), self.data))
        return known

    def experiences(self) -> list[ExperienceInfo]:
        """What each experience holds, for the record."""
        names = self.stream.output_names
        return [
            ExperienceInfo(
                classes=[names[label] for label in sorted(self._shown(position))],
                domain=split.domain,
                train_samples=len(split.train),
                test_samples=len(split.test),
                **self._realised(position, split),
            )
            for position, split in enumerate(self.stream.splits)
        ]

    def _realised(self, position: int, split: Split) -> dict[str, Any]:
        """What a variation has made of an experience; nothing for one of a clean stream."""
        if split.origin is None:
            return {}
        of_classes = self.target.labels_are_classes
        return {
            "class_samples": split.y_train.unique(return_counts=True)[1].tolist() if of_classes else [],
            "from_others": int((split.origin != position).sum()),
            "noisy_labels": split.noisy,
        }


def backbone_maker(
    track: Track, cls: type[Backbone], input_shape: Any, tokens: Sequence[Any]
) -> Callable[[], Backbone]:
    """What makes a fresh backbone of a track or, where it is frozen, what stands for it.

    Args:
        input_shape: of what strategies are given.
        tokens: what it is told of tokens; see `Realisation.tokens`.
    """
    options, features = frozen(track.backbone.options)
    if features:
        return partial(Features, input_shape, cls.start)
    return partial(cls, input_shape, *tokens, **parse(cls, options, track.backbone.name))


def _steps(experiences: int, needs: frozenset[str]) -> list[list[int]]:
    positions = list(range(experiences))
    if "all_data" in needs:
        return [positions]
    if "past_data" in needs:
        return [positions[: i + 1] for i in positions]
    return [[i] for i in positions]
