"""DEN: dynamically expandable networks.

Yoon et al., "Lifelong learning with dynamically expandable networks", ICLR 2018. The first task is learned by

    min L(W; D_1) + μ Σ_l ‖W_l‖₁                                                            (2)

and each later one by algorithms 2 to 4, in this order. Selective retraining:

    min L(W_{L,t}; W_{1:L−1}, D_t) + μ ‖W_{L,t}‖₁                                           (3)
    S = units from which weights other than 0 lead to the task's outputs
    min L(W_S; W_{S^c}, D_t) + μ ‖W_S‖₂                                                     (4)

Expansion, if L_t > τ: k units join every layer, and

    min L(W^N; W^{t−1}, D_t) + μ ‖W^N‖₁ + γ Σ_g ‖W^N_g‖₂,   g = what enters one unit,        (5)

after which units whose group is 0 are removed. Split and duplication:

    min L(W^t; D_t) + λ ‖W^t − W^{t−1}‖₂²                                                   (6)

units with ρ_i = ‖w_i^t − w_i^{t−1}‖₂ > σ are copied, the original takes w_i^{t−1} again, and (6) is repeated. Every
unit is stamped with its task, and the inference for a task uses units stamped with it or earlier ones.

Differences from the paper:
1. Penalties with a kink (L1, groups) are proximal steps after each step of the optimiser, so zeros are exact. Their
   threshold is μ or γ times the optimiser's own rate for that weight: η under SGD, η / (√v̂ + ε) under Adam, so
   that (2) and (3) are minimised as printed under either. A group has the rate of its root mean square gradient.
   The authors' code subtracts a constant after each step of Adam. Biases are free of L1, but belong to their unit's
   group, so that what is removed gave exactly nothing.
2. A unit is a neuron or a channel. A weight between two units is a number or a kernel, or, behind a flattened
   image, one number for each position.
3. (3) starts at W_{L,t} = 0, so that few steps suffice. ‖W_S‖₂ of (4) is squared, over weights only. τ is compared
   with the mean loss over the whole experience.
4. The protocol's passes are shared out among (3), (4), (5), (6) and (6) again, counted in steps. Where nothing is
   expanded, the share of (5) goes to (6). Each begins with a fresh optimiser.
5. New units feed each other and the task's outputs; the paper leaves open whether they also feed older units.
6. (6) trains W_S alone: it would turn every 0 elsewhere into something small, and S into the whole network.
7. After a split the copy replaces the original in what came with this task, and is joined by 0 to older units, which
   go on using the original. ρ counts the bias too.
8. After the split only what came with the task is trained, for which (6) has no W^{t−1}: so no older unit ends a
   task further than σ from where it was.
9. Every task has an output for each of its classes and the cross-entropy over them; the paper's tasks are binary.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import ceil
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Batch, Context, Experience, Strategy, Updater, UsageError, evaluating
from clarena_native.strategies.architecture.den_network import GrowingNetwork, Part, Weights
from clarena_native.strategies.architecture.layered import PER_UNIT, at_labels, require_task, take_apart

Rates = dict[Tensor, Tensor]
"""By parameter, how far each of its entries goes per unit of gradient in a step."""

Share = Annotated[float, Field(ge=0)]


class DEN(Strategy):
    """Dynamically expandable networks: retrains units a task needs, adds those it lacks, splits those that drift."""

    name = "den"
    scenarios = frozenset({"task"})  # time stamps select the units by the task label
    targets = frozenset({"classes"})  # a task's outputs are one for each of its classes
    reference = "Yoon et al. 2018, Lifelong Learning with Dynamically Expandable Networks. arXiv:1708.01547"
    family = "architecture"
    needs = frozenset({"own_loop", "unclipped", "float32"})  # a proximal step is as long as the gradient's
    carries = "the network, with the task of each unit"

    def __init__(
        self,
        *,
        l1: Annotated[float, Field(ge=0, description="μ of (2), (3) and (5): strength of the L1 penalty.")] = 3e-4,
        l2: Annotated[float, Field(ge=0, description="μ of (4): strength of the squared L2 penalty.")] = 1e-4,
        group: Annotated[float, Field(ge=0, description="γ: strength of the penalty on each new unit's norm.")] = 1e-2,
        anchor: Annotated[float, Field(ge=0, description="λ: strength of the pull towards W^{t−1}.")] = 0.5,
        tau: Annotated[
            float,
            Field(description="τ: units are added where the mean loss is greater; a negative one always adds."),
        ] = 0.1,
        sigma: Annotated[float, Field(ge=0, description="σ: a unit that drifts further is split.")] = 0.02,
        units: Annotated[int, Field(ge=1, description="k: units that join every layer in an expansion.")] = 10,
        shares: Annotated[
            tuple[Share, Share, Share, Share, Share],
            Field(description="How the passes are shared among (3), (4), (5), (6), and (6) after the split."),
        ] = (0.1, 0.2, 0.1, 0.3, 0.3),
    ) -> None:
        super().__init__()
        self.l1 = l1
        self.l2 = l2
        self.group = group
        self.anchor = anchor
        self.tau = tau
        self.sigma = sigma
        self.units = units
        self.shares = shares

    def setup(self, context: Context) -> None:
        """Build the network; outputs come with their task.

        Raises:
            UsageError: for a backbone whose units cannot come and go, and for heads that are there from the start.
        """
        self.context = context
        if sum(self.shares) <= 0:
            raise UsageError(f"den.shares is {self.shares}. Give at least one phase a share above 0.")
        if context.space.full is not None:
            raise UsageError(
                "den makes the outputs of a task when the task begins, so it works with growing heads in the task "
                "scenario only. Set protocol.heads=growing and --scenario task."
            )
        needs = "den adds and removes units, so each must work by itself (normalisation mixes them: backbone.norm=none)"
        stack = take_apart(context.backbone(), context.input_shape, PER_UNIT, needs)
        if not all(map(is_plain, stack.weights)):
            raise UsageError(
                f"{needs}. The backbone {context.backbone().name!r} has a layer without a bias, or a convolution with "
                "groups or with padding other than zeros. Use --backbone mlp or cnn, or another strategy."
            )
        self.network = GrowingNetwork(stack)

    def learn(self, experience: Experience) -> None:
        """Algorithm 1."""
        learned = len(set(self.network.head.stamps))
        task = require_task("den", experience.task, range(learned, learned + 1))
        network, steps = self.network, Steps(experience, self.shares)
        before = [layer.copy() for layer in network.hidden]  # W^{t−1}
        with self.context.seeds.scope("init"):
            network.add_outputs(experience.classes, task)
        if learned == 0:
            self._train(steps, 5, task, network.whole(), proximal=self._shrink)  # (2)
            return
        with torch.no_grad():
            network.head.weight[network.outputs(task)] = 0
        self._train(steps, 1, task, network.outputs_only(task), proximal=self._shrink)  # (3)
        selected = network.subnetwork(task)
        self._train(steps, 2, task, selected, penalty=lambda: self.l2 * self._squares(selected))  # (4)
        if self._loss(experience, task) > self.tau:
            with self.context.seeds.scope("init"):
                network.expand(self.units, task)
            self._train(steps, 3, task, network.added(task), proximal=self._shrink_groups)  # (5)
            network.remove_silent(task)
        self._train(steps, 4, task, network.subnetwork(task), penalty=lambda: self._pull(before))  # (6)
        network.split(before, self.sigma, task)
        self._train(steps, 5, task, network.subnetwork(task, newest_only=True))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Scores [batch, outputs] by the units of the task and earlier ones; outputs of other tasks are 0.

        Raises:
            UsageError: when the task label is missing, or of a task not yet learned.
        """
        task = require_task("den", task, sorted(set(self.network.head.stamps)))
        with torch.no_grad(), evaluating(self):
            return self._scores(x, task)

    def _train(
        self,
        steps: "Steps",
        phase: int,
        task: int,
        parts: Sequence[Part],
        penalty: Callable[[], Tensor] | None = None,
        proximal: Callable[[Rates], None] | None = None,
    ) -> None:
        """Train some weights and no others, whatever momentum or weight decay would do to these."""
        trained = []
        for layer, part in zip(self.network.layers, parts):
            for tensor, mask in ((layer.weight, part.of_weight(layer.weight)), (layer.bias, part.bias)):
                tensor.requires_grad_(bool(mask.any()))
                if tensor.requires_grad:
                    trained.append((tensor, mask, tensor.detach().clone()))
        updater = self.context.updater([tensor for tensor, _, _ in trained], steps=steps.of(phase))
        self.network.train()

        def loss(part: Batch) -> Tensor:
            return self.context.target.loss(self._scores(part.x, task), part.y, part.mask)

        for number, batch in enumerate(steps.until(phase), 1):
            steps.meter.observe(updater.descend(batch, loss, penalty))
            with torch.no_grad():
                if proximal is not None:
                    proximal({tensor: step_sizes(updater, tensor, number) for tensor, _, _ in trained})
                for tensor, mask, before in trained:
                    tensor.copy_(torch.where(mask, tensor, before))
        updater.optimizer.zero_grad()

    def _scores(self, x: Tensor, task: int) -> Tensor:
        labels = self.network.labels[self.network.outputs(task)]
        return at_labels(self.network(x, task), labels, self.context.space.width)

    @torch.no_grad()
    def _loss(self, experience: Experience, task: int) -> float:
        """The mean loss over the experience."""
        with evaluating(self.network):
            losses = [
                self.context.target.loss(self._scores(batch.x, task), batch.y, batch.mask, reduction="sum")
                for batch in experience.scan()
            ]
        return float(torch.stack(losses).sum()) / len(experience)

    # --- penalties -------------------------------------------------------------------------------------------------

    def _shrink(self, rates: Rates) -> None:
        for layer in self.network.layers:
            if layer.weight in rates:
                layer.weight.copy_(soft_threshold(layer.weight, rates[layer.weight] * self.l1))

    def _shrink_groups(self, rates: Rates) -> None:
        self._shrink(rates)
        for layer in self.network.hidden:
            group, rate = (
                torch.cat([weight.flatten(1), bias[:, None]], 1)
                for weight, bias in ((layer.weight, layer.bias), (rates[layer.weight], rates[layer.bias]))
            )
            common = rate.pow(-2).mean(1, keepdim=True).rsqrt()  # that of the group's root mean square gradient
            group = block_soft_threshold(group, common * self.group)
            layer.weight.copy_(group[:, :-1].reshape(layer.weight.shape))
            layer.bias.copy_(group[:, -1])

    def _squares(self, parts: Sequence[Part]) -> Tensor:
        """‖W_S‖²."""
        weights = (layer.weight for layer in self.network.layers)
        return torch.stack([(w * part.of_weight(w)).square().sum() for w, part in zip(weights, parts)]).sum()

    def _pull(self, before: Sequence[Weights]) -> Tensor:
        """λ ‖W^t − W^{t−1}‖², over the units and inputs that there were."""
        drifts = [layer.change(then).square().sum() for layer, then in zip(self.network.hidden, before)]
        return self.anchor * torch.stack(drifts).sum()


def is_plain(module: nn.Linear | nn.Conv2d) -> bool:
    """Whether a unit of the layer is its weights from every unit below, a bias, and nothing else."""
    if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.padding_mode != "zeros"):
        return False
    return module.bias is not None


class Steps:
    """The batches of an experience, dealt out to one phase after another.

    Args:
        experience: whose budget is spent.
        shares: of each phase; only their proportions count.
    """

    def __init__(self, experience: Experience, shares: Sequence[float]) -> None:
        total = experience.passes_left * ceil(len(experience) / experience.protocol.batch_size)
        self._ends = [round(total * done / sum(shares)) for done in accumulate(shares)]
        self._batches = experience.batches()
        self.meter = experience.meter
        self._taken = 0

    def of(self, phase: int) -> int:
        """How many there will be up to the end of a phase, counted from 1."""
        return self._ends[phase - 1] - self._taken

    def until(self, phase: int) -> Iterator[Batch]:
        """The batches up to the end of a phase, counted from 1."""
        while self._taken < self._ends[phase - 1]:
            self._taken += 1
            yield next(self._batches)


def step_sizes(updater: Updater, tensor: nn.Parameter, steps: int) -> Tensor:
    """How far a step takes each entry of a parameter per unit of gradient: η under SGD, η / (√v̂ + ε) under Adam.

    `steps`: how many the optimiser has made, since its own count may lie on the device. η is that of the last one.
    """
    defaults, state = updater.optimizer.defaults, updater.optimizer.state[tensor]
    if "exp_avg_sq" not in state:
        return torch.full_like(tensor, updater.rate(tensor))
    second = state["exp_avg_sq"] / (1 - defaults["betas"][1] ** steps)
    return updater.rate(tensor) / (second.sqrt() + defaults["eps"])  # type: ignore[no-any-return]


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """The proximal operator of threshold · ‖x‖₁: every entry moves towards 0 by the threshold, and no further."""
    return x - x.clamp(-threshold, threshold)


def block_soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """The proximal operator of threshold · Σ ‖row‖₂: the norm of every row [rows, …] shrinks by it, to 0 at least."""
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > threshold, x * (1 - threshold / norm), 0.0)
