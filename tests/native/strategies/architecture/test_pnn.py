"""PNN: P1 to P7, on MLPs and CNNs, under an optimiser that moves whatever is not truly frozen."""

import copy
import pickle
from typing import Any

import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp, Norm
from clarena_native.strategies.architecture.pnn import PNN
from torch import Tensor, nn

from clarena import Backbone, Freezable, UsageError
from clarena.checks import TinyStream
from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.run.realisation import CellClasses, Realisation
from clarena.testing import parametrize_with_checks

NORMS: list[Norm] = ["none", "batch", "group", "layer"]
MLP: dict[str, Any] = {"hidden": (6, 5), "dropout": 0.2}
CNN: dict[str, Any] = {"widths": (4, 8), "features": 6}


def realised(backbone: type[Backbone], options: dict[str, Any], **protocol: Any) -> Realisation:
    """Three tasks of 3, 1 and 2 classes on 4×4 images, with momentum and weight decay."""
    settings = {"epochs": 2, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.02, "momentum": 0.9}
    track = Track(
        benchmark=NamedPart(name="tiny-stream"),
        scenario="task",
        backbone=NamedPart(name=backbone.name, options=options),
        protocol=Protocol(**(settings | {"weight_decay": 0.1} | protocol)),
    )
    return Realisation(track, CellClasses(PNN, TinyStream, backbone), 0, torch.device("cpu"))


def learn(place: Realisation, strategy: PNN, tasks: int) -> PNN:
    while len(strategy.columns) < tasks:
        position = [len(strategy.columns)]
        place.begin(position)
        strategy.learn(place.experience(position))
    return strategy


def learned(backbone: type[Backbone] = Mlp, options: dict[str, Any] = MLP, tasks: int = 3, **laterals: Any) -> PNN:
    place = realised(backbone, options)
    strategy = PNN(**laterals)
    place.set_up(strategy)
    return learn(place, strategy, tasks)


def column(strategy: PNN, task: int) -> nn.Module:
    frozen = strategy.columns[task]
    assert isinstance(frozen, Freezable)
    assert frozen.frozen
    return frozen.module


X = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(3))


@parametrize_with_checks([PNN])
def test_conformance(check: Any) -> None:
    check()


@parametrize_with_checks([PNN], backbone=Cnn, options={"norm": "batch", "widths": [4], "features": 16})
def test_conformance_on_images_with_batch_norm(check: Any) -> None:
    if check.name != "restart":  # it starts a process
        check()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("backbone", "options"), [(Mlp, MLP), (Cnn, CNN)])
def test_p1_older_scores_and_columns_never_change(backbone: Any, options: Any, norm: Norm, optimizer: Any) -> None:
    place = realised(backbone, options | {"norm": norm}, optimizer=optimizer)
    strategy = PNN()
    place.set_up(strategy)
    scores: list[Tensor] = []
    states: list[dict[str, Tensor]] = []
    for task in range(3):
        learn(place, strategy, task + 1)
        strategy.train()  # nobody's business but the newest column's
        for old in range(task):
            width = scores[old].shape[1]
            assert torch.equal(strategy.predict(X, old)[:, :width], scores[old])
            now = strategy.columns[old].state_dict()
            assert all(torch.equal(now[key], states[old][key]) for key in states[old])
        scores.append(strategy.predict(X, task))
        states.append(copy.deepcopy(dict(strategy.columns[task].state_dict())))


def test_p2_forgetting_is_exactly_zero() -> None:
    place = realised(Mlp, MLP)
    strategy = PNN()
    place.set_up(strategy)
    rows = []
    for task in range(3):
        learn(place, strategy, task + 1)
        rows.append(place.test.answers(strategy, place.space)["predicted"])
        for old in range(task + 1):
            own = place.test.experience == old
            assert (rows[-1][own] == rows[old][own]).all()
            assert (rows[-1][own] >= 0).all()


@pytest.mark.parametrize("laterals", ["adapter", "linear"])
@pytest.mark.parametrize(("backbone", "options"), [(Mlp, MLP), (Cnn, CNN)])
def test_p3_laterals_are_alive_and_zero_makes_a_column_stand_alone(backbone: Any, options: Any, laterals: Any) -> None:
    strategy = learned(backbone, options, tasks=2, laterals=laterals)
    newest = column(strategy, 1)
    before = strategy.predict(X, 1)
    assert len(newest.laterals) == len(newest.layers) - 1  # every later layer, and the head
    for lateral in newest.laterals:
        kept = lateral.U.weight.detach().clone()
        torch.nn.init.normal_(lateral.U.weight)
        assert not torch.allclose(strategy.predict(X, 1), before)
        with torch.no_grad():
            lateral.U.weight.copy_(kept)
    for lateral in newest.laterals:
        torch.nn.init.zeros_(lateral.U.weight)
    h = newest.stem(X)
    with torch.no_grad():
        for layer, tail in zip(newest.layers, newest.tails):
            h = tail.eval()(layer(h))
    assert torch.equal(strategy.predict(X, 1)[:, newest.labels], h)


def test_p4_equation_2_on_an_mlp() -> None:
    strategy = learned().double()
    x = X.double()
    with torch.no_grad():
        features: list[list[Tensor]] = []  # of each column, the inputs of layers 2, 3 and of the head
        for k in range(3):
            own = column(strategy, k)
            h = x.flatten(1)
            inputs = []
            for i, layer in enumerate(own.layers):
                z = h @ layer.weight.T + layer.bias
                if i and k:
                    lateral = own.laterals[i - 1]
                    v = sum(
                        lateral.alpha[j] * features[j][i - 1] @ block.T
                        for j, block in enumerate(lateral.V.weight.chunk(k, 1))
                    )
                    z = z + (v + lateral.V.bias).clamp(min=0) @ lateral.U.weight.T
                h = z.clamp(min=0) if i + 1 < len(own.layers) else z
                inputs.append(h)
            features.append(inputs[:-1])
            expected = torch.zeros(len(x), 6, dtype=torch.float64)
            expected[:, own.labels] = h
            torch.testing.assert_close(strategy.predict(x, k), expected, rtol=0, atol=1e-10)


def test_p4_equation_1_on_a_cnn() -> None:
    strategy = learned(Cnn, CNN, tasks=2, laterals="linear").double()
    first, second = column(strategy, 0), column(strategy, 1)

    def pool(z: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(z.clamp(min=0), 2)

    def convolve(weight: Tensor, h: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.nn.functional.conv2d(h, weight, bias, padding=1)

    a, b = X.double(), X.double()
    with torch.no_grad():
        for i in range(2):
            lateral = convolve(second.laterals[i - 1].U.weight, a) if i else 0
            b = pool(convolve(second.layers[i].weight, b, second.layers[i].bias) + lateral)
            a = pool(convolve(first.layers[i].weight, a, first.layers[i].bias))
        a, b = a.flatten(1), b.flatten(1)
        for i in (2, 3):
            b = b @ second.layers[i].weight.T + second.layers[i].bias + a @ second.laterals[i - 1].U.weight.T
            a = a @ first.layers[i].weight.T + first.layers[i].bias
            a, b = (a.clamp(min=0), b.clamp(min=0)) if i == 2 else (a, b)
    torch.testing.assert_close(strategy.predict(X.double(), 1)[:, second.labels], b, rtol=0, atol=1e-10)


def test_p5_parameters_of_three_columns() -> None:
    sizes, outputs = [16, 6, 5], [3, 1, 2]
    expected = 0
    for k, own in enumerate(outputs):
        layers = list(zip(sizes, [*sizes[1:], own]))
        expected += sum(n * m + m for n, m in layers)
        if k:  # α, V with a bias, U without one, into all layers but the first
            expected += sum(k + (k * n * n + n) + n * m for n, m in layers[1:])
    assert sum(p.numel() for p in learned().parameters()) == expected


def test_p6_nothing_old_has_a_gradient() -> None:
    place = realised(Mlp, MLP)
    strategy = PNN()
    place.set_up(strategy)
    learn(place, strategy, 2)
    place.begin([2])
    experience = place.experience([2])
    watched: list[bool] = []
    experience.on_step = lambda step: watched.append(
        all(p.grad is None and not p.requires_grad for frozen in strategy.columns[:2] for p in frozen.parameters())
        and all(p.requires_grad for p in strategy.columns[2].parameters())
    )
    strategy.learn(experience)
    assert watched
    assert all(watched)


@pytest.mark.parametrize("task", [None, 2, -1])
def test_p7_a_missing_or_unknown_task_is_refused(task: int | None) -> None:
    with pytest.raises(UsageError, match=r"needs the task label|does not know task .* 0, 1"):
        learned(tasks=2).predict(X, task)


def test_columns_are_drawn_anew_and_small_alphas_differ() -> None:
    strategy = PNN()
    place = realised(Mlp, MLP)
    place.set_up(strategy)
    first = strategy._column(torch.tensor([0])).module
    again = strategy._column(torch.tensor([0])).module
    assert not torch.equal(first.layers[0].weight, again.layers[0].weight)
    state = torch.get_rng_state()
    strategy._column(torch.tensor([0]))
    assert torch.equal(state, torch.get_rng_state())
    alpha = column(learned(tasks=3), 2).laterals[0].alpha
    assert len(alpha.unique()) == 2


@pytest.mark.parametrize("laterals", ["adapter", "linear"])
def test_a_restored_copied_or_pickled_strategy_goes_on_alike(laterals: Any) -> None:
    place = realised(Cnn, CNN | {"norm": "batch"}, optimizer="adam")
    strategy = PNN(laterals=laterals)
    place.set_up(strategy)
    learn(place, strategy, 2)
    state = copy.deepcopy(strategy.state_dict())
    deep, pickled = copy.deepcopy((place, strategy)), pickle.loads(pickle.dumps((place, strategy)))
    end = learn(place, strategy, 3).predict(X, 2)
    for other_place, other in (deep, pickled):
        assert torch.equal(learn(other_place, other, 3).predict(X, 2), end)
    fresh_place, fresh = realised(Cnn, CNN | {"norm": "batch"}, optimizer="adam"), PNN(laterals=laterals)
    fresh_place.set_up(fresh)
    fresh_place.begin([0])
    fresh_place.begin([1])
    fresh.load_state_dict(state)
    assert not any(p.requires_grad for p in fresh.parameters())
    assert torch.equal(learn(fresh_place, fresh, 3).predict(X, 2), end)


class Residual(Backbone):
    """A layer with a path around it."""

    name = "residual"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 16
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + self.layers(x)


class Recurrent(Residual):
    """A layer of a kind that has no lateral."""

    name = "recurrent"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.LSTM(16, 16))


class Bare(Residual):
    """No layers at all."""

    name = "bare"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        self.layers = nn.ReLU()


@pytest.mark.parametrize(
    ("backbone", "why"),
    [(Residual, "does more than call"), (Recurrent, "hold LSTM"), (Bare, "no `layers`")],
)
def test_other_backbones_are_refused_with_the_remedy(backbone: Any, why: str) -> None:
    with pytest.raises(UsageError, match=rf"pnn .*{why}.* Use --backbone mlp or cnn"):
        realised(backbone, {}).set_up(PNN())


def test_full_heads_are_refused() -> None:
    with pytest.raises(UsageError, match=r"pnn .*heads=growing"):
        realised(Mlp, MLP, heads="full", stream_length="known").set_up(PNN())


@pytest.mark.parametrize("laterals", ["adapter", "linear"])
def test_what_is_added_to_a_backbone_starts_as_it_says(laterals: str) -> None:
    class Marked(Mlp):
        @staticmethod
        def start(layer: nn.Linear) -> None:
            nn.init.constant_(layer.weight, 0.5)

    place = realised(Marked, MLP)
    strategy = PNN(laterals=laterals)  # type: ignore[arg-type]
    place.set_up(strategy)
    learn(place, strategy, 1)
    place.begin([1])
    fresh = strategy._column(torch.tensor([3])).module
    weights = [layer.weight for layer in fresh.laterals.modules() if isinstance(layer, nn.Linear)]
    assert len(weights) == (4 if laterals == "adapter" else 2)
    assert all(bool((weight == 0.5).all()) for weight in [*weights, fresh.layers[-1].weight])
    assert not any(bool((layer.weight == 0.5).all()) for layer in list(fresh.layers)[:-1])
