"""The network of DEN: units with time stamps that are selected, added, removed, split, and left out for older tasks."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clarena_native.strategies.architecture.layered import Stack


class Part(NamedTuple):
    """Which weights of a layer are meant: those that join some inputs to some units, and some biases.

    Attributes:
        units: bool [units].
        inputs: bool [inputs].
        bias: bool [units].
    """

    units: Tensor
    inputs: Tensor
    bias: Tensor

    def of_weight(self, weight: Tensor) -> Tensor:
        """Which entries of a weight [units, inputs, …] are meant: bool, to be broadcast."""
        both = self.units[:, None] & self.inputs
        return both.reshape(*both.shape, *[1] * (weight.ndim - 2))


class Weights(NamedTuple):
    """A layer's weights as they were: [units, inputs, …] and [units]."""

    weight: Tensor
    bias: Tensor


class GrowingLayer(nn.Module):
    """A linear or convolutional layer whose units and inputs can be added and removed.

    A unit is a neuron or a channel. The weight is kept as [units, inputs, …], so that `weight[j, i]` is all that
    joins unit i below to unit j: a kernel, or one number for each position of a channel that was flattened.

    Args:
        weight, bias: copied.
        convolve: the convolution with its geometry; None for a linear layer.

    Attributes:
        stamp: the task with which each unit came [units], ascending.
        stamps: the same on the host, which looks them up in every step and would wait for the device.
    """

    stamp: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, convolve: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
        self.register_buffer("stamp", torch.zeros(len(weight), dtype=torch.long, device=weight.device))
        self.stamps = [0] * len(weight)
        self.convolve = convolve

    def forward(self, x: Tensor, units: slice, inputs: int) -> Tensor:
        """What some units make of the first `inputs` inputs; x is [batch, inputs · positions], or an image."""
        # Contiguous, so that the sums are the same to the last bit, however many units have come since.
        weight, bias = self.weight[units, :inputs].contiguous(), self.bias[units]
        return F.linear(x, weight.flatten(1), bias) if self.convolve is None else self.convolve(x, weight, bias)

    def count(self, task: int) -> int:
        """How many units there were after this task."""
        return bisect_right(self.stamps, task)

    def connected(self) -> Tensor:
        """Whether any weight from input i to unit j is not 0: bool [units, inputs]."""
        return (self.weight != 0).flatten(2).any(2)

    def copy(self) -> Weights:
        """The weights as they are now."""
        return Weights(self.weight.detach().clone(), self.bias.detach().clone())

    def fresh(self, units: int) -> Weights:
        """Initial weights of new units, uniform as torch draws them, on the CPU."""
        shape = self.weight.shape[1:]
        bound = shape.numel() ** -0.5
        weight, bias = ((2 * torch.rand(units, *rest) - 1) * bound for rest in (shape, ()))
        return Weights(weight.to(self.weight), bias.to(self.bias))

    def add_units(self, weight: Tensor, bias: Tensor, task: int) -> None:
        """Append units that come with this task."""
        stamp = torch.full_like(bias, task, dtype=torch.long)
        self._set(torch.cat([self.weight, weight]), torch.cat([self.bias, bias]), torch.cat([self.stamp, stamp]))

    def add_inputs(self, weight: Tensor) -> None:
        """Append inputs, joined to the units by these weights [units, new inputs, …]."""
        self._set(torch.cat([self.weight, weight], 1), self.bias, self.stamp)

    def keep_units(self, kept: Tensor) -> None:
        """Remove all other units; `kept` is bool [units]."""
        self._set(self.weight[kept], self.bias[kept], self.stamp[kept])

    def keep_inputs(self, kept: Tensor) -> None:
        """Remove all other inputs; `kept` is bool [inputs]."""
        self._set(self.weight[:, kept], self.bias, self.stamp)

    def change(self, before: Weights) -> Tensor:
        """w_i − w_i before, for the units, weights and biases that there were: [units of then, weights of each + 1]."""
        units, inputs = before.weight.shape[:2]
        weight = (self.weight[:units, :inputs] - before.weight).flatten(1)
        return torch.cat([weight, (self.bias[:units] - before.bias)[:, None]], 1)

    def revert(self, units: Tensor, before: Weights) -> None:
        """Give some units (indices) the weights of before; inputs that have come since count for nothing."""
        self.weight[units] = 0
        self.weight[units, : before.weight.shape[1]] = before.weight[units]
        self.bias[units] = before.bias[units]

    def _set(self, weight: Tensor, bias: Tensor, stamp: Tensor) -> None:
        self.weight, self.bias, self.stamp = nn.Parameter(weight.detach()), nn.Parameter(bias.detach()), stamp
        self.stamps = stamp.tolist()

    def structure(self) -> dict[str, Any]:
        """The task of each unit, and the number of inputs."""
        return {"stamps": self.stamps, "inputs": self.weight.shape[1]}

    def build(self, structure: dict[str, Any]) -> None:
        """Have as many units and inputs."""
        units, rest = len(structure["stamps"]), self.weight.shape[2:]
        weight = self.weight.new_zeros(units, structure["inputs"], *rest)
        self._set(weight, self.bias.new_zeros(units), self.stamp.new_tensor(structure["stamps"]))


class GrowingNetwork(nn.Module):
    """Layers of units with time stamps, the last of them with the outputs of every task.

    For a task, only units take part that were there when it was learned: its scores do not depend on later ones.

    Attributes:
        hidden: layers of units.
        head: the outputs, one stretch for each task.
        labels: the label of each output [outputs].
    """

    hidden: Sequence[GrowingLayer]
    labels: Tensor

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        device = stack.weights[0].weight.device
        units = stack.weights[0].weight.shape[1]
        layers = []
        for module in stack.weights:
            layers.append(_growing(module, units))
            units = len(module.weight)
        nothing = torch.zeros(0, units, stack.features // units, device=device)
        self.stem = stack.stem
        self.hidden = nn.ModuleList(layers)  # type: ignore[assignment]
        self.tails = nn.ModuleList(stack.tails)
        self.head = GrowingLayer(nothing, nothing[:, 0, 0])
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long, device=device))

    @property
    def layers(self) -> list[GrowingLayer]:
        """All layers, the head last."""
        return [*self.hidden, self.head]

    def outputs(self, task: int) -> slice:
        """The outputs of a task."""
        return slice(self.head.count(task - 1), self.head.count(task))

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Scores [batch, outputs of the task], by the units that were there when it was learned."""
        h, inputs = self.stem(x), self.hidden[0].weight.shape[1]
        for layer, tail in zip(self.hidden, self.tails):
            units = slice(0, layer.count(task))
            h = tail(layer(h, units, inputs))
            inputs = units.stop
        return self.head(h, self.outputs(task), inputs)  # type: ignore[no-any-return]

    # --- which weights are trained ---------------------------------------------------------------------------------

    def whole(self) -> list[Part]:
        """All weights."""
        return [
            Part(_all(layer.bias), _all(layer.weight[0].flatten(1)[:, 0]), _all(layer.bias)) for layer in self.layers
        ]

    def outputs_only(self, task: int) -> list[Part]:
        """W_{L,t}: the weights into the task's outputs."""
        *hidden, head = self.whole()
        own = self.head.stamp == task
        return [*(Part(~p.units, p.inputs, ~p.bias) for p in hidden), Part(own, head.inputs, own)]

    def reachable(self, task: int) -> list[Tensor]:
        """From which units a path of weights that are not 0 leads to the task's outputs: bool [units] per layer.

        This is S of algorithm 2. The inputs come first, the outputs themselves last.
        """
        reached = [self.head.stamp == task]
        for layer in reversed(self.layers):
            reached.insert(0, layer.connected()[reached[0]].any(0))
        return reached

    def subnetwork(self, task: int, newest_only: bool = False) -> list[Part]:
        """W_S: the weights between units of S, and their biases; or those into units that came with this task."""
        reached = self.reachable(task)
        entered = reached[1:]
        if newest_only:
            entered = [units & (layer.stamp == task) for units, layer in zip(entered, self.layers)]
        return [Part(units, inputs, units) for inputs, units in zip(reached, entered)]

    def added(self, task: int) -> list[Part]:
        """W^N: the weights into units that came with this task, and those from them to its outputs."""
        *hidden, head = self.whole()
        new = [layer.stamp == task for layer in self.hidden]
        return [
            *(Part(n, p.inputs, n) for n, p in zip(new, hidden)),
            Part(self.head.stamp == task, new[-1], ~head.bias),
        ]

    # --- growth ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add_outputs(self, labels: Sequence[int], task: int) -> None:
        """Add the outputs of a task."""
        self.head.add_units(*self.head.fresh(len(labels)), task)
        self.labels = torch.cat([self.labels, torch.tensor(labels, device=self.labels.device)])

    @torch.no_grad()
    def expand(self, units: int, task: int) -> None:
        """Add units to every hidden layer; they feed the task's outputs and one another, not older units."""
        added = 0
        for layer in self.layers:
            if added:
                own = (layer.stamp == task).nonzero().flatten()  # of the head; there are none in other layers yet
                layer.add_inputs(layer.weight.new_zeros(len(layer.weight), added, *layer.weight.shape[2:]))
                layer.weight[own, -added:] = layer.fresh(len(own)).weight[:, -added:]
            if layer is not self.head:
                layer.add_units(*layer.fresh(units), task)
                added = units

    @torch.no_grad()
    def remove_silent(self, task: int) -> int:
        """Remove the task's units whose weights and bias are all 0, from the bottom up; returns how many."""
        removed = 0
        for layer, above in zip(self.layers, self.layers[1:]):
            kept = (layer.stamp != task) | layer.connected().any(1) | (layer.bias != 0)
            layer.keep_units(kept)
            above.keep_inputs(kept)
            removed += int((~kept).sum())
        return removed

    @torch.no_grad()
    def split(self, before: Sequence[Weights], threshold: float, task: int) -> list[Tensor]:
        """Algorithm 4: copy each unit that drifted further than `threshold`, and revert the original.

        The copy comes with this task. It feeds what came with this task in the place of the original, which in turn
        goes on feeding older units as before.

        Args:
            before: of the hidden layers, W^{t−1}.

        Returns:
            The units (indices) that were split in each hidden layer.
        """
        split = [
            (layer.change(then).norm(dim=1) > threshold).nonzero().flatten() for layer, then in zip(self.hidden, before)
        ]
        for layer, then, units in zip(self.hidden, before, split):
            layer.add_units(layer.weight[units], layer.bias[units], task)
            layer.revert(units, then)
        for layer, units in zip(self.layers[1:], split):
            own = layer.stamp == task
            taken_over = layer.weight[:, units]
            taken_over[~own] = 0
            layer.weight[own.nonzero(), units] = 0
            layer.add_inputs(taken_over)
        return split


def _growing(module: nn.Linear | nn.Conv2d, inputs: int) -> GrowingLayer:
    """The layer, fed by `inputs` units."""
    assert module.bias is not None
    if isinstance(module, nn.Linear):
        return GrowingLayer(module.weight.reshape(len(module.weight), inputs, -1), module.bias)
    geometry = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    return GrowingLayer(module.weight, module.bias, partial(F.conv2d, **geometry))


def _all(like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool)
