"""Small networks in float64 for per-sample gradients: those whose layers can be read off, and those that fall back."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N, OUTPUTS = 9, 5


def double(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64, with every parameter and statistic away from its tidy initial value."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.data = tensor.data + 0.3 * noise
    return model


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Residual(nn.Module):
    """Layer norms over one and two dimensions, and a linear layer on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.norm2 = nn.Linear(4, 6), nn.LayerNorm(6), nn.LayerNorm((3, 6))
        self.head = nn.Linear(18, OUTPUTS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.tokens(x))
        return self.head((x + self.norm2(x.tanh())).flatten(1))


class Twice(nn.Module):
    """A layer called twice, between layers called once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.middle(self.first(x).tanh()).tanh()))


class Tied(Twice):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 8)
        self.second.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.middle(self.first(x).tanh()).tanh()))


class Functional(Twice):
    """A layer that is called once, and whose weight is used once more behind its back."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.middle(self.first(x).tanh())
        return self.last(F.linear(hidden.tanh(), self.middle.weight))


class Discarded(Twice):
    """A layer that is called, but enters the scores through its parameters alone."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        self.middle(hidden)
        return self.last(F.linear(hidden, self.middle.weight, self.middle.bias))


class TimeFirst(Twice):
    """A layer that sees [time, n, features]: with time = n, its first dimension looks like the batch."""

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.stack([x * t for t in range(1, N + 1)])
        return self.last(self.middle(self.first(steps).tanh()).mean(0))


class Generated(nn.Module):
    """A hypernetwork with as many rows as there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(data(N, 3))
        self.make = nn.Linear(3, 6)
        self.head = nn.Linear(N, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ self.make(self.embedding).tanh().T)


class Tokens(nn.Module):
    """A small language model: scores [n, time, OUTPUTS] of integer tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.embedding(x)).cumsum(1).tanh())


class Scaled(nn.Module):
    """A parameter owned by no layer, and layers that do not lead to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.unused, self.dropped = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.dropped(x).detach()) * self.scale)


class Routed(Twice):
    """Each sample takes one of two ways, which no batched transformation can follow."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        return self.last(torch.stack([self.middle(row) if row.sum() > 0 else row for row in hidden]))


class Noisy(nn.Module):
    """Draws random numbers in eval mode, too, and makes nothing of them."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * torch.rand_like(x)


def frozen_first(model: nn.Sequential) -> nn.Sequential:
    model[0].requires_grad_(False)
    return model


def hooked(model: nn.Linear) -> nn.Linear:
    model.register_forward_hook(lambda module, args, output: output * 3)
    return model


READ_OFF = {
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5)), (6,)),
    "in place": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 5)), (6,)),
    "sequences": (Residual, (3, 4)),
    "cnn, group norm, stride, groups": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
            nn.ReLU(),
            nn.Conv2d(6, 6, 2, dilation=2, groups=6),
            *[nn.Flatten(), nn.Linear(6 * 2 * 3, 5)],
        ),
        (2, 7, 6),
    ),
    "cnn, batch norm, dropout": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(27),
            nn.Linear(27, 5),
        ),
        (1, 5, 5),
    ),
    "frozen": (lambda: frozen_first(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))), (6,)),
}  # fmt: skip
FALL_BACK = {
    "called twice": (Twice, (6,)),
    "shared": (Tied, (6,)),
    "functional": (Functional, (6,)),
    "discarded": (Discarded, (6,)),
    "time first": (TimeFirst, (6,)),
    "routed": (Routed, (6,)),
    "hypernetwork": (Generated, (6,)),
    "own parameter": (Scaled, (6,)),
    "other layers": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding="same"), nn.PReLU(),
            nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(50, 5),
        ),
        (1, 5, 5),
    ),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), hooked(nn.Linear(8, 5))
        ),
        (6,),
    ),
}  # fmt: skip


def made(case: str) -> tuple[nn.Module, Tensor]:
    build, shape = {**READ_OFF, **FALL_BACK}[case]
    torch.manual_seed(0)
    return double(build()), data(N, *shape)
