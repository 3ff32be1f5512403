"""PNN: progressive neural networks.

Rusu et al., "Progressive neural networks", 2016, equation 2: column k, for task k, has in layer i

    h_i^(k) = σ( W_i^(k) h_{i−1}^(k) + U_i^(k:<k) σ( V_i^(k:<k) α_{i−1}^(<k) h_{i−1}^(<k) ) )

where h^(<k) are the features of all older columns, which are frozen, α is a learned scalar for each of them, and V
reduces them to as many as h_{i−1}^(k) has; between convolutions V is a 1×1 convolution. The first layer sees the
input alone, and the scores are a layer like the others. Without adapters (`laterals=linear`) this is equation 1.

Differences from the paper:
1. Normalisation and pooling act on the sum in σ( … ), that is, after the laterals have been added.
2. Each column's optimiser starts anew, whatever the protocol says of its state: there is nothing to carry over.
3. The paper starts α at "a random small value"; here it is uniform in [0, 0.1].
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Backbone, Batch, Context, Experience, Freezable, Strategy, UsageError, evaluating
from clarena_native.strategies.architecture.layered import NORMS, PER_UNIT, Stack, at_labels, require_task, take_apart

SMALL = 0.1
"""The largest value at which an α starts."""


class PNN(Strategy):
    """Progressive neural networks: each task gets a new column, which reads the features of older, frozen ones."""

    name = "pnn"
    scenarios = frozenset({"task"})
    reference = "Rusu et al. 2016, Progressive Neural Networks. arXiv:1606.04671"
    family = "architecture"
    needs = frozenset({"own_loop", "float32"})
    carries = "a column with its laterals for each task"

    def __init__(
        self,
        *,
        laterals: Annotated[
            Literal["adapter", "linear"],
            Field(description="What joins columns: a layer with α and V before U (equation 2), or U alone (1)."),
        ] = "adapter",
    ) -> None:
        super().__init__()
        self.laterals = laterals

    def setup(self, context: Context) -> None:
        """Refuse at once what cannot work; the first column comes with the first task."""
        self.context = context
        self.columns = nn.ModuleList()
        if context.space.full is not None:
            raise UsageError(
                "pnn makes the outputs of a task when the task begins, so it works with growing heads in the task "
                "scenario only. Set protocol.heads=growing and --scenario task."
            )
        self._stack(context.backbone())

    def learn(self, experience: Experience) -> None:
        """Train a new column, then freeze it."""
        task = require_task("pnn", experience.task, range(len(self.columns), len(self.columns) + 1))
        column = self._column(torch.tensor(experience.classes))
        self.columns.append(column)
        updater = self.context.updater(column.parameters())
        self.train()

        def loss(part: Batch) -> Tensor:
            return self.context.target.loss(self._scores(part.x, task), part.y, part.mask)

        for batch in experience.batches():
            experience.meter.observe(updater.descend(batch, loss))
        column.freeze()

    def structure(self) -> list[list[int]]:
        """The labels of each column."""
        return [cast(Freezable, column).module.labels.tolist() for column in self.columns]  # type: ignore[operator]

    def build(self, structure: list[list[int]]) -> None:
        """Have a column for each task."""
        self.columns = nn.ModuleList()
        for labels in structure:
            self.columns.append(self._column(torch.tensor(labels)))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Scores [batch, outputs] of the task's column; outputs of other tasks are 0.

        Raises:
            UsageError: when the task label is missing, or of a task not yet learned.
        """
        task = require_task("pnn", task, range(len(self.columns)))
        with torch.no_grad(), evaluating(self):
            return self._scores(x, task)

    def _scores(self, x: Tensor, task: int) -> Tensor:
        older: list[list[Tensor]] = []
        for column in self.columns[: task + 1]:
            scores, inputs = column(x, older, self.context.space.width)
            older.append(inputs)
        return scores  # type: ignore[no-any-return]

    def _stack(self, backbone: Backbone) -> Stack:
        needs = "pnn joins every layer to the same layer of older columns"
        return take_apart(backbone, self.context.input_shape, (*PER_UNIT, *NORMS), needs)

    def _column(self, labels: Tensor) -> Freezable:
        backbone = self.context.backbone()
        stack, adapters = self._stack(backbone), self.laterals == "adapter"
        with self.context.seeds.scope("init"):
            column = Column(stack, labels, len(self.columns), adapters, backbone.start)
        return Freezable(column).to(self.context.device)


class Column(nn.Module):
    """A backbone and the head of one task, with laterals from older columns into all layers but the first.

    Args:
        stack: a fresh backbone, taken apart; it is handed over, not copied.
        labels: the task's outputs [task outputs].
        older: how many columns there are already.
        adapters: equation 2; else equation 1.
        start: gives linear layers that are added to a backbone their first values: the head, and the laterals.
    """

    labels: Tensor

    def __init__(
        self, stack: Stack, labels: Tensor, older: int, adapters: bool, start: Callable[[nn.Linear], None]
    ) -> None:
        super().__init__()
        head = nn.Linear(stack.features, len(labels))
        layers = [*stack.weights, head]
        self.stem = stack.stem
        self.layers = nn.ModuleList(layers)
        self.tails = nn.ModuleList([*stack.tails, nn.Identity()])
        self.laterals = nn.ModuleList(Lateral(layer, older, adapters) for layer in layers[1:] if older)
        self.register_buffer("labels", labels)
        for added in (head, *self.laterals.modules()):
            if isinstance(added, nn.Linear):
                start(added)

    def forward(self, x: Tensor, older: Sequence[Sequence[Tensor]], outputs: int) -> tuple[Tensor, list[Tensor]]:
        """Scores [batch, outputs], 0 but for the task's, and what each layer was given, h_{i−1}.

        Args:
            x: inputs [batch, *input_shape].
            older: for each older column, what its layers were given.
            outputs: how many there are in all.
        """
        h, inputs = self.stem(x), []
        for i, (layer, tail) in enumerate(zip(self.layers, self.tails)):
            inputs.append(h)
            total = layer(h)
            if i and older:
                total = total + self.laterals[i - 1]([column[i] for column in older])
            h = tail(total)
        return at_labels(h, self.labels, outputs), inputs


class Lateral(nn.Module):
    """What a layer is given by older columns: U σ(V α h), or U h without an adapter.

    U has the shape of the layer that it adds to and no bias; V has one, and as many units as one column feeds.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, older: int, adapter: bool) -> None:
        super().__init__()
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.alpha = nn.Parameter(SMALL * torch.rand(older)) if adapter else None
        self.V = _pointwise(layer, older * inputs, inputs) if adapter else None
        self.U = _without_bias(layer, inputs if adapter else older * inputs)

    def forward(self, h: Sequence[Tensor]) -> Tensor:
        """What is added [batch, units, …], from what the same layer of every older column is given."""
        if self.alpha is None or self.V is None:
            return self.U(torch.cat(list(h), 1))  # type: ignore[no-any-return]
        scaled = torch.cat([a * part for a, part in zip(self.alpha, h)], 1)
        return self.U(self.V(scaled).relu())  # type: ignore[no-any-return]


def _pointwise(layer: nn.Linear | nn.Conv2d, inputs: int, units: int) -> nn.Module:
    """A new layer of the same kind that sees one position at a time."""
    return nn.Linear(inputs, units) if isinstance(layer, nn.Linear) else nn.Conv2d(inputs, units, kernel_size=1)


def _without_bias(layer: nn.Linear | nn.Conv2d, inputs: int) -> nn.Module:
    """A new layer with the same units and kernel, fed by `inputs` units."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, layer.out_features, bias=False)
    return nn.Conv2d(
        inputs,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=False,
        padding_mode=layer.padding_mode,
    )
