"""Views that a strategy takes of a batch: what they show, that each is counted, and who may have which."""

import copy
import math

import numpy as np
import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.replay.er import ER
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.ndimage import map_coordinates
from scipy.stats import kstest
from tiny import CPU, same, walk
from torch import nn

from clarena import Batch, Experience, GradientStrategy, PluginError, UsageError, as_given, evaluate
from clarena.checks.tiny import TinyMlp
from clarena.contract.augmentation import Augmentation, augmented, contrastive
from clarena.contract.experience import HiddenStream
from clarena.contract.outputs import OutputSpace
from clarena.contract.rows import Rows
from clarena.contract.views import granted_policy
from clarena.errors import SpentError
from clarena.protocol.protocol import Protocol
from clarena.toolbox.seeding import AUGMENTATION


class TwoViews(GradientStrategy):
    """Holds the scores of two views of each sample near each other; `taken` of them, by the policy `by`."""

    name = "two-views"
    reference = "Made up for a test."
    taken = 2
    by = None
    weight = 1.0

    def setup(self, context):
        super().setup(context)
        self.granted = context.granted_policy(self.by)

    def loss(self, batch):
        with as_given():
            scores = [self.model(batch.view(self.granted)) for _ in range(self.taken)]
        return super().loss(batch) + self.weight * sum((s - batch.scores).square().mean() for s in scores)


class OwnViews(TwoViews):
    """The same, by a policy of its own."""

    name = "own-views"
    by = "contrastive"


class WithExemplars(ER, TwoViews):
    """The same, of exemplars too."""

    name = "with-exemplars"


def experience(samples=10, **changes):
    protocol = Protocol(**{"epochs": 2, "batch_size": 4} | changes)
    space = OutputSpace("domain", protocol, 3, CPU)
    space.begin([frozenset({0, 1, 2})])
    return Experience(
        position=0,
        task=None,
        classes=(0, 1, 2),
        outputs=3,
        space=space,
        rows=Rows.of(torch.arange(float(samples * 27)).view(samples, 3, 3, 3)),
        y=torch.arange(samples) % 3,
        tasks=None,
        protocol=protocol,
        generator=torch.Generator().manual_seed(7),
        view_generator=torch.Generator().manual_seed(8),
    )


def first(**changes):
    data = experience(**changes)
    return data, next(data.batches())


# --- what a view shows


def test_without_augmentation_a_view_is_the_input_counted_and_nothing_is_drawn():
    data, batch = first()
    state = data.view_generator.get_state()
    assert torch.equal(batch.view(), batch.x)
    assert torch.equal(data.view_generator.get_state(), state)
    assert data.meter.viewed == 4


@pytest.mark.parametrize("kind", ["crop", "flip", "crop-flip", "contrastive"])
def test_views_are_the_protocols_newly_drawn_from_a_stream_of_their_own(kind):
    data, batch = first(augmentation=kind)
    plain, order = batch.x.clone(), data.generator.get_state()
    theirs, ours = AUGMENTATION.get_state(), torch.Generator().manual_seed(8)
    seen = [batch.view() for _ in range(5)]
    assert all(torch.equal(view, augmented(plain, kind, ours)) for view in seen)
    assert {view.shape for view in seen} == {plain.shape}
    assert any(not torch.equal(view, seen[0]) for view in seen)
    assert torch.equal(batch.x, plain)
    assert torch.equal(AUGMENTATION.get_state(), theirs)
    assert torch.equal(data.generator.get_state(), order)


def test_a_view_passes_as_it_is_under_as_given_and_through_the_protocols_elsewhere():
    hook, x = Augmentation("flip"), torch.arange(6.0).view(1, 1, 2, 3)
    network = nn.Identity().train()
    network.register_forward_pre_hook(hook)
    with as_given():
        with pytest.raises(ZeroDivisionError), as_given():
            raise ZeroDivisionError
        assert all(torch.equal(network(x), x) for _ in range(20))
    assert any(not torch.equal(network(x), x) for _ in range(20))


@pytest.mark.parametrize("augmentation", [None, "crop-flip"])
def test_taking_a_view_moves_no_other_draw(augmentation):
    """Views that are taken and not used change nothing, to the bit."""

    class Idle(Finetune):
        def loss(self, batch):
            batch.view(), batch.view()
            return super().loss(batch)

    ours, plain = (walk(cls, augmentation=augmentation).finish() for cls in (Idle, Finetune))
    assert same(ours.parameters(), plain.parameters())


# --- views of contrastive learning, against slow definitions in double precision


def one_view(image, u):
    """One image [3, height, width], pixel by pixel and step by step."""
    channels, height, width = image.shape
    area, ratio = 0.2 + 0.8 * u[0], (3 / 4) ** (1 - 2 * u[1])
    across, down = min(1, math.sqrt(area * ratio)), min(1, math.sqrt(area / ratio))
    left, top = u[2] * (1 - across), u[3] * (1 - down)
    columns = [(left + across * (j + 0.5) / width) * width - 0.5 for j in range(width)]
    if u[4] < 0.5:
        columns.reverse()
    rows = [(top + down * (i + 0.5) / height) * height - 0.5 for i in range(height)]
    grid = np.meshgrid(rows, columns, indexing="ij")
    part = np.stack([map_coordinates(image[c], grid, order=1, mode="nearest") for c in range(channels)])
    luma = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.full(channels, 1 / channels)

    def grey(x):
        return np.tensordot(luma, x, 1)

    if u[5] < 0.8:
        brightness, contrast, saturation = (0.6 + 0.8 * value for value in u[6:9])
        part = part * brightness
        part = contrast * part + (1 - contrast) * grey(part).mean()
        if channels == 3:
            part = saturation * part + (1 - saturation) * grey(part)
            axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
            part = np.tensordot(expm((2 * u[9] - 1) * 0.2 * math.pi * axis), part, 1)
    if channels == 3 and u[10] < 0.2:
        part = np.stack([grey(part)] * 3)
    return part


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([1, 2, 3]), st.integers(2, 7), st.integers(2, 7))
def test_a_contrastive_view_is_a_part_enlarged_mirrored_and_recoloured(seed, images, channels, height, width):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64)
    u = torch.rand(images, 11, generator=generator, dtype=torch.float64)
    seen = contrastive(x, u)
    assert (seen.shape, seen.dtype) == (x.shape, x.dtype)
    for image, drawn, result in zip(x.numpy(), u.numpy(), seen.numpy(), strict=True):
        np.testing.assert_allclose(result, one_view(image, drawn), atol=1e-12)


def test_the_whole_image_in_its_own_colours_is_the_image():
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    u = torch.tensor([[1, 0.5, 0, 0, 0.9, 0.9, 0, 0, 0, 0, 0.9]], dtype=torch.float64).expand(2, 11)
    assert torch.allclose(contrastive(x, u), x, atol=1e-12)
    mirrored = u.index_fill(1, torch.tensor([4]), 0.1)
    assert torch.allclose(contrastive(x, mirrored), x.flip(-1), atol=1e-12)


def test_each_image_draws_once_however_the_batch_is_cut():
    x = torch.rand(40, 3, 6, 6)
    whole = augmented(x, "contrastive", torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    parts = torch.cat([augmented(part, "contrastive", generator) for part in x.split(7)])
    assert torch.allclose(parts, whole, atol=1e-6)


def test_brightness_is_drawn_as_the_definition_says():
    """Of images that are white all over, a view shows nothing but its brightness: 0.6 to 1.4, in four of five cases."""
    seen = augmented(torch.ones(20_000, 1, 4, 4), "contrastive", torch.Generator().manual_seed(5))
    level = seen.mean(dim=(1, 2, 3))
    changed = (level - 1).abs() > 1e-4
    assert abs(float(changed.double().mean()) - 0.8) < 0.01
    assert kstest((level[changed].numpy() - 0.6) / 0.8, "uniform").pvalue > 0.001


# --- each is counted, and no more are given than the protocol allows


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["whole", "stream", "exemplars", "join"]), st.integers(1, 5)), max_size=12))
def test_every_view_of_a_batch_of_its_parts_and_of_what_is_joined_is_counted(actions):
    data, batch = first()
    viewed = 0
    for action, size in actions:
        if action == "join":
            batch = batch.join(torch.zeros(size, 3, 3, 3), torch.zeros(size, dtype=torch.long), None, None)
            continue
        part = batch if action == "whole" else batch.stream() if action == "stream" else batch.exemplars()
        viewed += len(part.view())
        assert data.meter.viewed == viewed
    assert data.meter.viewed == viewed


@given(st.integers(0, 3), st.integers(0, 6), st.integers(1, 4))
def test_as_many_views_as_the_protocol_allows_of_each_sample_of_a_step(allowed, exemplars, parts):
    data = experience(views=allowed)
    for batch in data.batches():
        if exemplars:
            batch = batch.join(torch.zeros(exemplars, 3, 3, 3), torch.zeros(exemplars, dtype=torch.long), None, None)
        cuts = [slice(start, start + parts) for start in range(0, len(batch), parts)]
        for _ in range(allowed):
            for cut in cuts:
                batch._part(cut, 0).view()
        with pytest.raises(
            SpentError, match=rf"protocol\.views={allowed} of each.*--set protocol\.views={allowed + 1}"
        ):
            batch.view()


def test_samples_that_are_scanned_may_be_viewed_too_and_count():
    data = experience()
    assert sum(len(batch.view()) for batch in data.scan()) == data.meter.viewed == 10


def test_nobody_counts_views_of_a_batch_that_a_strategy_made():
    data, batch = first()
    made = Batch(batch.x, batch.y, None, batch.index, None, fresh=4)
    with pytest.raises(PluginError, match=r"made by itself.*batch\.join"):
        made.view()
    made.views = batch.views
    assert len(made.view()) == data.meter.viewed == 4


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_meter_has_what_a_strategy_took_of_stream_and_exemplars(accumulation):
    ours = walk(WithExemplars, accumulation=accumulation)
    for position in range(3):
        meter = ours.step(position).meter
        assert meter.viewed == 2 * (meter.samples + meter.replayed)
        assert meter.replayed or not position


def test_where_boundaries_are_hidden_views_count_on_the_streams_meter():
    ours = walk(TwoViews, boundaries="hidden", optimizer_state="kept", views=2)
    ours.realised.begin_hidden()
    parts = (ours.realised.experience(positions) for positions in ours.realised.steps)
    stream = HiddenStream(parts, ours.realised.space, ours.realised.protocol)
    ours.strategy.learn(stream)
    assert stream.meter.viewed == 2 * stream.meter.samples == 2 * 2 * 68


def run(store, strategy, **protocol):
    given = {"epochs": 1, "limit": 16} | protocol
    settings = {"protocol": given, "benchmark": {"experiences": 2}}
    return evaluate(strategy, settings=settings, seeds=1, jobs=1, store=store / "runs", track=False).records[0]


def test_a_record_says_how_many_and_one_without_any_is_as_it_was(tmp_path):
    taken, none = run(tmp_path, TwoViews), run(tmp_path, "finetune")
    assert [cost.viewed for cost in taken.costs] == [32, 32]
    assert [cost.viewed for cost in none.costs] == [0, 0]
    assert ['"viewed"' in record.model_dump_json() for record in (taken, none)] == [True, False]
    again = type(taken).model_validate_json(taken.model_dump_json())
    assert again.costs == taken.costs


# --- who may have which


def test_who_takes_more_views_than_are_allowed_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match=r"two-views cannot learn on this track.*--set protocol\.views=2, or none"):
        run(tmp_path, TwoViews, views=1)
    assert not (tmp_path / "runs").exists()
    assert run(tmp_path, TwoViews, views=2).status == run(tmp_path, "finetune", views=0).status == "finished"


def test_an_own_policy_is_refused_before_anything_runs_unless_the_protocol_has_room_for_it(tmp_path):
    words = r"'contrastive' would be the strategy's own.*protocol\.augmentation=none.*--set protocol\.own_views=true"
    with pytest.raises(UsageError, match=words):
        run(tmp_path, OwnViews)
    assert not (tmp_path / "runs").exists()
    assert run(tmp_path, OwnViews, own_views=True).status == "finished"
    assert run(tmp_path, OwnViews, augmentation="contrastive").status == "finished"  # as everyone


def test_a_policy_that_was_not_asked_for_in_setup_is_refused_in_the_run():
    _, batch = first()
    with pytest.raises(UsageError, match="would be the strategy's own"):
        batch.view("flip")
    _, batch = first(own_views=True)
    assert batch.view("flip").shape == batch.x.shape


def test_what_no_policy_is_called_and_what_is_no_image():
    free = Protocol(own_views=True)
    with pytest.raises(UsageError, match=r"no policy of views named 'flop'[.\s\S]*Did you mean 'flip'"):
        granted_policy(free, "flop", (3, 8, 8))
    with pytest.raises(UsageError, match=r"of images \[channels, height, width\], but inputs have shape \(64,\)"):
        granted_policy(free, "flip", (64,))
    assert granted_policy(free, None, (64,)) is None
    assert granted_policy(Protocol(augmentation="flip"), "flip", (3, 8, 8)) == "flip"


# --- a run goes on


@pytest.mark.parametrize("augmentation", ["contrastive", "crop-flip"])
def test_a_run_goes_on_as_if_nothing_had_happened(augmentation):
    whole, half, other = (walk(TwoViews, augmentation=augmentation, backbone=TinyMlp) for _ in range(3))
    half.step(0)
    other.realised.begin([0])
    other.strategy.load_state_dict(copy.deepcopy(half.strategy.state_dict()))
    assert same(other.finish(1).parameters(), whole.finish().parameters())
