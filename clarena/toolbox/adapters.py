"""What may be added to a network that stays as it is: low-rank terms of its weights, and bottlenecks behind its blocks.

They are modules of their own, which a strategy holds: in its state they have their own names, and the network's
parameters keep theirs, and their bits. They act inside `with lora.on(network):` alone, and leave nothing behind.

What adds 0 changes no bit of what the network gives. (Torch chooses its kernels by which tensors take gradients, and
they round differently: compare where none is taken, as in predictions, or where the same weights take one.)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clarena.errors import UsageError
from clarena.toolbox.attention import around

QUERY, KEY, VALUE, OUTPUT, OTHER = "query", "key", "value", "output", "other"
ROLES = (QUERY, KEY, VALUE, OUTPUT, OTHER)
"""What a weight does in a network: in attention it makes queries, keys, values or the output; or something else."""

_TOGETHER = {"qkv", "c_attn"}
_APART = {
    **dict.fromkeys(("query", "q_proj", "q_lin"), QUERY),
    **dict.fromkeys(("key", "k_proj", "k_lin"), KEY),
    **dict.fromkeys(("value", "v_proj", "v_lin"), VALUE),
}
_OUT = {"proj", "c_proj", "o_proj", "out_proj", "out_lin"}
_SECOND = {"norm2", "ln_2", "post_attention_layernorm"}
"""What a block calls the norm before its feed-forward half."""


@dataclass(frozen=True)
class Weight:
    """The rows of a matrix [out, in] in a network, all of which do the same.

    Attributes:
        name: of the parameter, as the network's `state_dict` has it.
        rows: the first, and the one behind the last; of a matrix that makes queries, keys and values a third.
        shape: of the whole parameter.
        role: one of `ROLES`.
    """

    name: str
    rows: tuple[int, int]
    shape: tuple[int, int]
    role: str

    def placed(self, term: Tensor) -> Tensor:
        """A term for these rows [rows, in] as one for the whole parameter [out, in], 0 elsewhere."""
        start, stop = self.rows
        return F.pad(term, (0, 0, start, self.shape[0] - stop))


def weights(network: nn.Module) -> list[Weight]:
    """The matrices of all linear layers of a network, in order, and what they do in its attention."""
    return list(_weights(network, ""))


def _weights(module: nn.Module, prefix: str) -> Iterator[Weight]:
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        yield from _thirds(f"{prefix}in_proj_weight", module.in_proj_weight)
        yield _whole(f"{prefix}out_proj.weight", module.out_proj.weight, OUTPUT)
        return
    attention = bool(module._modules.keys() & (_TOGETHER | _APART.keys()))
    for name, child in module.named_children():
        where = f"{prefix}{name}.weight"
        if not isinstance(child, nn.Linear):
            yield from _weights(child, f"{prefix}{name}.")
        elif name in _TOGETHER and child.out_features == 3 * child.in_features:
            yield from _thirds(where, child.weight)
        else:
            yield _whole(where, child.weight, _APART.get(name) or (OUTPUT if attention and name in _OUT else OTHER))


def _whole(name: str, weight: Tensor, role: str) -> Weight:
    rows, columns = weight.shape
    return Weight(name, (0, rows), (rows, columns), role)


def _thirds(name: str, weight: Tensor) -> Iterator[Weight]:
    rows, columns = weight.shape
    for place, role in enumerate((QUERY, KEY, VALUE)):
        yield Weight(name, (place * rows // 3, (place + 1) * rows // 3), (rows, columns), role)


@contextmanager
def added(network: nn.Module, terms: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, these weights of a network have something added to them; gradients reach both.

    So a term acts wherever the weight does, also where no layer is called for it, as in torch's fused attention.
    """
    before = []
    try:
        for name, term in terms.items():
            owner, _, leaf = name.rpartition(".")
            module = network.get_submodule(owner)
            held: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
            before.append((held, leaf, held[leaf]))
            held[leaf] = held[leaf] + term
        yield
    finally:
        for held, leaf, weight in reversed(before):
            held[leaf] = weight


@contextmanager
def observed(network: nn.Module, on: Iterable[Weight]) -> Iterator[dict[str, Tensor]]:
    """Inside, what these weights of a network were last multiplied by [batch, …, in], by the weights' names.

    Raises:
        UsageError: for the output of torch's own attention, whose input nobody is shown.
    """
    inputs: dict[str, Tensor] = {}
    hooks = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            inputs[name] = (args[0] if args else next(iter(kwargs.values()))).detach()

        return hook

    try:
        for name in dict.fromkeys(weight.name for weight in on):
            owner, _, leaf = name.rpartition(".")
            parent, _, _ = owner.rpartition(".")
            if leaf == "weight" and isinstance(network.get_submodule(parent), nn.MultiheadAttention):
                raise UsageError(f"Nobody is shown what {name} is multiplied by: torch computes it within attention.")
            hooks.append(network.get_submodule(owner).register_forward_pre_hook(note(name), with_kwargs=True))
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


class Branches(nn.Module):
    """What is added, in branches: one for each experience, say. Growing freezes the older ones and adds another."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList()

    def make(self) -> nn.Module:
        """A new branch, drawn from torch's generator."""
        raise NotImplementedError

    def grow(self) -> None:
        """Freeze the branches there are, and add another; call it within `context.seeds.scope("init")`."""
        self.branches.requires_grad_(False)
        self.branches.append(self.make())

    def structure(self) -> int:
        """How many branches there are."""
        return len(self.branches)

    def build(self, structure: int) -> None:
        """Have as many branches."""
        while len(self.branches) < structure:
            self.grow()

    def chosen(self, only: Sequence[int] | None) -> list[Any]:
        """All branches, or those of these numbers."""
        return list(self.branches) if only is None else [self.branches[number] for number in only]


class LowRank(nn.Module):
    """A pair of matrices for each weight: A [rank, in], drawn as a linear layer's, and B [out, rank], which is 0."""

    def __init__(self, on: Sequence[Weight], rank: int, like: Tensor) -> None:
        super().__init__()
        self.down = nn.ParameterList(like.new_empty(rank, weight.shape[1]) for weight in on)
        self.up = nn.ParameterList(like.new_zeros(weight.rows[1] - weight.rows[0], rank) for weight in on)
        for a in self.down if rank else ():  # on the CPU, so that every device has the same
            a.data.copy_(nn.init.kaiming_uniform_(torch.empty(a.shape, dtype=a.dtype), a=5**0.5))


class Lora(Branches):
    """Low-rank terms of a network's weights, W + s Σ_j B_j A_j over its branches j.

    Where B = 0, as in a new branch, and at rank 0 they add 0. Old branches stay in the sum, frozen.

    Source: Hu et al. 2022, LoRA: Low-rank adaptation of large language models, where s is α / rank.

    Attributes:
        on_weights: which these are, in order; pairs of a branch are in the same.
        rank: of each term.
        scale: s.
    """

    like: Tensor

    def __init__(self, on: Sequence[Weight], rank: int, scale: float, like: Tensor) -> None:
        """`like`: a tensor of the type and on the device that its own are to have."""
        super().__init__()
        self.on_weights, self.rank, self.scale = list(on), rank, scale
        self.register_buffer("like", like.new_empty(0), persistent=False)
        self.grow()

    def make(self) -> LowRank:
        """A new pair for each weight, whose product is 0."""
        return LowRank(self.on_weights, self.rank, self.like)

    def terms(self, only: Sequence[int] | None = None) -> dict[str, Tensor]:
        """What is added to each weight [out, in], by its name; `only` the branches of these numbers."""
        found: dict[str, Tensor] = {}
        for branch in self.chosen(only) if self.rank else ():
            for weight, a, b in zip(self.on_weights, branch.down, branch.up):
                term = weight.placed(self.scale * (b @ a))
                found[weight.name] = found[weight.name] + term if weight.name in found else term
        return found

    @contextmanager
    def on(self, network: nn.Module, only: Sequence[int] | None = None) -> Iterator[None]:
        """Inside, the network's weights have the terms added; `only` those of these branches."""
        with added(network, self.terms(only)):
            yield


class Bottleneck(nn.Module):
    """Features through a narrow layer: up(relu(down(x))), with an up-projection that begins at 0."""

    def __init__(self, width: int, size: int, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Linear(width, size, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(size, width, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] of the same."""
        return self.up(torch.relu(self.down(x)))  # type: ignore[no-any-return]


class Adapters(Branches):
    """A bottleneck at each block of a network: its output y becomes y + s Σ_j up_j(relu(down_j(·))) over branches j.

    What goes into it is y (`after`; Houlsby et al. 2019, one for each block as in Pfeiffer et al. 2021), or what goes
    into the norm before the block's feed-forward half (`beside` it; AdaptFormer of Chen et al. 2022). Where the
    up-projection is 0, as in a new branch, and at size 0 it adds 0.

    Attributes:
        blocks: their names in the network.
        width: features of a token.
        size: of the bottleneck.
        scale: s.
    """

    like: Tensor

    def __init__(
        self,
        blocks: Sequence[str],
        width: int,
        size: int,
        scale: float,
        place: Literal["after", "beside"],
        like: Tensor,
    ) -> None:
        super().__init__()
        self.blocks, self.width, self.size, self.scale, self.place = list(blocks), width, size, scale, place
        self.register_buffer("like", like.new_empty(0), persistent=False)
        self.grow()

    def make(self) -> nn.ModuleList:
        """A new bottleneck for each block, which adds 0."""
        number = len(self.blocks) if self.size else 0
        return nn.ModuleList(Bottleneck(self.width, self.size, self.like) for _ in range(number))

    @contextmanager
    def on(self, network: nn.Module, only: Sequence[int] | None = None) -> Iterator[None]:
        """Inside, the network's blocks have their bottlenecks; `only` those of these branches."""
        with ExitStack() as stack:
            for number, name in enumerate(self.blocks if self.size else ()):
                block = network.get_submodule(name)
                between: list[Tensor] = []
                if self.place == "beside":
                    norm = second_norm(block)
                    assert norm is not None
                    stack.callback(norm.register_forward_pre_hook(_keeper(between)).remove)
                bottlenecks = [branch[number] for branch in self.chosen(only)]
                stack.enter_context(around(block, self._call(bottlenecks, between)))
            yield

    def _call(self, bottlenecks: Sequence[nn.Module], between: list[Tensor]) -> Any:
        def call(forward: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            y = output[0] if isinstance(output, tuple) else output
            x = y if self.place == "after" else between.pop()
            for bottleneck in bottlenecks:
                y = y + self.scale * bottleneck(x)
            return (y, *output[1:]) if isinstance(output, tuple) else y

        return call


def _keeper(kept: list[Tensor]) -> Any:
    """A hook that keeps what a module is given. (It is a hook, so that torch's fused layers give way to it.)"""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept[:] = args[:1]

    return hook


def second_norm(block: nn.Module) -> nn.Module | None:
    """The norm before the feed-forward half of a block; None where norms come after the halves, or have other names."""
    if not getattr(block, "norm_first", True):
        return None
    return next((part for name, part in block.named_children() if name in _SECOND), None)


def lora(network: nn.Module, name: str, *, rank: int, on: Sequence[str] = (QUERY, VALUE), scale: float = 1.0) -> Lora:
    """Low-rank terms for the weights of a network that have one of these roles; `all` stands for every role.

    Raises:
        UsageError: for a negative rank, and where the network has no such weights.
    """
    _require_size("rank", rank)
    every = weights(network)
    roles = [role for role in ROLES if any(weight.role == role for weight in every)]
    wanted = set(roles) if tuple(on) == ("all",) else set(on)
    if absent := sorted(wanted - set(roles)) or (["linear layers"] if not wanted else []):
        there = f"It has: {', '.join(roles)}; all stands for all of them" if roles else "It has no linear layers at all"
        raise UsageError(f"{name} has no {' and no '.join(absent)} to which LoRA could be added. {there}.")
    chosen = [weight for weight in every if weight.role in wanted]
    return Lora(chosen, rank, scale, _like(network, chosen[0].name))


def adapters(
    network: nn.Module,
    name: str,
    blocks: Sequence[str],
    width: int,
    *,
    bottleneck: int,
    scale: float = 1.0,
    place: Literal["after", "beside"] = "after",
) -> Adapters:
    """Bottlenecks at these blocks of a network.

    Raises:
        UsageError: for a negative size, another place, and blocks that have none beside their feed-forward half.
    """
    _require_size("bottleneck", bottleneck)
    if place not in ("after", "beside"):
        raise UsageError(f"An adapter of {name} stands after a block or beside its feed-forward half, not {place!r}.")
    if place == "beside" and None in [second_norm(network.get_submodule(block)) for block in blocks]:
        raise UsageError(
            f"The blocks of {name} have no norm before a feed-forward half. Let adapters stand after them."
        )
    return Adapters(blocks, width, bottleneck, scale, place, next(network.parameters()))


def _require_size(what: str, size: int) -> None:
    if size < 0:
        raise UsageError(f"The {what} of an adapter is {size}. Choose 0, which adds nothing, or more.")


def _like(network: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    found: Tensor = getattr(network.get_submodule(owner), leaf)
    return found
