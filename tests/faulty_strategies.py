"""Strategies with one fault each, and the check that is meant to catch it.

All but their fault is in order, so that a strategy is caught by its own check and by no other.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import (
    Batch,
    Context,
    Experience,
    GradientStrategy,
    ReplayBuffer,
    Strategy,
    as_given,
    cross_entropy,
    evaluating,
)
from clarena.contract.augmentation import augmented

FAULTY: list[tuple[type[Strategy], str, str]] = []
"""(class, the check that catches it, words that its message must hold to be of help)"""

Strength = Annotated[float, Field(ge=0, description="Weight of the mechanism.")]


def caught_by(check: str, advice: str) -> Callable[[type[Strategy]], type[Strategy]]:
    def note(cls: type[Strategy]) -> type[Strategy]:
        cls.name = cls.name if "name" in vars(cls) else cls.__name__.lower()
        cls.reference = cls.reference or "Made up for a test."
        FAULTY.append((cls, check, advice))
        return cls

    return note


# ---- Declarations ----


@caught_by("metadata", "Use lower-case letters")
class ShoutingName(GradientStrategy):
    """Has a name that no command line takes."""

    name = "Shouting Name"


@caught_by("metadata", "Say in one sentence")
class Undocumented(GradientStrategy):
    name = "undocumented"


@caught_by("metadata", "Known: class, domain, task")
class UnknownScenario(GradientStrategy):
    """Runs in a scenario that nobody has heard of."""

    scenarios = frozenset({"class", "lifelong"})


@caught_by("metadata", "Name those it learns, as in frozenset")
class SayingTargets(GradientStrategy):
    """Names its target, and not a set of them."""

    targets = "classes"


@caught_by("metadata", "as a keyword-only argument")
class PositionalParameter(GradientStrategy):
    """Has a hyper-parameter that the command line cannot see."""

    def __init__(self, strength: Strength = 1.0) -> None:
        super().__init__()
        self.strength = strength


@caught_by("metadata", "strength has no description")
class SilentParameter(GradientStrategy):
    """Has a hyper-parameter that nothing explains."""

    def __init__(self, *, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength


@caught_by("metadata", "off does not fit")
class StaleOff(GradientStrategy):
    """Is switched off by a hyper-parameter that it does not have."""

    off = {"strenght": 0.0}


@caught_by("exceptions", "Checks: metadata,")
class ExceptedFromNothing(GradientStrategy):
    """Excepts itself from a check that does not exist."""

    exceptions = {"lerns": "It is not meant to."}


@caught_by("constructible", "Give a default to strength")
class NeedsArgument(GradientStrategy):
    """Cannot be made without an argument."""

    def __init__(self, *, strength: Strength) -> None:
        super().__init__()
        self.strength = strength


@caught_by("constructible", "Write self.strength = strength")
class Converts(GradientStrategy):
    """Does not keep its hyper-parameter as it was given."""

    def __init__(self, *, strength: Strength = 2.0) -> None:
        super().__init__()
        self.strength = strength / 2


# ---- One run ----


@caught_by("runs", "shape '[8, -1]' is invalid")
class ExpectsFullBatches(GradientStrategy):
    """Cannot take a last batch that is smaller than the others."""

    def loss(self, batch: Batch) -> Tensor:
        assert batch.scores is not None
        batch.scores = batch.scores.view(self.context.protocol.batch_size, -1)
        return super().loss(batch)


@caught_by("parameters_kept", "Write self.buffer_size = buffer_size")
class Overwrites(GradientStrategy):
    """Overwrites its hyper-parameter with what it was granted."""

    def __init__(
        self, *, buffer_size: Annotated[int | None, Field(ge=0, description="Exemplars kept.")] = None
    ) -> None:
        super().__init__()
        self.buffer_size = buffer_size

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.buffer_size = context.granted_buffer(self.buffer_size)


@caught_by("scores", "not a class")
class PredictsClasses(GradientStrategy):
    """Decides on a class itself, and returns that instead of scores."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return super().predict(x, task).argmax(1)


@caught_by("scores", "NaN or infinity for")
class DividesByZero(GradientStrategy):
    """Returns scores that are no numbers."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return super().predict(x, task) * 0 / 0


@caught_by("scores", "torch.float64")
class DoublesPrecision(GradientStrategy):
    """Returns scores of another type."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return super().predict(x, task).double()


@caught_by("untrained_scores", "build the model in setup")
class BuildsLate(GradientStrategy):
    """Has no model before the first experience."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.ready, self.later = False, self.model
        self.model = None  # type: ignore[assignment]

    def learn(self, experience: Experience) -> None:
        self.model = self.later
        super().learn(experience)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self.model = self.later
        return super().load_state_dict(state_dict, strict, assign)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return torch.full((len(x), 1), torch.nan) if self.model is None else super().predict(x, task)


@caught_by("no_task_label", "Define predict(self, x, task=None)")
class InsistsOnTask(GradientStrategy):
    """Has to be told a task, in every scenario."""

    def predict(self, x: Tensor, task: int | None) -> Tensor:  # type: ignore[override]
        return super().predict(x, task)


@caught_by("learns", "optimizer.step()")
class NeverSteps(GradientStrategy):
    """Takes every batch and does nothing with it."""

    def step(self, batch: Batch) -> None:
        pass


@caught_by("learns", "Is the learning rate too small")
class CrawlsAlong(GradientStrategy):
    """Sets a learning rate of its own, at which not even fine-tuning learns."""

    def setup(self, context: Context) -> None:
        super().setup(replace(context, learning_rate=1e-5))


@caught_by("batch_independent", "normalise nothing over the batch")
class CentresScores(GradientStrategy):
    """Subtracts from its scores their mean over the test batch."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores = super().predict(x, task)
        return scores - scores.mean(0)


@caught_by("data_untouched", "learn changed experience.y in place")
class ErasesLabels(GradientStrategy):
    """Wipes the labels that it has learned."""

    def after_experience(self, experience: Experience) -> None:
        experience.y.zero_()


@caught_by("data_untouched", "predict changed its input")
class ScalesInput(GradientStrategy):
    """Scales its inputs where they are, and so scales the host's as well."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return super().predict(x.mul_(0.9), task)


@caught_by("data_released", "still holds an experience")
class KeepsExperiences(GradientStrategy):
    """Holds on to every experience it has learned."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.past: list[Experience] = []

    def after_experience(self, experience: Experience) -> None:
        self.past.append(experience)


@caught_by("budget", "reads experience.x itself")
class TrainsPastTheMeter(GradientStrategy):
    """Trains once more on all the data, past the meter."""

    def after_experience(self, experience: Experience) -> None:
        everything = next(experience.scan(len(experience)))
        everything.x = experience.x
        self.step(everything)


@caught_by("budget", "took no batch")
class OnlyScans(GradientStrategy):
    """Trains on what it was to look at only."""

    def learn(self, experience: Experience) -> None:
        self.experience = experience
        self.context.grow(self.model)
        self.updater = self._next_updater()
        for _ in range(50):
            for batch in experience.scan(len(experience)):
                self.step(batch)
        self.experience = None


@caught_by("views", "Take augmented views from the batch")
class MirrorsByItself(GradientStrategy):
    """Takes a mirrored view of every batch, which nobody counts."""

    def loss(self, batch: Batch) -> Tensor:
        mirrored = self.model(batch.x.flip(-1))
        return super().loss(batch) + 0.01 * (batch.scores - mirrored).square().mean()


@caught_by("views", "Take augmented views from the batch")
class CallsThePolicy(GradientStrategy):
    """Calls the host's policy past the batch, which would have counted."""

    def loss(self, batch: Batch) -> Tensor:
        with as_given():
            other = self.model(augmented(batch.x, "crop", self.context.generator()))
        return super().loss(batch) + 0.01 * (batch.scores - other).square().mean()


@caught_by("views", "clarena.as_given()")
class AugmentsTwice(GradientStrategy):
    """Takes a view and has it augmented once more."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) + 0.01 * (batch.scores - self.model(batch.view())).square().mean()


@caught_by("buffer_budget", "the protocol grants 7")
class KeepsEverything(GradientStrategy):
    """Keeps all samples in its state."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.register_buffer("kept", torch.zeros(0))

    def after_experience(self, experience: Experience) -> None:
        kept = [self.kept] if len(self.kept) else []
        self.kept = torch.cat([*kept, *(batch.rows for batch in experience.scan())])


@caught_by("buffer_budget", "the protocol grants 0")
class AlwaysKeepsOne(GradientStrategy):
    """Keeps a sample where none is granted."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.buffer = ReplayBuffer(max(1, context.buffer_size), inputs=context.inputs)

    def after_step(self, batch: Batch) -> None:
        self.buffer.add(self.context.generator("buffer"), rows=batch.stream().rows)


@caught_by("rows", "converted for good")
class ConvertsForGood(GradientStrategy):
    """Keeps inputs where rows would be a quarter of the bytes."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.buffer = ReplayBuffer(context.granted_buffer(None))

    def after_step(self, batch: Batch) -> None:
        self.buffer.add(self.context.generator("buffer"), x=batch.stream().x)


@caught_by("buffer_budget", "after experience 1; the protocol grants 6")
class KeepsAsManyAsEver(GradientStrategy):
    """Keeps a total of its own where exemplars are granted for each class."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        granted = context.granted_buffer(None)
        self.buffer = ReplayBuffer(granted if isinstance(granted, int) else 10, inputs=context.inputs)

    def after_step(self, batch: Batch) -> None:
        self.buffer.add(self.context.generator("buffer"), rows=batch.stream().rows)


@caught_by("runs", "parameter_groups()")
class SlowsDown(GradientStrategy):
    """Halves its learning rate at every step, by the optimiser's own settings."""

    def after_step(self, batch: Batch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] /= 2


@caught_by("runs", "parameter_groups()")
class BorrowsRate(GradientStrategy):
    """Takes a rate of its own for the step alone, and puts the host's back before anyone looks."""

    def adjust_gradients(self, batch: Batch) -> None:
        self.optimizer.param_groups[0]["lr"] *= 2

    def after_step(self, batch: Batch) -> None:
        self.optimizer.param_groups[0]["lr"] /= 2


@caught_by("updates", "updater.descend(batch, loss)")
class StepsAtOnce(GradientStrategy):
    """Makes steps of its own on whole batches, and does not say so."""

    def step(self, batch: Batch) -> None:
        self.model.zero_grad()
        loss = cross_entropy(self.model(batch.x), batch.y, batch.mask)
        loss.backward()
        self.updater.step()
        self.experience.meter.observe(loss)


@caught_by("updates", "Make it in learn")
class OneOptimiserForAll(GradientStrategy):
    """Makes its optimiser before there is anything to learn, and none for what comes later."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.once = context.updater(self.model.backbone.parameters())


# ---- Two runs that must be one ----


@caught_by("reproducible", "Draw from context.generator")
class Unseeded(GradientStrategy):
    """Shakes its scores with noise that no seed governs."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.register_buffer("noise", torch.tensor(np.random.default_rng().normal(), dtype=torch.float32))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return super().predict(x, task) * (1 + 1e-3 * self.noise)


@caught_by("predict_changes_nothing", "put")
class StaysInEvaluation(GradientStrategy):
    """Predicts in evaluation mode and stays there."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        self.eval()
        with torch.no_grad():
            return self.model(x)  # type: ignore[no-any-return]


@caught_by("predict_changes_nothing", "predict changed the state: asked")
class CountsQuestions(GradientStrategy):
    """Counts how often it is asked."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.register_buffer("asked", torch.zeros((), dtype=torch.long))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        self.asked += 1
        return super().predict(x, task)


@caught_by("predict_changes_nothing", "global random generator")
class DrawsToPredict(GradientStrategy):
    """Draws a random number for every prediction."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return super().predict(x, task) + 0 * torch.rand(())


@caught_by("predict_changes_nothing", "ends elsewhere when it is asked")
class LearnsFromTests(GradientStrategy):
    """Remembers, out of sight of its state, what it was tested on."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.offset = torch.zeros(context.input_shape)

    def before_experience(self, experience: Experience) -> None:
        self.offset = torch.zeros(self.context.input_shape)

    def loss(self, batch: Batch) -> Tensor:
        batch.scores = self.model(batch.x - 0.01 * self.offset)
        return super().loss(batch)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        self.offset = x.mean(0)
        return super().predict(x, task)


@caught_by("nothing_left_behind", "there is a hook at model.backbone. Use what puts things back")
class LeavesHook(GradientStrategy):
    """Looks at features through a hook, and does not take it away."""

    def before_experience(self, experience: Experience) -> None:
        if experience.position == 0:
            self.model.backbone.register_forward_hook(lambda module, inputs, output: None)


@caught_by("nothing_left_behind", "there is another forward at model.backbone")
class LeavesForward(GradientStrategy):
    """Puts a forward pass of its own into a module, and leaves it there."""

    def after_experience(self, experience: Experience) -> None:
        self.model.backbone.forward = self.model.backbone.forward  # type: ignore[method-assign]


@caught_by("frozen_kept", "Add to its weights within `with added(…):`")
class MergesIntoFrozen(GradientStrategy):
    """Has a frozen backbone, and moves its weights all the same."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.model.backbone.requires_grad_(False)

    @torch.no_grad()
    def after_experience(self, experience: Experience) -> None:
        for p in self.model.backbone.parameters():
            p.mul_(1.01)


@caught_by("setup_starts_over", "Build everything in setup")
class SetsUpOnce(GradientStrategy):
    """Keeps the model that it has when it is set up again."""

    def setup(self, context: Context) -> None:
        model = getattr(self, "model", None)
        super().setup(context)
        if model is not None:
            self.model = model


@caught_by("copies", "shares tensors with the original")
class OneOfAKind(GradientStrategy):
    """Hands out itself as its copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "OneOfAKind":
        return self


@caught_by("copies", "Hold no lock, file, iterator")
class HoldsALock(GradientStrategy):
    """Has an attribute that cannot be copied."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.lock = threading.Lock()


@caught_by("restart", "not in its state_dict")
class HidesState(GradientStrategy):
    """Learns ever more slowly, by a number that it does not save."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.factor = 1.0

    def loss(self, batch: Batch) -> Tensor:
        return self.factor * super().loss(batch)

    def after_experience(self, experience: Experience) -> None:
        self.factor *= 0.5


@caught_by("restart", "not in its state_dict")
class HidesStateInClass(GradientStrategy):
    """Hides the same in its class, where every object of this process finds it."""

    factors: dict[int, float] = {}

    def loss(self, batch: Batch) -> Tensor:
        assert self.experience is not None
        return self.factors.get(self.experience.position, 1.0) * super().loss(batch)

    def after_experience(self, experience: Experience) -> None:
        self.factors[experience.position + 1] = 0.5


@caught_by("restart", "not in its state_dict")
class ForgetsOptimiser(GradientStrategy):
    """Restores something of its own in place of the optimiser's momentum."""

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"version": 1}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.version = state["version"]


@caught_by("restart", "structure() returns what there is")
class GrowsUnannounced(GradientStrategy):
    """Adds modules while it learns, and cannot be given back a state that has them."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.extra = nn.ModuleList()

    def after_experience(self, experience: Experience) -> None:
        self.extra.append(nn.Linear(2, 2))


@caught_by("restart", "from structure()")
class DeclaresHalf(GradientStrategy):
    """Says how many modules it has added, and not how much of each it takes."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.extra, self.shares = nn.ModuleList(), []

    def structure(self) -> Any:
        return super().structure() | {"extra": len(self.extra)}

    def build(self, structure: Any) -> None:
        super().build(structure)
        for _ in range(structure["extra"]):
            self._add(1.0)

    def _add(self, share: float) -> None:
        self.extra.append(nn.Linear(self.model.backbone.features, 1, bias=False))
        self.shares.append(share)

    def after_experience(self, experience: Experience) -> None:
        self._add(1 / (1 + experience.position))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores = super().predict(x, task)
        with torch.no_grad(), evaluating(self):
            features = self.model.backbone(x)
            added = [share * layer(features) for share, layer in zip(self.shares, self.extra)]
        return scores + 0.01 * sum(added, start=torch.zeros(len(x), 1)) * torch.linspace(0, 1, scores.shape[1])


@caught_by("restart", "clarena.Freezable")
class Renames(GradientStrategy):
    """Moves what an experience has added to where the old things are."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.new, self.old = nn.ModuleList(), nn.ModuleList()

    def structure(self) -> Any:
        return super().structure() | {"new": len(self.new), "old": len(self.old)}

    def build(self, structure: Any) -> None:
        super().build(structure)
        for place in ("new", "old"):
            getattr(self, place).extend(nn.Linear(2, 2) for _ in range(structure[place]))

    def after_experience(self, experience: Experience) -> None:
        self.old.extend(self.new)
        self.new = nn.ModuleList([nn.Linear(2, 2)])


@caught_by("off", "bit for bit")
class NeverQuiteOff(GradientStrategy):
    """Shrinks its weights a little even where it is told not to."""

    off = {"strength": 0.0}

    def __init__(self, *, strength: Strength = 0.1) -> None:
        super().__init__()
        self.strength = strength

    def penalty(self) -> Tensor:
        with evaluating(self):
            return (self.strength + 1e-4) * sum(p.square().sum() for p in self.model.parameters())  # type: ignore[return-value]
