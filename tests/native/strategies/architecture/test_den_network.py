"""The network of DEN: reachability, growth, removal, splitting and time stamps, against brute force."""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Cnn
from clarena_native.strategies.architecture.den_network import GrowingNetwork, Weights
from test_den import BACKBONES, CNN, X, learned, realised


def brute_force(network: GrowingNetwork, task: int) -> list[list[bool]]:
    """Reachability by powers of one adjacency matrix over all units of all layers."""
    sizes = [network.layers[0].weight.shape[1], *(len(layer.bias) for layer in network.layers)]
    offsets = np.cumsum([0, *sizes])
    adjacent = np.eye(offsets[-1], dtype=bool)
    for number, layer in enumerate(network.layers):
        for j, i in np.ndindex(sizes[number + 1], sizes[number]):
            adjacent[offsets[number] + i, offsets[number + 1] + j] = bool((layer.weight[j, i] != 0).any())
    reaches = np.linalg.matrix_power(adjacent.astype(float), len(sizes)) > 0
    ends = offsets[-2] + np.flatnonzero(network.head.stamp.numpy() == task)
    return [reaches[a:b][:, ends].any(1).tolist() for a, b in pairwise(offsets)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_n3_selection_is_reachability(backbone: Any, options: Any, seed: int) -> None:
    strategy = learned(3, realised(backbone, options, epochs=2), tau=-1.0, group=0.0)
    network = strategy.network
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.layers:
            dead = torch.rand(layer.weight.shape[:2], generator=generator) < 0.75
            layer.weight[dead] = 0
    for task in range(3):
        found = [units.tolist() for units in network.reachable(task)]
        assert found == brute_force(network, task)
        parts = network.subnetwork(task)
        assert [part.units.tolist() for part in parts] == found[1:]
        assert [part.inputs.tolist() for part in parts] == found[:-1]
    assert any(not all(units) for units in found)


def test_n3_negative_weights_and_single_positions_count() -> None:
    network = learned(1, realised(Cnn, CNN)).network
    flattened = network.hidden[2]  # [units, channels, positions]
    with torch.no_grad():
        for layer in network.layers:
            layer.weight.zero_()
        network.head.weight[1, 3] = -1e-20
        flattened.weight[3, 2, -1] = -1.0
        network.hidden[1].weight[2, 1, 0, 2] = 0.5
        network.hidden[0].weight[1, 0, 1, 1] = -0.5
    found = [units.nonzero().flatten().tolist() for units in network.reachable(0)]
    assert found == [[0], [1], [2], [3], [0, 1, 2]]


def test_removal_goes_from_the_bottom_up() -> None:
    network = learned(1).network
    network.expand(3, 1)
    first, second = network.hidden
    with torch.no_grad():
        first.weight[-2], first.bias[-2] = 0, 0
        second.weight[-1], second.bias[-1] = 0, 0
        second.weight[-1, -2] = 5.0  # fed by a silent unit alone, so silent as well
    assert network.remove_silent(1) == 2
    assert [len(layer.bias) for layer in network.hidden] == [10, 9]
    assert network.head.weight.shape[1] == 9
    assert (second.weight != 5.0).all()


# --- N7: split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_n7_the_split_set_and_what_becomes_of_it(backbone: Any, options: Any) -> None:
    sigma = 0.1
    strategy = learned(2, realised(backbone, options), tau=-1.0, sigma=float("inf"))
    before = [Weights(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in strategy.network.hidden]
    network = strategy.network
    network.add_outputs([4, 5], 2)
    network.expand(2, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in network.hidden:
            noise = torch.randn(layer.weight.shape, generator=generator) * 0.15
            layer.weight += noise * (torch.rand(len(layer.bias), generator=generator) < 0.5).view(
                -1, *[1] * (noise.ndim - 1)
            )
            layer.bias[1] += 2 * sigma
    drifted = copy.deepcopy(network)
    expected = []
    for layer, then in zip(drifted.hidden, before):
        rho = []
        weight, bias = layer.weight.detach(), layer.bias.detach()
        for i in range(len(then.bias)):
            old = [*then.weight[i].flatten().tolist(), float(then.bias[i])]
            now = [*weight[i, : then.weight.shape[1]].flatten().tolist(), float(bias[i])]
            rho.append(sum((a - b) ** 2 for a, b in zip(old, now)) ** 0.5)
        expected.append([i for i, value in enumerate(rho) if value > sigma])
    split = network.split(before, sigma, 2)
    assert [units.tolist() for units in split] == expected
    assert all(0 < len(units) < len(then.bias) for units, then in zip(expected, before))
    for layer, then, units, moved in zip(network.hidden, before, expected, drifted.hidden):
        inputs = then.weight.shape[1]
        assert torch.equal(layer.weight[units][:, :inputs], then.weight[units])  # the original is as it was,
        assert torch.equal(layer.bias[units], then.bias[units])
        assert (layer.weight[units][:, inputs:] == 0).all()  # and reads nothing newer
        assert torch.equal(layer.bias[-len(units) :], moved.bias[units])  # the copy has what was learned
        assert layer.stamp[-len(units) :].eq(2).all()
    for layer, units, moved in zip(network.layers[1:], expected, drifted.layers[1:]):
        own = (moved.stamp == 2).nonzero().flatten()
        older = [j for j in range(len(moved.stamp)) if moved.stamp[j] < 2]
        copies = layer.weight[:, -len(units) :]
        assert torch.equal(copies[own], moved.weight[own][:, units])  # the copy stands in for the original,
        assert (layer.weight[own][:, units] == 0).all()
        assert (copies[older] == 0).all()  # in what came with this task only


def test_n7_a_split_of_everything_changes_nothing_for_the_task_and_frees_older_ones() -> None:
    place = realised()
    strategy = learned(2, place, tau=float("inf"), sigma=float("inf"))
    network = strategy.network
    before = [layer.copy() for layer in network.hidden]
    older = [network(X, task) for task in range(2)]
    network.add_outputs([4, 5], 2)
    with torch.no_grad():
        for layer in network.hidden:
            layer.weight += 0.3
    newest = network(X, 2)
    assert not torch.equal(network(X, 0), older[0])
    split = network.split(before, 0.1, 2)
    assert [len(units) for units in split] == [8, 7]
    torch.testing.assert_close(network(X, 2), newest, rtol=0, atol=1e-5)
    assert all(torch.equal(network(X, task), older[task]) for task in range(2))


@pytest.mark.parametrize(("backbone", "options"), BACKBONES)
def test_n8_new_units_and_outputs_leave_older_scores_as_they_are(backbone: Any, options: Any) -> None:
    network = learned(2, realised(backbone, options), tau=-1.0).network.eval()
    before = [network(X, task) for task in range(2)]
    network.add_outputs([4, 5], 2)
    network.expand(5, 2)
    assert all(torch.equal(network(X, task), before[task]) for task in range(2))
    assert network(X, 2).shape == (7, 2)
