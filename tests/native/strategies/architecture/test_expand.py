"""Expand: what is old stays, what is new is counted, the auxiliary classes, both stages against slow definitions."""

import copy
from typing import Any

import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.benchmarks.digits import SplitDigits
from clarena_native.strategies.architecture.expand import Expand, auxiliary_classes
from clarena_native.strategies.architecture.expand_network import Branches, WideHead, WideModel
from clarena_native.strategies.references.finetune import Finetune
from hypothesis import given
from hypothesis import strategies as st
from tiny import same, walk
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Experience
from clarena.testing import parametrize_with_checks
from clarena.toolbox.states import differing

NORM = {"backbone": Mlp, "options": {"hidden": (8,), "norm": "batch", "dropout": 0.3}}
IMAGES = {"backbone": Cnn, "options": {"widths": (4,), "features": 6, "norm": "batch"}}
OPTIMISERS = [{"optimizer": "adam", "weight_decay": 0.1}, {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}]
X = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(3))


@parametrize_with_checks([Expand], backbone=Cnn, options={"norm": "batch", "widths": [4], "features": 16})
def test_conformance_on_images_with_batch_norm(check: Any) -> None:
    check()


# --- what is old ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["class", "task"])
@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: o["optimizer"])
@pytest.mark.parametrize("place", [NORM, IMAGES], ids=["mlp", "cnn"])
def test_older_backbones_never_move(place: Any, optimiser: Any, scenario: Any) -> None:
    """Neither parameters nor the statistics of BatchNorm, nor by one bit their features; and never a name."""
    ours = walk(Expand, scenario, **place, **optimiser)
    states: list[dict[str, Tensor]] = []
    features: list[Tensor] = []
    names: list[str] = []
    for position in range(3):
        ours.step(position)
        model = ours.strategy.model.train()  # nobody's business but the newest backbone's
        assert [branch.frozen for branch in model.backbone.branches] == [True] * position + [False]
        assert [branch.training for branch in model.backbone.branches] == [False] * position + [True]
        for branch, state, old in zip(model.backbone.branches, states, features):
            assert not differing(state, dict(branch.state_dict()))
            assert torch.equal(branch(X), old)
            assert not any(p.requires_grad or p.grad is not None for p in branch.parameters())
        now = [name for name, _ in model.named_parameters()]
        assert [name for name in now if name in set(names)] == names
        names = now
        newest = copy.deepcopy(model.backbone.branches[position]).eval()
        states.append(copy.deepcopy(dict(newest.state_dict())))
        features.append(newest(X).detach())
        assert any(".running_mean" in key for key in states[-1])
        assert torch.equal(ours.strategy.model.eval().backbone(X), torch.cat(features, 1))


def test_the_first_experience_is_that_of_finetune() -> None:
    """Until there is something old, there is nothing to be done about it."""
    ours, plain = walk(Expand, "class", **NORM), walk(Finetune, "class", **NORM)
    ours.step(0)
    plain.step(0)
    assert same(ours.parameters(), plain.parameters())


# --- how much there is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scenario", "outputs"), [("class", [3, 1, 2]), ("task", [3, 1, 2])])
def test_parameters_grow_by_a_backbone_and_its_part_of_the_head(scenario: Any, outputs: list[int]) -> None:
    """Experience t adds F_t, weights of t · d features to each new output with a bias, and d to each old output."""
    ours = walk(Expand, scenario, backbone=Mlp, options={"hidden": (8,)})
    expected = seen = 0
    for position, new in enumerate(outputs):
        ours.step(position)
        expected += (16 * 8 + 8) + new * ((position + 1) * 8 + 1) + seen * 8
        seen += new
        assert sum(p.numel() for p in ours.strategy.parameters()) == expected
        assert ours.strategy.model.outputs == seen


def test_full_heads_grow_in_width_alone() -> None:
    ours = walk(Expand, "class", backbone=Mlp, options={"hidden": (8,)}, heads="full", stream_length="known").finish()
    head = ours.strategy.model.head
    assert [tuple(block.weight.shape) for block in head.blocks] == [(6, 8)]
    assert [tuple(layer.weight.shape) for layer in head.widened] == [(6, 8), (6, 8)]


@given(st.lists(st.booleans(), max_size=8), st.integers(1, 3))
def test_the_head_is_one_linear_layer_that_grew(widenings: list[bool], features: int) -> None:
    """W is filled in the order of growth: new rows on all columns so far, new columns for all rows so far."""
    head = WideHead(features, lambda layer: None)
    head.grow(2)
    weight, bias = head.blocks[0].weight, head.blocks[0].bias
    for number, widens in enumerate(widenings, 3):
        if widens:
            head.widen()
            weight = torch.cat([weight, head.widened[-1].weight], 1)
        else:
            head.grow(number)
            missing = number - len(weight)
            weight = torch.cat([weight, head.blocks[-1].weight])
            bias = torch.cat([bias, head.blocks[-1].bias])
            assert len(head.blocks[-1].weight) == missing
    x = torch.randn(5, weight.shape[1])
    torch.testing.assert_close(head(x), F.linear(x, weight, bias))
    assert head.outputs == len(weight)
    head.grow(len(weight))  # does nothing
    assert head.outputs == len(weight)


# --- stage 1 ----------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 9), max_size=10), st.integers(10, 12))
def test_auxiliary_classes_are_the_new_ones_and_one_for_all_old(new: set[int], outputs: int) -> None:
    classes = auxiliary_classes(sorted(new), outputs).tolist()
    assert len(classes) == outputs
    assert [classes[label] for label in sorted(new)] == list(range(1, len(new) + 1))
    assert all(classes[label] == 0 for label in range(outputs) if label not in new)


class Watched(Expand):
    """Notes what the auxiliary classifier is asked and told, and the batches with their exemplars."""

    def learn(self, experience: Experience) -> None:
        self.trained: list[tuple[Tensor, Tensor]] = []
        super().learn(experience)

    def _replay(self, batch: Any, stored: Any, dealer: Any) -> Any:
        joined = super()._replay(batch, stored, dealer)
        self.trained.append((joined.y.clone(), torch.arange(len(joined.y)) < joined.fresh))
        return joined


def test_the_auxiliary_loss_is_asked_of_new_and_old_samples_alike(monkeypatch: Any) -> None:
    asked: list[tuple[Tensor, Tensor]] = []
    plain = F.cross_entropy

    def noting(scores: Tensor, target: Tensor, **options: Any) -> Tensor:
        asked.append((scores.detach(), target))
        return plain(scores, target, **options)

    ours = walk(Watched(balanced=0), "class", **NORM)
    monkeypatch.setattr("clarena_native.strategies.architecture.expand.F.cross_entropy", noting)
    for position, (new, outputs) in enumerate([([], 0), ([3], 2), ([4, 5], 3)]):
        asked.clear()
        ours.step(position)
        auxiliary = [(scores, target) for scores, target in asked if scores.shape[1] == outputs]
        if position == 0:
            continue
        assert len(auxiliary) == len(ours.strategy.trained)
        for (_, target), (y, fresh) in zip(auxiliary, ours.strategy.trained):
            assert target.tolist() == [1 + new.index(label) if label in new else 0 for label in y.tolist()]
            assert set(y[fresh].tolist()) <= set(new)
            assert not set(y[~fresh].tolist()) & set(new)


def test_without_its_weight_the_auxiliary_classifier_does_nothing() -> None:
    ends = [walk(Expand(auxiliary=weight), "class", **NORM).finish().parameters() for weight in (0.0, 1e-30, 1.0)]
    assert same(ends[0], ends[1])  # its gradient is lost in rounding
    assert not same(ends[0], ends[2])


def test_every_pass_replays_every_exemplar_once() -> None:
    ours = walk(Watched(balanced=0), "class", epochs=3, **NORM)
    ours.step(0)
    stored = len(ours.strategy.buffer)
    experience = ours.step(1)
    replayed = [int((~fresh).sum()) for _, fresh in ours.strategy.trained]
    steps = len(replayed) // 3
    assert [sum(replayed[start : start + steps]) for start in (0, steps, 2 * steps)] == [stored] * 3
    assert stored == 12
    assert experience.meter.replayed == 3 * stored


# --- the memory and stage 2 -------------------------------------------------------------------------------------------


def test_the_memory_is_balanced_and_the_best_of_herding() -> None:
    """Of each class the first of the slow definition, every experience by the features of then."""
    ours = walk(Expand, "class", buffer_size=12, **NORM)
    ranked: dict[int, Tensor] = {}
    for position in range(3):
        experience = ours.step(position)
        with torch.no_grad():
            for label in experience.classes:
                x = experience.x[experience.y == label]
                phi = F.normalize(ours.strategy._features(x), dim=1)
                left, chosen, mean = list(range(len(x))), [], phi.mean(0)
                while left and len(chosen) < 12:
                    so_far = sum((phi[i] for i in chosen), start=torch.zeros_like(mean))
                    best = min(left, key=lambda i: float((mean - (so_far + phi[i]) / (len(chosen) + 1)).norm()))
                    chosen.append(best)
                    left.remove(best)
                ranked[label] = x[chosen]
        stored = ours.strategy.buffer.everything()
        counts = stored["y"].bincount().tolist()
        assert sum(counts) == 12
        assert max(counts) - min(counts) <= 1
        for label, count in enumerate(counts):
            kept = {tuple(row.flatten().tolist()) for row in stored["x"][stored["y"] == label]}
            if position == 0 or label in experience.classes:  # stage 2 moved no feature
                assert kept == {tuple(row.flatten().tolist()) for row in ranked[label][:count]}


@pytest.mark.parametrize(("balanced", "epochs", "passes"), [(0, 4, 0), (1, 4, 1), (3, 4, 3), (9, 4, 3), (2, 1, 0)])
def test_stage_2_trains_the_head_alone_within_the_budget(balanced: int, epochs: int, passes: int) -> None:
    class Halfway(Expand):
        def _learn_classifier(self, experience: Experience, passes: int) -> None:
            self.before = copy.deepcopy(self.model), experience.meter.copy()
            super()._learn_classifier(experience, passes)

    ours = walk(Halfway(balanced=balanced), "class", epochs=epochs, **NORM)
    ours.step(0)
    assert not hasattr(ours.strategy, "before")
    experience = ours.step(1)
    assert experience.meter.samples == epochs * len(experience)
    assert hasattr(ours.strategy, "before") == bool(passes)
    if passes:
        model, meter = ours.strategy.before
        assert meter.samples == (epochs - passes) * len(experience)
        assert not differing(dict(model.backbone.state_dict()), dict(ours.strategy.model.backbone.state_dict()))
        moved = zip(model.head.parameters(), ours.strategy.model.head.parameters())
        assert not any(torch.equal(old, new) for old, new in moved)
        assert experience.meter.replayed - meter.replayed == passes * len(ours.strategy.buffer)


def test_stage_2_is_a_classifier_on_the_balanced_memory() -> None:
    """One pass of plain SGD at temperature δ, written out."""

    class Halfway(Expand):
        def _learn_classifier(self, experience: Experience, passes: int) -> None:
            self.model.double()
            weight, bias = dense(self.model)
            stored = self.buffer.everything()
            with torch.no_grad():
                phi = self.model.eval().backbone(stored["x"].double())
            generator = copy.deepcopy(self.context.generator("buffer").get_state())
            order = torch.randperm(len(phi), generator=torch.Generator().set_state(generator))
            steps = -(-len(experience) // 8)
            for step in range(steps):
                rows = order[step * len(phi) // steps : (step + 1) * len(phi) // steps]
                p = ((phi[rows] @ weight.T + bias) / 2.0).softmax(1)
                error = (p - F.one_hot(stored["y"][rows], p.shape[1])) / 2.0 / len(rows)
                weight, bias = weight - 0.01 * error.T @ phi[rows], bias - 0.01 * error.sum(0)
            self.expected = weight, bias
            self.buffer.stored_rows = self.buffer.stored_rows.double()
            super()._learn_classifier(experience, passes)

    ours = walk(Halfway(balanced=1, temperature=2.0), "class", optimizer="sgd", momentum=0.0, **NORM)
    ours.step(0)
    ours.step(1)
    weight, bias = dense(ours.strategy.model)
    torch.testing.assert_close(weight, ours.strategy.expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(bias, ours.strategy.expected[1], rtol=0, atol=1e-12)


def dense(model: WideModel) -> tuple[Tensor, Tensor]:
    """The head's weights as one matrix [outputs, all features], and its biases, after two experiences."""
    first, second = model.head.blocks
    (widened,) = model.head.widened
    weight = torch.cat([torch.cat([first.weight, widened.weight], 1), second.weight])
    return weight.detach().clone(), torch.cat([first.bias, second.bias]).detach().clone()


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: o["optimizer"])
def test_saved_after_any_experience_it_goes_on_bit_for_bit(optimiser: Any) -> None:
    whole = walk(Expand, "class", optimizer_state="kept", **NORM, **optimiser)
    states = []
    for position in range(3):
        whole.step(position)
        states.append(copy.deepcopy(whole.strategy.state_dict()))
    for done, state in enumerate(states, 1):
        resumed = walk(Expand, "class", optimizer_state="kept", **NORM, **optimiser)
        for position in range(done):
            resumed.realised.begin([position])
        resumed.strategy.load_state_dict(state)
        assert isinstance(resumed.strategy.model.backbone, Branches)
        assert not differing(dict(resumed.strategy.state_dict()), dict(state))
        resumed.finish(done)
        assert not differing(dict(resumed.strategy.state_dict()), dict(states[-1]))
        assert resumed.predict() == whole.predict()


def test_on_digits_it_forgets_far_less_than_finetune() -> None:
    """In the class scenario, where fine-tuning keeps little but the last two digits."""
    protocol = {"epochs": 5, "batch_size": 32, "learning_rate": 0.005, "buffer_size": 100}
    reached = {}
    for strategy in (Finetune, Expand):
        ours = walk(strategy, "class", backbone=Mlp, options={"hidden": (50,)}, benchmark=SplitDigits, **protocol)
        labels = torch.from_numpy(ours.realised.test.labels)
        reached[strategy] = float((torch.tensor(ours.finish().predict()) == labels).float().mean())
    assert reached[Finetune] < 0.4
    assert reached[Expand] > 0.85


def test_what_is_added_to_a_backbone_starts_as_it_says() -> None:
    class Marked(Mlp):
        @staticmethod
        def start(layer: nn.Linear) -> None:
            nn.init.constant_(layer.weight, 0.5)

    ours = walk(Expand, "class", backbone=Marked, options={"hidden": (8,)}, learning_rate=1e-12)
    ours.step(0)
    ours.step(1)
    layers = [*ours.strategy.model.head.blocks, *ours.strategy.model.head.widened]
    assert len(layers) == 3
    for layer in layers:
        torch.testing.assert_close(layer.weight, torch.full_like(layer.weight, 0.5), rtol=0, atol=1e-6)
