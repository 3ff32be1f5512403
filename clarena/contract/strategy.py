"""The contract of a strategy: how a model learns from a stream.

A strategy is a `torch.nn.Module`, and whatever it remembers is a parameter, a registered buffer, or goes through
`get_extra_state`; what grows says how it is built (`structure`, `build`). From this follow checkpoints and resume,
moving to a device, exact metering of what is carried from one experience to the next, and running in another process.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from clarena.contract.augmentation import Augmentation
from clarena.contract.backbone import Backbone, Model, require_face
from clarena.contract.experience import Experience
from clarena.contract.outputs import OutputSpace
from clarena.contract.target import Target
from clarena.contract.updater import Factors, Updater
from clarena.contract.views import granted_policy
from clarena.errors import UsageError
from clarena.protocol.protocol import AugmentationKind, Protocol, Scenario
from clarena.toolbox.buffer import Capacity, Policy, ReplayBuffer
from clarena.toolbox.modules import Frozen, evaluating
from clarena.toolbox.schedule import Budget
from clarena.toolbox.seeding import Seeds
from clarena.toolbox.structure import STRUCTURE, prepare, structure_of

NEEDS: dict[str, str] = {
    "past_data": "sees the data of all experiences so far; a reference, never ranked",
    "all_data": "sees the data of the whole stream at once; a reference, never ranked",
    "plain_sgd": "its mathematics fixes the optimiser: SGD without momentum or weight decay",
    "known_stream_length": "has to know the number of experiences and outputs in advance",
    "boundaries": "has to be told where one experience ends and the next begins",
    "own_loop": "trains through a loop and loader of its own",
    "unclipped": "goes by the size of its gradients, which clipping would change",
    "whole_batches": "makes steps of its own within a batch, which cannot be added up over parts of it",
    "constant_rate": "has learning rates of its own, which no schedule reaches",
    "float32": "trains in float32 alone: by its mathematics, or because it builds a network of its own",
    "tokens": "works on the tokens within its backbone: embed, process, pool",
    "prefixes": "puts prefixes before the keys and values of its backbone's attention",
    "adapters": "adds to the weights or blocks of its backbone, which stay as they are",
    "trained_backbone": "trains its backbone, which features computed once cannot replace",
}
"""What a strategy may declare to need, and what each means."""


@dataclass
class Context:
    """What the protocol grants to a strategy, handed over in `setup`.

    Attributes:
        scenario: class-, domain- or task-incremental.
        protocol: everything held equal.
        device: where the model and the data live.
        input_shape: shape of one input.
        buffer_size: upper limit on stored exemplars, in total samples; none where they are counted per class.
        learning_rate: of this row: the protocol's, or the one set for it.
        space: which outputs exist and are in play.
        seeds: the named generators.
        needs: what the strategy has declared that it needs.
        budget: how far learning has come with what it was given.
        inputs: the conversion: inputs [n, …] of rows [n, …], the same for every experience.
        outputs, experiences: of the whole stream; None unless the protocol says that they are known in advance. The
            number of experiences is never told where boundaries are hidden.
    """

    scenario: Scenario
    protocol: Protocol
    device: torch.device
    input_shape: tuple[int, ...]
    learning_rate: float
    space: OutputSpace
    seeds: Seeds
    make_backbone: Callable[[], Backbone] = field(repr=False)
    inputs: Callable[[Any], Any] = field(repr=False, default=lambda rows: rows)
    budget: Budget = field(repr=False, default_factory=Budget)
    needs: frozenset[str] = frozenset()
    outputs: int | None = None
    experiences: int | None = None

    @property
    def target(self) -> Target:
        """What is asked of an input: its loss, its Fisher directions, its distance to older scores."""
        return self.space.target

    @property
    def buffer_size(self) -> int:
        """Upper limit on stored exemplars, in total samples.

        Raises:
            UsageError: where the protocol grants exemplars for each class.
        """
        if self.protocol.exemplars_per_class is not None:
            raise UsageError(
                "It keeps so many exemplars in total, and this track grants "
                f"{self.protocol.exemplars_per_class} for each class seen. A strategy whose buffer is "
                "ReplayBuffer(context.granted_buffer(self.buffer_size)) can have them; else set protocol.buffer_size."
            )
        return self.protocol.buffer_size

    def backbone(self) -> Backbone:
        """A freshly initialised backbone, augmented where the protocol says so; it is drawn from the `init` stream.

        Raises:
            UsageError: where it has not what the strategy needs of it, such as tokens.
        """
        with self.seeds.scope("init"):
            backbone = self.make_backbone().to(self.device)
        require_face(backbone, self.needs)
        if self.protocol.augmentation is not None:
            backbone.register_forward_pre_hook(Augmentation(self.protocol.augmentation))
        return backbone

    def model(self) -> Model:
        """A freshly initialised backbone with a head; a full head has all outputs at once."""
        model = Model(self.backbone(), precision=self.protocol.precision)
        self.grow(model)
        return model

    def grow(self, model: Model) -> None:
        """Give the model's head the outputs that exist by now and their names; what is new is drawn from `init`."""
        with self.seeds.scope("init"):
            model.head.read_names(self.space.names)
            model.head.grow(self.space.width)
        model.to(self.device)

    def own_outputs(self, experience: Experience) -> Tensor | None:
        """The outputs of an experience, bool [1, outputs], in the class scenario; elsewhere None: those in play.

        For a loss over the classes of the experience alone, whatever the protocol's loss_over says.
        """
        if self.scenario != "class":
            return None
        mask = torch.zeros(1, self.space.width, dtype=torch.bool, device=self.device)
        mask[:, list(experience.classes)] = True
        return mask

    def generator(self, name: str = "strategy") -> torch.Generator:
        """The named generator (on the CPU) for a strategy's own draws: `strategy`, `buffer`."""
        return self.seeds.torch(name)

    def updater(
        self,
        params: Iterable[nn.Parameter],
        *,
        steps: int | None = None,
        passes: int | None = None,
        factors: Factors = (),
    ) -> Updater:
        """What moves `params`: the protocol's optimiser (plain SGD for a strategy that needs it) with all that belongs
        to it. Make a new one in `learn`, for each experience or phase; its schedule begins with it.

        Args:
            params: to be trained.
            steps: for how many steps; None: for what is left of the budget of the experience.
            passes: how many passes these steps are; without `steps`, for so many passes over the experience.
            factors: groups of parameters whose rate differs, each with its factor.
        """
        clock = self.budget.clock(steps, passes)
        counted = self.target.counted
        return Updater(params, self._optimizer, self.protocol, self.learning_rate, clock, factors, counted)

    def optimizer(self, params: Iterable[nn.Parameter], learning_rate: float | None = None) -> torch.optim.Optimizer:
        """The optimiser of `updater(params)`, for plugins of before there was one: call that instead."""
        context = self if learning_rate is None else replace(self, learning_rate=learning_rate)
        return context.updater(params).optimizer

    @property
    def plain_sgd(self) -> bool:
        """Whether the strategy's mathematics fixes the optimiser: SGD without momentum or weight decay."""
        return "plain_sgd" in self.needs

    def _optimizer(self, params: Any, rate: float) -> torch.optim.Optimizer:
        p = self.protocol
        if self.plain_sgd:
            return torch.optim.SGD(params, lr=rate)
        if p.optimizer == "sgd":
            return torch.optim.SGD(params, lr=rate, momentum=p.momentum, weight_decay=p.weight_decay)
        kind = torch.optim.Adam if p.optimizer == "adam" else torch.optim.AdamW
        return kind(params, lr=rate, weight_decay=p.weight_decay, fused=True)  # one kernel for all parameters

    def replay_buffer(self, wanted: int | None, policy: Policy = "reservoir", key: str = "y") -> ReplayBuffer:
        """An empty buffer on the device, as large as `granted_buffer` says: it keeps rows, and gives inputs back."""
        return ReplayBuffer(self.granted_buffer(wanted), policy, key, self.inputs).to(self.device)

    def granted_buffer(self, wanted: int | None) -> Capacity:
        """The buffer size a strategy gets: what it wants, within the limit; None asks for all of it.

        A number; or, where the protocol grants exemplars for each class, a function that says how many by now, from
        the classes seen so far. `ReplayBuffer` takes either.

        Raises:
            UsageError: when more is wanted than the protocol grants, or a total where it grants a number per class.
        """
        if self.protocol.exemplars_per_class is not None and wanted != 0:
            if wanted is not None:
                raise UsageError(
                    f"buffer_size = {wanted} counts exemplars in total, and this track grants "
                    f"{self.protocol.exemplars_per_class} for each class. Leave it out, or open another track: "
                    f"--set protocol.buffer_size={wanted}."
                )
            return Quota(self.protocol.exemplars_per_class, self.space)
        if wanted is not None and wanted > self.protocol.buffer_size:
            raise UsageError(
                f"buffer_size = {wanted} exceeds the protocol's limit of {self.buffer_size} exemplars. "
                f"Ask for at most {self.buffer_size}, or open another track: --set protocol.buffer_size={wanted}."
            )
        return self.buffer_size if wanted is None else wanted

    def granted_policy(self, wanted: AugmentationKind | None) -> AugmentationKind | None:
        """The policy of a strategy's views (`Batch.view`): its own, where the protocol grants one, or the protocol's.

        Ask in `setup`, so that what is not granted is refused before anything runs.

        Raises:
            UsageError: for a policy that is not granted, or that these inputs cannot have.
        """
        return granted_policy(self.protocol, wanted, self.input_shape)


@dataclass(frozen=True)
class Quota:
    """So many exemplars for each class seen so far; called, it says how many these are."""

    per_class: int
    space: OutputSpace

    def __call__(self) -> int:
        """The number of exemplars, which grows as classes appear."""
        return self.per_class * len(self.space.seen)


class Strategy(nn.Module):
    """How a model learns from a stream; subclasses say so in `learn`.

    Hyper-parameters are typed keyword arguments of `__init__`, stored verbatim under the same name.

    Attributes:
        name: what the command line calls it.
        scenarios: those it can run in.
        targets: what it can learn, by name, where that is not everything; None: all.
        reference: the paper, or what it is.
        family: kind of method, by which readers filter: `replay`, `regularisation`, `architecture`, …
        needs: what it cannot do without (see `NEEDS`).
        off: the hyper-parameters at which it equals finetune, bit for bit; None where there are none.
        tuning: where `clarena tune` looks, by hyper-parameter, as `--space` has it: `{"strength": "0.1..1000:log"}`.
        carries: what it remembers from experience to experience, in words.
        exceptions: checks of the conformance kit it cannot meet, each with the reason; they are still run.
        context: what `setup` was given.
        model: backbone + head, for strategies that have one model.
    """

    name: ClassVar[str]
    scenarios: ClassVar[frozenset[str]] = frozenset({"class", "domain", "task"})
    targets: ClassVar[frozenset[str] | None] = None
    reference: ClassVar[str] = ""
    family: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    off: ClassVar[Mapping[str, Any] | None] = None
    tuning: ClassVar[Mapping[str, str]] = {}
    carries: ClassVar[str] = "the model"
    exceptions: ClassVar[Mapping[str, str]] = {}

    context: Context
    model: Model

    def setup(self, context: Context) -> None:
        """Start over: build everything from what the protocol grants. Called before anything else."""
        self.context = context
        self.model = context.model()

    def learn(self, experience: Experience) -> None:
        """Train on this experience's data, and nothing else."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it learns: define learn(experience).")

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Scores [batch, …, outputs] for inputs [batch, …]; changes nothing.

        Args:
            x: test inputs; of all experiences, mixed, where there is no task label.
            task: the task label of the whole call in the task scenario, else None.
        """
        with torch.no_grad(), evaluating(self):
            return self.model(x)  # type: ignore[no-any-return]

    def structure(self) -> Any:
        """What has come while it learned and is there no sooner, as plain data (see `clarena.toolbox.structure`).

        Modules that grow say so themselves, as heads do. By default: which `Frozen` copies of the model there are.
        """
        frozen = [(name, module) for name, module in self.named_modules() if isinstance(module, Frozen)]
        return {"copies": [name for name, module in frozen if module.module is not None]}

    def build(self, structure: Any) -> None:
        """Have this structure, before a state is loaded."""
        for name in structure["copies"]:
            cast(Frozen, self.get_submodule(name)).hold(self.model)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Parameters, registered buffers and extra state by name, and the structure into which they fit."""
        state = super().state_dict(*args, **kwargs)
        if not kwargs.get("prefix"):  # a part of a composite is within its structure
            state[STRUCTURE] = structure_of(self)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore a saved state into a strategy that was just set up: build what has grown, then load.

        Raises:
            StoreError: when the state is of an earlier version of CLArena.
            PluginError: where the structure cannot be built.
        """
        return super().load_state_dict(prepare(self, state_dict, self.context.device), strict, assign)


def is_reference(cls: type[Strategy]) -> bool:
    """Whether a strategy is a bound (it needs past data, or is plain finetune), shown apart and never ranked."""
    return bool(cls.needs & {"past_data", "all_data"}) or cls.off == {}
