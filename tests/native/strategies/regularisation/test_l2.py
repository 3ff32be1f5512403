"""L2: the plain anchor, its gradient, and which parameters it holds."""

import torch
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.l2 import L2
from exact import begin, gradients
from tiny import same, walk


def test_the_gradient_is_the_distance_to_the_latest_anchor():
    ours = walk(L2(strength=3.0), "class", optimizer="sgd", learning_rate=0.05)
    ours.step(0)
    first = ours.parameters()
    ours.step(1)
    anchors = ours.parameters()
    assert not same(anchors[:4], first)
    begin(ours, 2)
    with torch.no_grad():
        for p in ours.strategy.model.parameters():
            p.add_(torch.randn_like(p))
            p.grad = torch.zeros_like(p)
    closed = [p.grad for p in ours.strategy.model.parameters()]
    ours.strategy.backward_penalty()
    autograd = gradients(ours, ours.strategy.penalty())
    parameters = ours.parameters()
    for theta, anchor, *found in zip(parameters[:-2], anchors, closed, autograd, strict=False):
        for gradient in found:
            torch.testing.assert_close(gradient, 3.0 * (theta - anchor))
    for gradient in (*closed[-2:], *autograd[-2:]):  # the new head
        assert not gradient.any()


def test_the_value_is_half_the_squared_distance():
    ours = walk(L2(strength=3.0))
    ours.step(0)
    assert ours.strategy.penalty().item() == 0
    with torch.no_grad():
        for p in ours.strategy.model.parameters():
            p.add_(0.5)
    count = sum(p.numel() for p in ours.strategy.model.parameters())
    torch.testing.assert_close(ours.strategy.penalty().item(), 3.0 / 2 * count * 0.25, rtol=1e-5, atol=0)


def test_it_holds_what_finetune_moves():
    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    free, held = (walk(strategy, "domain", **sgd) for strategy in (Finetune(), L2(strength=10.0)))
    for ours in (free, held):
        ours.step(0)
    start = held.parameters()
    assert same(start, free.parameters())  # nothing to hold yet
    moved = []
    for ours in (free, held):
        ours.finish(1)
        moved.append(sum((p - q).square().sum().item() for p, q in zip(ours.parameters(), start)))
    assert moved[1] < moved[0] / 4
