"""Exact statistics of per-sample gradients, a batch at a time: the engine of EWC's Fisher and of MAS.

The square (or absolute value) is taken sample by sample, *before* the sum: the square of a batch's mean
gradient is another quantity, about 1/n of it. A sample's gradient of a linear layer is the outer product of
its output gradient g and its input a, so that Σ_n (g_n ⊗ a_n)² = (g²)ᵀ(a²): one matrix product, and no
per-sample gradient is ever stored. Samples must not influence each other's scores.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from clarena.errors import DataError, UsageError, unknown_name
from clarena.toolbox.categorical import FisherKind, categorical_directions, outputs_in_play
from clarena.toolbox.modules import BatchNorm, evaluating
from clarena.toolbox.together import count, cut, device_of, each, part

Batches = Iterable[tuple[Tensor, Tensor | None, Tensor | None]]
"""`(x, y, mask)`: inputs [n, …], labels, outputs in play (bool, [outputs] or [n, outputs]; None = all)."""

Directions = Callable[[Tensor], Iterable[Tensor]]
"""From scores [n, …, outputs] to tensors of that shape, each the gradient of an objective by the scores."""

LikelihoodDirections = Callable[[Tensor, Tensor | None, Tensor | None, FisherKind, torch.Generator], Iterable[Tensor]]
"""From scores, labels, mask, kind and generator to directions v with Σ v vᵀ = E_y[g gᵀ], g = ∂ ln p(y|x) / ∂scores."""

_LabelledDirections = Callable[..., Iterable[Tensor]]  # of scores, and of y= and mask=
_Named = dict[str, nn.Parameter]
_Totals = dict[nn.Parameter, Tensor]

_CHUNK = 2**22  # numbers held at a time where per-sample gradients cannot be avoided

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm)
_LAYERS = (nn.Linear, nn.Conv2d, *_NORMS)


def fisher_diagonal(
    model: nn.Module,
    batches: Batches,
    *,
    kind: FisherKind = "exact",
    generator: torch.Generator | None = None,
    likelihood: LikelihoodDirections = categorical_directions,
) -> list[Tensor]:
    """Diagonal of the Fisher information at the model's parameters, averaged over all samples.

    `exact`: F_i = E_x E_{y ~ p(·|x)} (∂ log p(y|x) / ∂θ_i)²; `sample`: one y ~ p(·|x); `empirical`: the true y.
    The likelihood is that of classes, a softmax over the outputs in play, or another. For scores
    [n, time, outputs] a sample is the whole sequence, its log p the sum over the positions whose label is not -100,
    and `sample` draws each label given the sequence's true past. The empirical Fisher is NaN where a label's output
    is not in play: log p is -inf.

    Args:
        model: maps x [n, …] to scores; left as it is, and evaluated in eval mode.
        batches: how they are cut does not matter. `y` is used by `empirical`, and by sequences.
        kind: which expectation over labels.
        generator: on the CPU, draws the labels of `sample`; None = a fresh one with PyTorch's default seed.
        likelihood: of what is asked: `context.target.directions`.

    Returns:
        one tensor per trainable parameter, in the order of `model.parameters()`.

    Raises:
        UsageError: an unknown kind; `exact` for sequences; a BatchNorm layer without running statistics.
        DataError: no samples, or no labels where they are needed.

    Source: Kirkpatrick et al., PNAS 2017, eq. 3; Martens, JMLR 2020, for the difference between the kinds.
    """
    if kind not in get_args(FisherKind):
        raise unknown_name("kind of Fisher information", kind, get_args(FisherKind))
    draws = generator or torch.Generator()

    def directions(scores: Tensor, y: Tensor | None, mask: Tensor | None) -> Iterable[Tensor]:
        return likelihood(scores, y, mask, kind, draws)

    return _mean(model, batches, directions, power=2)


def output_norm_sensitivity(
    model: nn.Module, batches: Batches, counted: Callable[[Tensor], Tensor | None] = lambda y: None
) -> list[Tensor]:
    """MAS's importance: the mean over samples of |∂ ‖scores in play‖² / ∂θ|; what labels are plays no part.

    Arguments, result and errors are those of `fisher_diagonal`.

    Args:
        counted: which positions of labels y count, bool [n, …], such as `target.counted`; None: all. Others have no
            part in the norm: there a sequence has ended.

    Source: Aljundi et al., ECCV 2018, eq. 2-3.
    """

    def directions(scores: Tensor, y: Tensor | None, mask: Tensor | None) -> Iterator[Tensor]:
        part = None if y is None else counted(y)
        in_play = outputs_in_play(scores, mask)
        yield 2 * scores.where(in_play if part is None else in_play & part[..., None], 0)

    return _mean(model, batches, directions, power=1)


def accumulate_per_sample(
    model: nn.Module, x: Tensor, directions: Directions, *, power: Literal[1, 2] = 2
) -> list[Tensor]:
    """Σ over samples n and directions v of |∂⟨v_n, scores_n⟩ / ∂θ|^power, for each trainable parameter θ.

    An objective s_n of the scores is given by its gradient v_n = ∂s_n / ∂scores_n, which by the chain rule is
    all that matters; a weight w_n >= 0 of its term is a factor w_n^(1/power) of v_n.

    Linear, Conv2d, LayerNorm, GroupNorm and BatchNorm layers are read off one forward pass and one backward
    pass per direction. A parameter used in any other way (in another kind of layer, in a layer called twice,
    shared, as an argument of a function, on rows that are not samples) is found in the autograd graph and
    goes through `torch.func`, or one sample at a time where that fails: as exact, but slower.

    Nothing changes: parameters, `.grad`, buffers, training flags and streams of random numbers stay.

    Returns:
        one tensor per trainable parameter, in the order of `model.parameters()`; zero where it has no effect.

    Raises:
        UsageError: a BatchNorm layer without running statistics, in which samples influence each other.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    totals = {p: torch.zeros_like(p, requires_grad=False) for p in parameters.values()}
    with _undisturbed(model, device_of(x)):
        alone = _forward(model, part(x, slice(1)))[1]
        scores, calls = _forward(model, x)
        uses, nodes = _graph(scores)
        layers = [
            call
            for module, call in calls.items()
            # A first dimension of 1 for one sample and of n for n samples is the batch, whatever the layout.
            if module in alone and len(alone[module].x) == 1 and len(call.x) == count(x)
            # This call leads to the scores, and its parameters have no other use.
            if call.edge.node in nodes and all(uses[p] == 1 for p in call.parameters)
        ]
        read_off = {p for layer in layers for p in layer.parameters}
        others = {name: p for name, p in parameters.items() if uses[p] and p not in read_off}
        for direction in directions(scores.detach()):
            if layers:
                edges = [layer.edge for layer in layers]
                gradients = torch.autograd.grad(scores, edges, direction, retain_graph=True)
                for layer, g in zip(layers, gradients):
                    layer.add(g, power, totals)
            if others:
                _add_others(model, others, x, direction, power, totals)
        for layer in layers:
            layer.finish(power, totals)
    return list(totals.values())


class _Call:
    """One call of a layer that can be read off: its input, and its output's place in the autograd graph."""

    def __init__(self, module: Any, x: Tensor, output: Tensor) -> None:
        self.module = module
        self.x = x.detach()
        self.edge = get_gradient_edge(output)  # of this value, even if it is changed in place later
        owned = (module.weight, module.bias)
        self.parameters = [p for p in owned if isinstance(p, nn.Parameter) and p.requires_grad]
        self._rows: Tensor | None = None  # Σ_v |g|^power, [n, out]

    def add(self, g: Tensor, power: int, totals: _Totals) -> None:
        """Add one direction, given the gradient of the layer's output."""
        g = _columns(self.module, g)  # [n, out, positions]
        for p in self.parameters:
            if p is self.module.bias:
                summed = g[:, :, 0] if g.shape[2] == 1 else g.sum(2)  # the same; the former copies nothing
                totals[p] += _power(summed, power).sum(0).view_as(p)
            elif isinstance(self.module, _NORMS):
                unit = _columns(self.module, _normalised(self.module, self.x))
                totals[p] += _power((g * unit).sum(2), power).sum(0).view_as(p)
            elif isinstance(self.module, nn.Linear) and g.shape[2] == 1:
                rows = _power(g[:, :, 0], power)
                self._rows = rows if self._rows is None else self._rows.add_(rows)
            else:
                _add_products(self.module, self.x, g, power, totals[p])

    def finish(self, power: int, totals: _Totals) -> None:
        """Multiply by the inputs what was summed over directions: Σ_n (Σ_v |g_n|^power) ⊗ |a_n|^power."""
        if self._rows is not None:
            inputs = _power(_columns(self.module, self.x)[:, :, 0], power)  # [n, in]
            totals[self.module.weight].addmm_(self._rows.T, inputs)


def _power(gradient: Tensor, power: int) -> Tensor:
    return gradient.abs() if power == 1 else gradient.square()


def _columns(module: Any, t: Tensor) -> Tensor:
    """An input or output of the layer as [n, channels, positions]."""
    if isinstance(module, nn.Linear):
        return t.reshape(len(t), -1, t.shape[-1]).mT
    if isinstance(module, nn.LayerNorm):
        return t.reshape(len(t), -1, prod(module.normalized_shape)).mT
    return t.reshape(len(t), t.shape[1], -1)


def _normalised(module: Any, x: Tensor) -> Tensor:
    """What a norm layer, in eval mode, multiplies by its weight."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, eps=module.eps)
    return F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)


def _add_products(module: Any, x: Tensor, g: Tensor, power: int, total: Tensor) -> None:
    """Add to `total` what a weight shared by positions collects, some samples at a time.

    A sample's gradient is Σ_positions g ⊗ a; `g` is [n, out, positions], `x` the layer's input.
    """
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    fan_in = total[0].numel()
    size = max(1, _CHUNK // max(total.numel(), groups * fan_in * g.shape[2]))
    for inputs, outputs in zip(torch.split(x, size), torch.split(g, size)):
        if isinstance(module, nn.Conv2d):
            padding = cast(tuple[int, int], module.padding)
            a = F.unfold(inputs, module.kernel_size, module.dilation, padding, module.stride)
        else:
            a = _columns(module, inputs)
        a = a.reshape(len(inputs) * groups, fan_in, -1)
        products = outputs.reshape(len(a), -1, g.shape[2]) @ a.mT  # [n * groups, out / groups, fan_in]
        total += _power(products, power).view(len(inputs), *total.shape).sum(0)


def _add_others(
    model: nn.Module, parameters: _Named, x: Tensor, direction: Tensor, power: int, totals: _Totals
) -> None:
    """Add the statistics of any parameters whatever, from per-sample gradients, some samples at a time."""

    def objective(values: dict[str, Tensor], x: Tensor, direction: Tensor) -> Tensor:
        scores: Tensor = functional_call(model, values, (each(lambda column: column[None], x),))
        return (scores[0] * direction).sum()

    per_sample = vmap(grad(objective), in_dims=(None, 0, 0))
    values = {name: p.detach() for name, p in parameters.items()}
    size = max(1, _CHUNK // sum(p.numel() for p in values.values()))
    for xs, vs in zip(cut(x, size), torch.split(direction, size)):
        try:
            # No graph around the one that `grad` makes; of the ways to attend, the one that vmap knows; and no word of
            # operators that it takes one by one.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")
                found = per_sample(values, xs, vs)
        except RuntimeError:  # vmap knows no recurrent layers and no custom autograd functions: one by one
            owned = list(parameters.values())
            pairs = zip(cut(xs, 1), torch.split(vs, 1))
            rows = [torch.autograd.grad(model(a), owned, v, materialize_grads=True) for a, v in pairs]
            # Detached, because older releases of torch (2.4) let the zeros of `materialize_grads` take gradients.
            found = {name: torch.stack(row).detach() for name, row in zip(parameters, zip(*rows))}
        for name, gradient in found.items():
            totals[parameters[name]] += _power(gradient, power).sum(0)


def _forward(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[nn.Module, _Call]]:
    """The scores, and the last call of each layer that may be read off."""
    calls: dict[nn.Module, _Call] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        x = args[0] if args else kwargs["input"]
        if output.requires_grad and (x.dim() == 4 or not isinstance(module, nn.Conv2d)):
            calls[module] = _Call(module, x, output)

    handles = [
        module.register_forward_hook(record, prepend=True, with_kwargs=True)
        for module in model.modules()
        if _is_known(module)
    ]
    try:
        return model(x), calls
    finally:
        for handle in handles:
            handle.remove()


def _is_known(module: nn.Module) -> bool:
    """Whether the layer computes what its class says, and `_Call` knows how its parameters enter."""
    if type(module) not in _LAYERS or "forward" in vars(module):
        return False
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return False
    return any(p.requires_grad for p in module.parameters(recurse=False))


def _graph(scores: Tensor) -> tuple[Counter[Tensor], set[Node]]:
    """How often each parameter enters the computation of the scores, and the nodes of that computation."""
    uses: Counter[Tensor] = Counter()
    nodes: set[Node] = set()
    ahead = [scores.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        for source, _ in node.next_functions:
            if source is not None and source.name().endswith("AccumulateGrad"):
                uses[cast(Any, source).variable] += 1
            else:
                ahead.append(source)
    return uses, nodes


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Differentiate the model in eval mode, then give back every module's own mode and the random numbers."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise UsageError(
                f"Per-sample gradients do not exist: layer {name!r} normalises by the batch even in eval "
                "mode, so samples influence each other. Use track_running_stats=True, or GroupNorm."
            )
    with evaluating(model), torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        yield


def _mean(model: nn.Module, batches: Batches, directions: _LabelledDirections, *, power: Literal[1, 2]) -> list[Tensor]:
    """The mean over samples of what `accumulate_per_sample` sums; `directions` also takes y and mask."""
    totals = [torch.zeros_like(p, requires_grad=False) for p in model.parameters() if p.requires_grad]
    samples = 0
    for x, y, mask in batches:
        sums = accumulate_per_sample(model, x, partial(directions, y=y, mask=mask), power=power)
        for total, added in zip(totals, sums):
            total += added
        samples += count(x)
    if not samples:
        raise DataError("Importances cannot be estimated from no samples. Pass at least one batch.")
    return [total / samples for total in totals]
