"""Per-sample gradient statistics against closed forms and against a loop of single-sample backward passes."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_networks import FALL_BACK, OUTPUTS, READ_OFF, N, Noisy, Tokens, data, double, made
from torch import Tensor, nn
from torch.nn import functional as F

from clarena.errors import DataError, UsageError
from clarena.toolbox import categorical, gradients
from clarena.toolbox.gradients import accumulate_per_sample, fisher_diagonal, output_norm_sensitivity

Objective = Callable[[Tensor], list[tuple[Tensor, Tensor]]]


def loop(model: nn.Module, x: Tensor, objective: Objective, power: int) -> list[Tensor]:
    """The definition: the mean over samples of Σ weight * |gradient|^power, from a backward pass each."""
    model = copy.deepcopy(model).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    totals = [torch.zeros_like(p) for p in parameters]
    for n in range(len(x)):
        for weight, value in objective(model(x[n : n + 1])[0]):
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            for total, g in zip(totals, found):
                if g is not None:
                    total += weight.detach() * g.detach().abs() ** power
    return [total / len(x) for total in totals]


def log_likelihoods(scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(log_p.exp(), log_p) for log_p in scores.log_softmax(0)]


def squared_norm(scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(()), scores.square().sum())]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.shape == b.shape
        assert not a.requires_grad
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max() + 1e-30))


def flattened(found: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in found])


@pytest.fixture
def fallbacks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parameters that went through torch.func."""
    names: list[str] = []
    original = gradients._add_others

    def spy(model, parameters, *rest):  # type: ignore[no-untyped-def]
        names.extend(parameters)
        original(model, parameters, *rest)

    monkeypatch.setattr(gradients, "_add_others", spy)
    return names


@pytest.mark.parametrize("case", [*READ_OFF, *FALL_BACK])
def test_equals_the_loop_over_samples(case: str, fallbacks: list[str]) -> None:
    model, x = made(case)
    assert_close(fisher_diagonal(model, [(x, None, None)]), loop(model, x, log_likelihoods, 2))
    assert_close(output_norm_sensitivity(model, [(x, None, None)]), loop(model, x, squared_norm, 1))
    assert bool(fallbacks) == (case in FALL_BACK)


def test_recurrent_layers_are_taken_one_sample_at_a_time() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, OUTPUTS)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.memory(x)[0][:, -1])

    model, x = double(Recurrent()), data(N, 3, 4)
    assert_close(fisher_diagonal(model, [(x, None, None)]), loop(model, x, log_likelihoods, 2))


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("cnn, group norm, stride, groups", "sequences", "called twice"):
        model, x = made(case)
        whole = fisher_diagonal(model, [(x, None, None)])
        with monkeypatch.context() as patch:
            patch.setattr(gradients, "_CHUNK", 200)
            assert_close(fisher_diagonal(model, [(x, None, None)]), whole)


def linear() -> tuple[nn.Linear, Tensor, Tensor]:
    model = double(nn.Linear(6, OUTPUTS))
    return model, data(N, 6), torch.arange(N) % OUTPUTS


def test_closed_forms_of_a_linear_model() -> None:
    """E1, M1: F[W_cd] = mean p_c (1 - p_c) x_d² or mean (p_c - 1[y = c])² x_d²; Ω[W_cd] = mean 2|z_c x_d|."""
    model, x, y = linear()
    z = model(x).detach()
    p = z.softmax(1)
    residual = (p - F.one_hot(y, OUTPUTS)) ** 2
    for found, rows, columns in [
        (fisher_diagonal(model, [(x, y, None)], kind="exact"), p * (1 - p), x**2),
        (fisher_diagonal(model, [(x, y, None)], kind="empirical"), residual, x**2),
        (output_norm_sensitivity(model, [(x, y, None)]), 2 * z.abs(), x.abs()),
    ]:
        assert_close(found, [rows.T @ columns / N, rows.mean(0)], 1e-12)


def test_outputs_not_in_play_take_no_part() -> None:
    """As if they did not exist, whether the mask is one for all or each sample's own."""
    model, x, _ = linear()
    own = torch.tensor([[True, False, True, True, False], [False, True, True, False, False], [True] * 5] * 3)
    for mask in (own[0], own):
        y = mask.expand(N, -1).byte().argmax(1)
        z = model(x).detach()
        p = z.masked_fill(~mask, -torch.inf).softmax(1)
        expected = p * (1 - p)
        assert_close(fisher_diagonal(model, [(x, None, mask)]), [expected.T @ x**2 / N, expected.mean(0)], 1e-12)
        expected = (F.one_hot(y, OUTPUTS) - p) ** 2
        found = fisher_diagonal(model, [(x, y, mask)], kind="empirical")
        assert_close(found, [expected.T @ x**2 / N, expected.mean(0)], 1e-12)
        expected = 2 * z.abs() * mask
        found = output_norm_sensitivity(model, [(x, None, mask)])
        assert_close(found, [expected.T @ x.abs() / N, expected.mean(0)], 1e-12)


def test_exact_takes_only_as_many_passes_as_outputs_in_play(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = linear()
    passes = []
    original = categorical._log_gradient
    monkeypatch.setattr(categorical, "_log_gradient", lambda *args: passes.append(1) or original(*args))
    mask = torch.zeros(N, OUTPUTS, dtype=torch.bool)
    mask[:4, :2] = mask[4:, 3:] = True  # four outputs in all, two for each sample
    fisher_diagonal(model, [(x, None, mask)])
    assert len(passes) == 2


def test_empirical_fisher_of_an_impossible_label_is_nan() -> None:
    model, x, _ = linear()
    mask = torch.tensor([True, True, False, False, False])
    found = fisher_diagonal(model, [(x, torch.full((N,), 3), mask)], kind="empirical")
    assert flattened(found).isnan().all()


@pytest.mark.parametrize("case", ["layer norm", "cnn, batch norm, dropout", "called twice"])
@pytest.mark.parametrize("kind", ["exact", "sample", "empirical", "mas"])
def test_batches_and_order_do_not_matter(case: str, kind: str) -> None:
    """E2 and M2; for `sample`, labels are drawn in order, so that the cut alone does not matter."""
    model, x = made(case)
    y = torch.arange(N) % OUTPUTS

    def estimate(size: int, order: Tensor) -> list[Tensor]:
        cut = [(x[i], y[i], None) for i in order.split(size)]
        if kind == "mas":
            return output_norm_sensitivity(model, cut)
        return fisher_diagonal(model, cut, kind=kind, generator=torch.Generator().manual_seed(5))  # type: ignore[arg-type]

    forward = torch.arange(N)
    whole = estimate(N, forward)
    for size in (1, 7):
        assert_close(estimate(size, forward), whole)
    if kind != "sample":
        assert_close(estimate(4, forward.flip(0)), whole)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(OUTPUTS)))
def test_labels_matter_to_the_empirical_fisher_alone(order: list[int]) -> None:
    """Renaming the outputs renames the head's Fisher and leaves the rest (M3 for MAS)."""
    model = double(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)))
    renamed = copy.deepcopy(model)
    renamed[2].weight.data, renamed[2].bias.data = model[2].weight.data[order], model[2].bias.data[order]
    x, y = data(N, 6), torch.arange(N) % OUTPUTS
    garbage = (y + 1) % OUTPUTS

    first, second, weight, bias = fisher_diagonal(model, [(x, y, None)])
    assert_close(fisher_diagonal(renamed, [(x, garbage, None)]), [first, second, weight[order], bias[order]], 1e-12)
    for a, b in zip(
        output_norm_sensitivity(model, [(x, y, None)]), output_norm_sensitivity(model, [(x, garbage, None)])
    ):
        assert torch.equal(a, b)
    empirical = [fisher_diagonal(model, [(x, labels, None)], kind="empirical") for labels in (y, garbage)]
    assert not torch.allclose(flattened(empirical[0]), flattened(empirical[1]), rtol=1e-3)


def test_sampled_fisher_averages_to_the_exact_one() -> None:
    """20,000 draws for one x, one output out of play: within five standard errors by the exact variance."""
    model, mask, draws = double(nn.Linear(2, OUTPUTS)), torch.tensor([True, True, False, True, True]), 20_000
    x = data(1, 2)
    p = model(x)[0].detach().masked_fill(~mask, -torch.inf).softmax(0)
    squares = (torch.eye(OUTPUTS, dtype=torch.float64)[mask] - p) ** 2  # [label, output]: bias gradient squared
    mean = p[mask] @ squares
    error = ((p[mask] @ squares**2 - mean**2).clamp(min=0) / draws).sqrt()
    found = fisher_diagonal(
        model, [(x.expand(draws, -1), None, mask)], kind="sample", generator=torch.Generator().manual_seed(3)
    )[1]
    assert ((found - mean).abs() <= 5 * error + 1e-15).all()
    assert found[2] == 0


def test_sampling_is_repeatable_and_leaves_the_global_stream_alone() -> None:
    model, x, _ = linear()
    before = torch.get_rng_state()
    first, second = (fisher_diagonal(model, [(x, None, None)], kind="sample") for _ in range(2))
    other = fisher_diagonal(model, [(x, None, None)], kind="sample", generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(flattened(first), flattened(second))
    assert not torch.equal(flattened(first), flattened(other))


def test_a_sequence_is_one_sample() -> None:
    """The gradient of Σ_t log p(y_t) is squared; what is ignored or out of play is left out."""
    model = double(Tokens())
    x = torch.randint(7, (N, 4), generator=torch.Generator().manual_seed(0))
    y = x % 4
    y[::2, 1] = -100
    mask = torch.tensor([True] * 4 + [False])
    parameters = list(model.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for n in range(N):
        scores = model(x[n : n + 1])[0, :, :4]
        g = torch.autograd.grad(-F.cross_entropy(scores, y[n], reduction="sum"), parameters)
        for total, part in zip(expected, g):
            total += part**2 / N
    assert_close(fisher_diagonal(model, [(x, y, mask)], kind="empirical"), expected)
    assert_close(fisher_diagonal(model, [(x, y, mask.expand(N, -1))], kind="empirical"), expected)

    certain = copy.deepcopy(model)  # where p(y_t) is all but 1, the label that is drawn is y_t
    sampled = fisher_diagonal(certain, [(x, torch.full_like(y, -100), mask)], kind="sample")
    assert not flattened(sampled).any()
    certain.head.weight.data.zero_()
    certain.head.bias.data = torch.tensor([0.0, 0.0, 30.0, 0.0, 0.0], dtype=torch.float64)
    sampled = fisher_diagonal(certain, [(x, y, mask)], kind="sample")
    assert_close(sampled, fisher_diagonal(certain, [(x, y.where(y == -100, 2), mask)], kind="empirical"))


class Stubborn(nn.Sequential):
    """A frozen part: always in eval mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        return super().train(False)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("estimate", [fisher_diagonal, output_norm_sensitivity])
def test_nothing_changes(estimate: Callable[..., list[Tensor]], fails: bool) -> None:
    """E6: parameters, gradients, buffers, modes, hooks, random numbers; also when the model fails."""
    frozen = Stubborn(nn.Linear(6, 6), nn.BatchNorm1d(6)).requires_grad_(False)
    model = double(
        nn.Sequential(nn.BatchNorm1d(6), frozen, nn.Dropout(), nn.Linear(6, 4), nn.PReLU(), nn.Linear(4, 5), Noisy())
    )
    model.train()
    model[5].eval()  # a mode of its own
    model(data(N, 6)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()

    with torch.no_grad():
        if fails:
            with pytest.raises(RuntimeError, match="running_mean"):
                estimate(model, [(data(N, 7), None, None)])
        else:
            assert len(estimate(model, [(data(N, 6), None, None)])) == sum(p.requires_grad for p in model.parameters())
        assert not torch.is_grad_enabled()

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for p, g in zip(model.parameters(), grads):
        assert (p.grad is None and g is None) or torch.equal(p.grad, g)
    assert [m.training for m in model.modules()] == modes
    assert True in modes
    assert False in modes
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)


def test_weights_of_objectives() -> None:
    """Σ_n w_n |∂ s_n / ∂θ|^power, the weight folded into the direction, for both powers."""
    model, x, _ = linear()
    w = data(N, seed=4).abs()
    s = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    for power, a in ((1, x.abs()), (2, x**2)):
        found = accumulate_per_sample(model, x, lambda _: [w[:, None] ** (1 / power) * s], power=power)  # noqa: B023
        expected = s.abs()[:, None] ** power * (w @ a)
        assert_close(found, [expected, s.abs() ** power * w.sum()], 1e-12)


def test_errors_say_what_to_do() -> None:
    model, x, y = linear()
    with pytest.raises(UsageError, match="Did you mean 'exact'"):
        fisher_diagonal(model, [(x, y, None)], kind="exat")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one batch"):
        output_norm_sensitivity(model, [])
    with pytest.raises(DataError, match="Labels are needed"):
        fisher_diagonal(model, [(x, None, None)], kind="empirical")
    with pytest.raises(UsageError, match="`sample` or `empirical`"):
        fisher_diagonal(double(Tokens()), [(torch.zeros(2, 3, dtype=torch.long), None, None)])
    mixing = double(nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2)))
    with pytest.raises(UsageError, match="layer '0' normalises by the batch"):
        fisher_diagonal(mixing, [(x, y, None)])


def test_the_hosts_own_batch_norm_is_read_off_and_needs_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """`clarena.BatchNorm` is what the native backbones use: the slow path would cost every row of a table."""
    from clarena import BatchNorm

    model = nn.Sequential(nn.Linear(5, 4), BatchNorm(4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    model(x)  # running statistics of its own
    expected = [torch.zeros_like(p) for p in model.parameters()]
    model.eval()
    for sample in x:
        probabilities = model(sample[None]).softmax(1)[0].detach()
        for label, p in enumerate(probabilities):
            loss = model(sample[None]).log_softmax(1)[0, label]
            for total, g in zip(expected, torch.autograd.grad(loss, list(model.parameters()))):
                total += p * g.square() / len(x)
    monkeypatch.setattr(gradients, "_add_others", None)
    for ours, theirs in zip(fisher_diagonal(model, [(x, None, None)]), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
