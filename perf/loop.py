"""How much slower than a hand-written loop is ours? (target: at most 1.10 ×)

Split MNIST, MLP 400-400, Adam, batch 128, one pass. Both train on the same tensors in the same order, from the same
weights, in the same process, experience by experience and in turn. The loop by hand knows no class of CLArena and
takes torch's Adam as it comes; the protocol's is the fused one. With `same`, the hand takes the fused one too, and the
ratio says what the loop alone costs. Run: `python perf/loop.py [pairs] [same]`.
"""

import sys
from statistics import median
from time import perf_counter

import split_mnist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarena import Model, Protocol
from clarena.run.environment import configured

PROTOCOL = Protocol(epochs=1, batch_size=128)


def by_hand(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, fused: bool | None) -> None:
    """What one would write without a framework."""
    optimizer = torch.optim.Adam(model.parameters(), lr=PROTOCOL.learning_rate, fused=fused)
    model.train()
    for index in torch.randperm(len(x), generator=generator).split(PROTOCOL.batch_size):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[index]), y[index])
        loss.backward()
        optimizer.step()


def plain(model: Model) -> nn.Sequential:
    """The same network and weights with one linear layer as its head."""
    first, second = (layer for layer in model.backbone.modules() if isinstance(layer, nn.Linear))
    layers = [nn.Linear(784, 400), nn.Linear(400, 400), nn.Linear(400, model.outputs)]
    heads = [block.state_dict() for block in model.head.blocks]
    layers[0].load_state_dict(first.state_dict())
    layers[1].load_state_dict(second.state_dict())
    layers[2].load_state_dict({key: torch.cat([head[key] for head in heads]) for key in ("weight", "bias")})
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def race(seed: int, fused: bool | None) -> tuple[float, float]:
    """Seconds of training over the whole stream: ours, and by hand."""
    realised, finetune = split_mnist.realised(PROTOCOL, seed)
    strategy = realised.set_up(finetune())
    ours = theirs = 0.0
    for positions in realised.steps:
        realised.begin(positions)
        experience = realised.experience(positions)
        strategy.context.grow(strategy.model)
        rival = plain(strategy.model)
        generator = torch.Generator().set_state(experience.generator.get_state())

        def learn() -> float:
            start = perf_counter()
            strategy.learn(experience)  # noqa: B023 - called before the loop goes on
            return perf_counter() - start

        def learn_by_hand() -> float:
            start = perf_counter()
            by_hand(rival, experience.x, experience.y, generator, fused)  # noqa: B023
            return perf_counter() - start

        if (seed + positions[0]) % 2:
            theirs += learn_by_hand()
            ours += learn()
        else:
            ours += learn()
            theirs += learn_by_hand()
        if positions == [0]:
            pairs = zip(plain(strategy.model).parameters(), rival.parameters())
            assert all(torch.allclose(mine, theirs, rtol=1e-2, atol=1e-4) for mine, theirs in pairs)
    return ours, theirs


def main(pairs: int = 11, fused: bool | None = None) -> None:
    race(0, fused)  # warm
    ratios = []
    for seed in range(pairs):
        ours, theirs = race(seed, fused)
        ratios.append(ours / theirs)
        print(f"ours {ours:.2f} s, by hand {theirs:.2f} s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument != "same"]
    with configured(PROTOCOL):
        main(*numbers, fused=True if "same" in sys.argv else None)
