"""SLCA: rates, the loss of alignment in loops, what is drawn and from where, and what each phase leaves alone."""

import copy

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Cnn
from clarena_native.strategies.adapters.slca import SLCA, Gaussians, magnitude
from tiny import SCENARIOS, same, walk

from clarena.checks.tiny import TinyMlp

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
ON = {"backbone": TinyMlp}


def test_the_backbone_moves_at_a_part_of_the_heads_rate():
    """One step of SGD: what moves is the gradient times the rate, the backbone's times `slow`."""
    ours = walk(SLCA(slow=0.03), "class", **ON, **SGD, epochs=1, batch_size=100, learning_rate=0.1)
    ours.realised.begin([0])
    experience = ours.realised.experience([0])
    ours.strategy.context.grow(ours.strategy.model)
    model = copy.deepcopy(ours.strategy.model)
    torch.nn.functional.cross_entropy(model(experience.x), experience.y).backward()
    ours.strategy.learn(experience)
    for (name, found), p in zip(ours.strategy.model.named_parameters(), model.parameters(), strict=True):
        step = 0.1 * p.grad * (1 if name.startswith("head.") else 0.03)
        assert step.abs().max() > 1e-4
        torch.testing.assert_close(found, p.detach() - step, rtol=0, atol=1e-6)


def test_each_phase_has_the_rates_it_should():
    made = []
    ours = walk(SLCA(slow=0.01, alignment=2), "class", **ON, learning_rate=0.1)
    context = ours.strategy.context
    updater = context.updater

    def noted(*args, **options):
        made.append(updater(*args, **options))
        return made[-1]

    context.updater = noted
    ours.step(0)
    assert len(made) == 1  # there is nothing to align yet
    ours.step(1)
    slowly, aligning = made[1:]
    model = ours.strategy.model
    assert {round(slowly.rate(p), 9) for p in model.backbone.parameters()} == {0.001}
    assert {slowly.rate(p) for p in model.head.parameters()} == {0.1}
    assert {p for group in aligning.optimizer.param_groups for p in group["params"]} == set(model.head.parameters())
    assert {aligning.rate(p) for p in model.head.parameters()} == {0.1}


def test_only_the_classes_of_the_experience_are_learned_whatever_the_loss_is_over():
    for loss_over in ("seen", "current"):
        ours = walk(SLCA(alignment=0), "class", **ON, **SGD, loss_over=loss_over)
        ours.step(0)
        first = copy.deepcopy(ours.strategy.model.head.blocks[0])
        ours.finish(1)
        assert same(list(first.parameters()), list(ours.strategy.model.head.blocks[0].parameters()))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_alignment_leaves_the_backbone_as_it_is_and_draws_from_its_own_generator(scenario):
    """Cnn with BatchNorm, whose statistics would move, too."""
    options = {"backbone": Cnn, "options": {"widths": (4,), "features": 8, "norm": "batch"}}
    ours, without = (walk(SLCA(alignment=n), scenario, **options, **SGD) for n in (3, 0))
    moved = False
    for position in range(3):
        spent, plain = ours.step(position), without.step(position)
        mine, theirs = ours.strategy.model, without.strategy.model
        if position == 0:
            assert spent.meter.replayed == 0
            assert same(ours.parameters(), without.parameters())
            continue
        if position == 1:  # later ones begin with another head
            assert all(map(torch.equal, mine.backbone.state_dict().values(), theirs.backbone.state_dict().values()))
            moved = not same(list(mine.head.parameters()), list(theirs.head.parameters()))
        assert spent.meter.replayed == 3 * 256 * len(ours.strategy.described.y)
        assert (spent.meter.samples, spent.meter.scanned) == (plain.meter.samples, len(spent))
        assert torch.equal(spent.generator.get_state(), plain.generator.get_state())
    assert moved


def test_features_are_described_by_their_mean_and_covariance():
    ours = walk(SLCA(slow=0), "class", **ON).finish()
    model, data, described = ours.strategy.model, ours.realised.data, ours.strategy.described
    assert described.y.tolist() == [label for s in ours.realised.stream.splits for label in s.y_train.unique().tolist()]
    place = 0
    for position, split in enumerate(ours.realised.stream.splits):
        with torch.no_grad():
            features = model.backbone(data.x_train[split.train]).double().numpy()
        for label in split.y_train.unique().tolist():
            mine = features[split.y_train.numpy() == label]
            factor = described.factors[place].double().numpy()
            expected = np.cov(mine, rowvar=False) + 1e-4 * np.eye(mine.shape[1])
            np.testing.assert_allclose(described.means[place].numpy(), mine.mean(0), atol=1e-5)
            np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-5)
            assert described.owner[place] == position
            place += 1


def test_what_is_drawn_has_the_mean_and_the_covariance_of_its_class():
    chance = np.random.default_rng(0)
    kept = Gaussians(3)
    mixing = chance.normal(size=(3, 3))
    for label in (4, 1):
        kept.add(torch.from_numpy(chance.normal(size=(50, 3)) @ mixing + 3 * label), label, 0)
    drawn = kept.draw(40_000, torch.Generator().manual_seed(0)).unflatten(0, (2, -1)).double().numpy()
    for place in range(2):
        factor = kept.factors[place].double().numpy()
        np.testing.assert_allclose(drawn[place].mean(0), kept.means[place].numpy(), atol=0.05)
        np.testing.assert_allclose(np.cov(drawn[place], rowvar=False), factor @ factor.T, atol=0.1)
    again = kept.draw(3, torch.Generator().manual_seed(1))
    assert torch.equal(again, kept.draw(3, torch.Generator().manual_seed(1)))


def test_one_sample_is_described_as_a_point():
    kept = Gaussians(2)
    kept.add(torch.tensor([[3.0, 4.0]]), 0, 0)
    assert kept.means.tolist() == [[3.0, 4.0]]
    torch.testing.assert_close(kept.factors[0], 0.01 * torch.eye(2))


def test_sizes_of_logits_are_the_mean_over_experiences_of_their_norms():
    scores = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
    groups = torch.zeros(3, 6).double()
    parts = [[0, 1, 2], [3], [4, 5]]
    for row, part in zip(groups, parts):
        row[part] = 1
    task = torch.tensor([0, 2, 1, 1, 0])
    for row in range(5):
        norms = [np.linalg.norm(scores[row, part]) for part in parts]
        assert magnitude(scores, groups, None)[row].item() == pytest.approx(np.mean(norms))
        assert magnitude(scores, groups, task)[row].item() == pytest.approx(norms[task[row]])
    nothing = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    (nothing / magnitude(nothing, groups, None)).sum().backward()
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_with_a_frozen_backbone_alignment_trains_the_head_on_fixed_gaussians(scenario):
    """The second experience again by hand: the same draws, gradients of the printed loss, plain steps."""
    samples, rate, tau = 6, 0.05, 0.1
    options = {"slow": 0, "samples": samples, "alignment": 2, "temperature": tau}
    ours, without = (
        walk(SLCA(**options | {"alignment": n}), scenario, **ON, **SGD, learning_rate=rate) for n in (2, 0)
    )
    start = copy.deepcopy(ours.strategy.model.backbone.state_dict())
    for position in (0, 1):
        ours.step(position)
        without.step(position)
    assert all(map(torch.equal, start.values(), ours.strategy.model.backbone.state_dict().values()))
    head, described, space = without.strategy.model.head, without.strategy.described, without.realised.space
    generator, tasks = without.strategy.context.generator(), [sorted(task) for task in space.tasks]
    for _ in range(2):
        noise = torch.randn(len(described.y), samples, 32, generator=generator)
        for index in torch.randperm(len(described.y) * samples, generator=generator).split(samples):
            head.zero_grad()
            total = 0
            for i in index.tolist():
                g, s = divmod(i, samples)
                logits = head(described.means[g] + described.factors[g] @ noise[g, s])
                own = tasks[described.owner[g]]
                among = own if scenario == "task" else sorted(set().union(*tasks))
                sizes = [logits[t].norm() for t in ([own] if scenario == "task" else tasks)]
                scaled = logits / (tau * sum(sizes) / len(sizes))
                total = total - scaled[described.y[g]] + scaled[among].logsumexp(0)
            (total / len(index)).backward()
            with torch.no_grad():
                for p in head.parameters():
                    p -= rate * p.grad
    for found, expected in zip(ours.strategy.model.head.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_saved_state_goes_on_with_the_same_bits_and_covariances_are_in_it():
    whole, half = (walk(SLCA(), "class", **ON) for _ in range(2))
    half.step(0)
    half.step(1)
    other = walk(SLCA(), "class", **ON)
    for position in (0, 1):
        other.realised.begin([position])
    state = half.strategy.state_dict()
    assert state["described.factors"].shape == (4, 32, 32)
    other.strategy.load_state_dict(copy.deepcopy(state))
    assert same(other.finish(2).parameters(), whole.finish().parameters())


def test_alignment_mends_what_learning_one_experience_after_the_other_leaves():
    def right(alignment):
        ours = walk(SLCA(alignment=alignment), "class", **ON, learning_rate=0.05, epochs=4).finish()
        return (torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)).float().mean()

    assert right(5) > 0.8
    assert right(0) < right(5) - 0.05
