"""DEN: N1 to N10, each phase against an independent oracle, with momentum and weight decay configured throughout."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.strategies.architecture.den import DEN, Steps, block_soft_threshold, soft_threshold, step_sizes
from clarena_native.strategies.architecture.den_network import GrowingNetwork
from torch import Tensor, nn

from clarena import Backbone, Updater, UsageError
from clarena.checks import TinyStream
from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.run.realisation import CellClasses, Realisation
from clarena.testing import parametrize_with_checks
from clarena.toolbox.states import differing

MLP: dict[str, Any] = {"hidden": (8, 7)}
CNN: dict[str, Any] = {"widths": (4, 5), "features": 6}
BACKBONES = [(Mlp, MLP), (Cnn, CNN)]
X = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(3))


def realised(backbone: type[Backbone] = Mlp, options: dict[str, Any] = MLP, **protocol: Any) -> Realisation:
    """Three tasks of 3, 1 and 2 classes on 4×4 images, with momentum and weight decay."""
    settings = {"epochs": 10, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9}
    track = Track(
        benchmark=NamedPart(name="tiny-stream"),
        scenario="task",
        backbone=NamedPart(name=backbone.name, options=options),
        protocol=Protocol(**(settings | {"weight_decay": 0.01} | protocol)),
    )
    return Realisation(track, CellClasses(DEN, TinyStream, backbone), 0, torch.device("cpu"))


class Recorder(DEN):
    """DEN that tells what the network was like before and after each phase."""

    def _train(self, steps: Any, phase: int, task: int, parts: Any, penalty: Any = None, proximal: Any = None) -> None:
        before = copy.deepcopy(self.network)
        super()._train(steps, phase, task, parts, penalty, proximal)
        self.phases.append((before, parts, copy.deepcopy(self.network)))

    def learn(self, experience: Any) -> None:
        self.phases: list[tuple[GrowingNetwork, Any, GrowingNetwork]] = []
        super().learn(experience)


def learned(tasks: int, place: Realisation | None = None, **hyperparameters: Any) -> Recorder:
    place = place or realised()
    strategy = Recorder(**({"l1": 0.01, "group": 0.01, "units": 3} | hyperparameters))
    place.set_up(strategy)
    return go_on(place, strategy, tasks)


def go_on(place: Realisation, strategy: Any, tasks: int) -> Any:
    while (task := len(strategy.network.head.stamp.unique())) < tasks:
        place.begin([task])
        strategy.learn(place.experience([task]))
    return strategy


def same(a: Tensor, b: Tensor, where: Tensor | slice = slice(None)) -> bool:
    return torch.equal(a[where], b[where])


def unchanged_outside(before: GrowingNetwork, parts: Any, after: GrowingNetwork) -> bool:
    """Whether all that a phase was not to train is as it was, to the bit; also: that something was trained."""
    moved = False
    for old, part, new in zip(before.layers, parts, after.layers):
        for then, now, mask in (
            (old.weight, new.weight, part.of_weight(old.weight).expand_as(old.weight)),
            (old.bias, new.bias, part.bias),
        ):
            if not same(then, now, ~mask):
                return False
            moved |= not same(then, now)
    return moved


@parametrize_with_checks([DEN])
def test_conformance(check: Any) -> None:
    check()


@parametrize_with_checks([DEN], backbone=Cnn, options={"widths": [4], "features": 16})
def test_conformance_on_images(check: Any) -> None:
    if check.name != "restart":  # it starts a process
        check()


# --- N1: the first task ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_n1_the_first_task_is_proximal_gradient_descent(backbone: Any, options: Any) -> None:
    rate, l1 = 0.05, 0.05
    place = realised(backbone, options, momentum=0.0, weight_decay=0.0, learning_rate=rate)
    start = DEN()
    place.set_up(start)
    model = start.context.backbone()  # the modules to be filled with what DEN starts from
    strategy = Recorder(l1=l1)
    place.set_up(strategy)
    place.begin([0])
    strategy.learn(place.experience([0]))
    first = strategy.phases[0][0]

    layers = [m for m in model.layers if hasattr(m, "weight")] + [head := nn.Linear(model.features, 3)]
    for module, layer in zip(layers, first.layers):
        module.weight.data = layer.weight.detach().reshape(module.weight.shape).clone()
        module.bias.data = layer.bias.detach().clone()
    place.seeds.start(0)
    experience = place.experience([0])
    for batch in experience.batches():
        loss = nn.functional.cross_entropy(head(model(batch.x))[:, :3], batch.y)
        parameters = [p for m in layers for p in (m.weight, m.bias)]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.data -= rate * g
            if p.ndim > 1:
                p.data = torch.sign(p.data) * torch.relu(p.data.abs() - rate * l1)
    zeros = 0
    for module, layer in zip(layers, strategy.network.layers):
        torch.testing.assert_close(layer.weight.reshape(module.weight.shape), module.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer.bias, module.bias, rtol=0, atol=1e-6)
        zeros += int((layer.weight == 0).sum())
    assert zeros > 20


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_n1_any_optimiser_reaches_the_minimum_with_exact_zeros(kind: Any) -> None:
    """Of Σ aᵢ (wᵢ − bᵢ)² / 2 + μ ‖w‖₁ the minimum is wᵢ = sign(bᵢ) max(|bᵢ| − μ / aᵢ, 0)."""
    a, b, l1 = torch.tensor([1.0, 4.0, 0.1, 2.0, 1.0]), torch.tensor([1.0, -0.5, 1.0, 0.1, -0.2]), 0.3
    w = nn.Parameter(torch.ones(5))
    updater = updating(kind, w, 0.01)
    for steps in range(1, 4001):
        w.grad = (a * (w - b)).detach()
        updater.step()
        w.data = soft_threshold(w.data, l1 * step_sizes(updater, w, steps))
    torch.testing.assert_close(w.detach(), torch.tensor([0.7, -0.425, 0, 0, 0]), rtol=0, atol=1e-3)
    assert (w[2:] == 0).all()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_n1_zeros_are_exact_under_adam_too(optimizer: Any) -> None:
    network = learned(1, realised(optimizer=optimizer, learning_rate=0.01), l1=0.002).network
    shares = [float((layer.weight == 0).float().mean()) for layer in network.layers]
    assert all(0.05 < share < 1 for share in shares[:-1])


def updating(kind: Any, p: nn.Parameter, rate: float) -> Updater:
    return Updater([p], lambda groups, lr: kind(groups, lr=lr), Protocol(), rate, None)


def test_step_sizes_of_adam() -> None:
    """One step of Adam on a gradient g goes lr · g / (|g| + ε)."""
    p = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    updater = updating(torch.optim.Adam, p, 0.1)
    g = torch.tensor([0.5, -2.0, 0.0])
    p.grad = g.clone()
    updater.step()
    torch.testing.assert_close(step_sizes(updater, p, 1) * g, 1 - p.detach())
    p.grad = 3 * g
    updater.step()
    mean_square = (0.999 * 0.001 * g**2 + 0.001 * (3 * g) ** 2) / (1 - 0.999**2)
    torch.testing.assert_close(step_sizes(updater, p, 2), 0.1 / (mean_square.sqrt() + 1e-8))
    assert step_sizes(updating(torch.optim.SGD, p, 0.3), p, 1).tolist() == pytest.approx([0.3] * 3)


# --- N2 to N4: selective retraining ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_n2_n4_n6_each_phase_moves_its_own_weights_and_no_others(backbone: Any, options: Any) -> None:
    strategy = learned(3, realised(backbone, options), tau=-1.0, sigma=0.01)
    outputs, selected, added, drift, after_split = strategy.phases
    assert all(unchanged_outside(*phase) for phase in (outputs, selected, added, drift, after_split))
    for old, new in zip(outputs[0].hidden, outputs[2].hidden):  # N2: (3) trains the last layer only
        assert same(old.weight, new.weight)
        assert same(old.bias, new.bias)
    older = outputs[0].head.stamp < 2
    for before, _, after in strategy.phases:  # outputs of older tasks never move
        inputs = before.head.weight.shape[1]
        assert torch.equal(before.head.weight[older], after.head.weight[older][:, :inputs])
        assert same(before.head.bias, after.head.bias, older)
    for old, grown in zip(selected[2].layers, added[2].layers):  # N6: expansion leaves what was there
        units, inputs = old.weight.shape[:2]
        assert torch.equal(old.weight, grown.weight[:units, :inputs])
        assert torch.equal(old.bias, grown.bias[:units])
    for layer in added[2].hidden[1:]:  # new units do not feed older ones
        assert (layer.weight[layer.stamp < 2][:, -3:] == 0).all()


# --- N5 and N6: expansion --------------------------------------------------------------------------------------------


def test_n5_no_expansion_above_the_loss() -> None:
    network = learned(3, tau=float("inf"), sigma=float("inf")).network
    assert [len(layer.bias) for layer in network.hidden] == [8, 7]


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
@pytest.mark.parametrize("group", [0.0, 0.3, 30.0])
def test_n5_expansion_keeps_units_with_a_group_and_removes_the_others(
    backbone: Any, options: Any, group: float
) -> None:
    strategy = learned(3, realised(backbone, options), tau=-1.0, sigma=float("inf"), group=group)
    trained, kept = strategy.phases[2][2], strategy.phases[3][0]
    for layer, smaller in zip(trained.hidden, kept.hidden):
        new = layer.stamp == 2
        silent = (layer.weight.flatten(1) == 0).all(1) & (layer.bias == 0)
        assert int(new.sum()) == 3
        survivors = (smaller.weight.flatten(1) != 0).any(1) | (smaller.bias != 0)
        added = int((smaller.stamp == 2).sum())
        assert 0 <= added <= 3
        assert survivors[smaller.stamp == 2].all()
        assert added <= int((new & ~silent).sum())
        if group == 0.0:
            assert added == 3
        if group == 30.0:
            assert added == 0
    # What was removed gave exactly nothing.
    torch.testing.assert_close(kept(X, 2), trained(X, 2), rtol=0, atol=1e-6)


# --- N7: split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.3])
def test_n7_no_older_unit_ends_further_than_sigma_from_where_it_was(sigma: float) -> None:
    place = realised()
    strategy = learned(2, place, tau=float("inf"), sigma=float("inf"))
    assert [layer.stamp.tolist() for layer in strategy.network.hidden] == [[0] * 8, [0] * 7]  # no split at infinity
    strategy.sigma = sigma
    before = [layer.copy() for layer in strategy.network.hidden]
    go_on(place, strategy, 3)
    moved = 0
    for layer, then in zip(strategy.network.hidden, before):
        units, inputs = then.weight.shape[:2]
        weight = (layer.weight[:units, :inputs] - then.weight).flatten(1)
        bias = layer.bias[:units] - then.bias
        rho = (weight.square().sum(1) + bias.square()).sqrt()
        assert (rho <= sigma).all()
        moved += int((rho > 0).sum())
    assert (moved > 0) == (sigma > 0)
    split = sum(int((layer.stamp == 2).sum()) for layer in strategy.network.hidden)
    assert (split > 0) == (sigma < 0.3)


# --- N8 and N9: time stamps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_n8_later_units_have_no_part_in_older_tasks(backbone: Any, options: Any) -> None:
    strategy = learned(3, realised(backbone, options), tau=-1.0, sigma=0.02)
    network = strategy.network
    assert all(layer.stamp.unique().tolist() == [0, 1, 2] for layer in network.hidden[:1])
    before = [strategy.predict(X, task) for task in range(3)]
    for task in (1, 0):
        with torch.no_grad():
            for below, layer in zip([None, *network.hidden], network.layers):
                layer.weight[layer.stamp > task] = torch.nan
                layer.bias[layer.stamp > task] = torch.nan
                if below is not None:
                    layer.weight[:, below.stamp > task] = torch.nan
        for older in range(task + 1):
            assert torch.equal(strategy.predict(X, older)[:, : before[older].shape[1]], before[older])
        assert strategy.predict(X, task + 1).isnan().any()


def test_n9_stamps_are_in_order_and_count_the_units() -> None:
    place = realised()
    strategy = learned(1, place, tau=-1.0, sigma=0.02, group=0.0)
    sizes = []
    for tasks in range(1, 4):
        go_on(place, strategy, tasks)
        network = strategy.network
        sizes.append([len(layer.bias) for layer in network.hidden])
        for layer in network.layers:
            assert (layer.stamp.diff() >= 0).all()
            assert len(layer.stamp) == len(layer.weight) == len(layer.bias)
        for below, layer in zip(network.hidden, network.layers[1:]):
            assert layer.weight.shape[1] == len(below.bias)
        for task in range(tasks):
            assert [layer.count(task) for layer in network.hidden] == sizes[task]
    assert sizes[0] == [8, 7]
    assert all(now >= then + 3 for then, now in zip(sizes[1], sizes[2]))


# --- N10: proximal operators -----------------------------------------------------------------------------------------


def test_n10_proximal_operators_against_the_formulas() -> None:
    x = torch.tensor([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0], [-0.5, 1.2]], dtype=torch.float64)
    soft = soft_threshold(x, torch.full_like(x, 0.5))
    torch.testing.assert_close(soft, torch.tensor([[2.5, -3.5], [0, 0], [0, 0], [0, 0.7]], dtype=torch.float64))
    block = block_soft_threshold(x, torch.full((4, 1), 0.5, dtype=torch.float64))
    expected = torch.stack([x[0] * 0.9, 0 * x[1], x[2], x[3] * (1 - 0.5 / 1.3)])
    torch.testing.assert_close(block, expected)
    assert (soft[1] == 0).all()
    assert (block[1:3] == 0).all()
    assert torch.equal(block_soft_threshold(x, torch.zeros(4, 1, dtype=torch.float64)), x)


@pytest.mark.parametrize("operator", ["soft", "block"])
def test_n10_proximal_operators_minimise(operator: str) -> None:
    """prox(x) minimises ½‖y − x‖² + t · penalty(y): no nearby point is better."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    t = torch.full((6, 1), 0.8, dtype=torch.float64)
    penalty: Callable[[Tensor], Tensor] = (
        (lambda y: y.abs().sum()) if operator == "soft" else (lambda y: y.norm(dim=1).sum())
    )
    y = soft_threshold(x, t.expand_as(x)) if operator == "soft" else block_soft_threshold(x, t)

    def objective(z: Tensor) -> float:
        return float(0.5 * (z - x).square().sum() + 0.8 * penalty(z))

    for scale in (1.0, 0.1, 1e-3):
        for _ in range(50):
            assert objective(y) <= objective(y + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype))


# --- the rest of the contract ----------------------------------------------------------------------------------------


def test_the_budget_is_spent_once_and_shared() -> None:
    for epochs in (1, 3):
        place = realised(epochs=epochs)
        strategy = learned(2, place, tau=float("inf"))
        place.begin([2])
        experience = place.experience([2])
        strategy.learn(experience)
        assert experience.meter.samples == epochs * len(experience)
        assert experience.meter.scanned == len(experience)
    experience = place.experience([2])  # 22 samples in batches of 8, 3 passes: 9 steps
    steps = Steps(experience, (1, 1, 0, 1))
    assert [len(list(steps.until(phase))) for phase in (1, 2, 3, 4)] == [3, 3, 0, 3]
    skipped = Steps(place.experience([2]), (1, 1, 0, 1))
    assert [len(list(skipped.until(phase))) for phase in (2, 4)] == [6, 3]


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_a_restored_copied_or_pickled_strategy_goes_on_alike(backbone: Any, options: Any) -> None:
    settings: dict[str, Any] = {"tau": -1.0, "sigma": 0.02, "l1": 0.001}
    place, strategy = realised(backbone, options, optimizer="adam"), DEN(**settings)
    place.set_up(strategy)
    go_on(place, strategy, 2)
    state = copy.deepcopy(strategy.state_dict())
    deep, pickled = copy.deepcopy((place, strategy)), pickle.loads(pickle.dumps((place, strategy)))
    end = go_on(place, strategy, 3).state_dict()
    fresh_place, fresh = realised(backbone, options, optimizer="adam"), DEN(**settings)
    fresh_place.set_up(fresh)
    for position in ([0], [1]):
        fresh_place.begin(position)
    fresh.load_state_dict(state)
    for other_place, other in (deep, pickled, (fresh_place, fresh)):
        reached = go_on(other_place, other, 3).state_dict()
        assert not differing(reached, end)


@pytest.mark.parametrize("task", [None, 2, -1])
def test_a_missing_or_unknown_task_is_refused(task: int | None) -> None:
    with pytest.raises(UsageError, match=r"den (needs the task label|does not know task .* 0, 1)"):
        learned(2).predict(X, task)


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_normalisation_is_refused_with_the_reason_and_the_remedy(norm: str) -> None:
    with pytest.raises(UsageError, match=r"den adds and removes units.*norm=none.*Norm"):
        realised(Mlp, MLP | {"norm": norm}).set_up(DEN())


class Grouped(Backbone):
    """A convolution whose channels each see one channel only."""

    name = "grouped"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 32
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_what_else_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match=r"den .*heads=growing"):
        realised(heads="full", stream_length="known").set_up(DEN())
    with pytest.raises(UsageError, match=r"'grouped' has .* groups"):
        realised(Grouped, {}).set_up(DEN())
    with pytest.raises(UsageError, match=r"den\.shares"):
        realised().set_up(DEN(shares=(0.0, 0.0, 0.0, 0.0, 0.0)))
