"""How many times faster is the exact Fisher than a loop of single-sample backward passes? (target: 10)

MLP 784-400-400-10, float32, one thread. The two are timed in turn, so that a busy machine slows both, and the
median of the ratios of each pair is printed. Run: `python perf/fisher.py [samples] [pairs]`.
"""

import sys
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from clarena.toolbox.gradients import fisher_diagonal


def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The definition: one forward pass per sample, one backward pass per sample and label."""
    parameters = list(model.parameters())
    totals = [torch.zeros_like(p) for p in parameters]
    for sample in x.split(1):
        log_p = model(sample)[0].log_softmax(0)
        for p, value in zip(log_p.detach().exp(), log_p):
            gradients = torch.autograd.grad(value, parameters, retain_graph=True)
            for total, g in zip(totals, gradients):
                total.addcmul_(g, g * p)
    return [total / len(x) for total in totals]


def main(samples: int = 256, pairs: int = 5, batch_size: int = 128) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)).eval()
    x = torch.rand(samples, 784)
    batches = [(part, None, None) for part in x.split(batch_size)]
    for ours, theirs in zip(fisher_diagonal(model, batches), loop(model, x)):  # warm, and the same
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.max()))

    ratios = []
    for _ in range(pairs):
        start = perf_counter()
        loop(model, x)
        middle = perf_counter()
        fisher_diagonal(model, batches)
        end = perf_counter()
        ratios.append((middle - start) / (end - middle))
        print(f"loop {middle - start:.3f} s, ours {end - middle:.4f} s, ratio {ratios[-1]:.0f}")
    print(f"median ratio {median(ratios):.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
