"""Augmentation: the views themselves, their chances, and who sees them: training passes, and nothing that is kept."""

import copy
import pickle
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from clarena_native.strategies.distillation.lwf import LwF
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.replay.er import ER
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny import same, walk
from torch import nn

from clarena import UsageError, evaluate
from clarena.checks.tiny import SHAPE, TinyMlp, TinyStream
from clarena.contract.augmentation import PADDING, Augmentation, views
from clarena.plugins.composite import part_names
from clarena.plugins.host import Host, PluginSources
from clarena.toolbox.seeding import AUGMENTATION, Seeds, forked

HOST = Host.discover(PluginSources(third_party=False))
NATIVE = [HOST.strategies.load(entry.name) for entry in HOST.strategies if entry.plugin == "native"]
APART = {"den", "pnn"}
"""They build a network of their own from the layers of a backbone."""
FROZEN = {"l2p", "dualprompt", "coda-prompt", "ncm", "slda", "ridge", "ranpac", "fecam", "randumb", "aper", "ease"}
"""Their backbone never learns, so that it sees no views; and some take only one that works on tokens."""
STORING = {"er", "der", "der++", "gem", "agem", "icarl", "gdumb", "mer", "la-maml", "c-maml", "expand", "scr"}
KINDS = ("crop", "flip", "crop-flip")


def view(image, padding, top, left, mirror):
    """One image [channels, height, width], pixel by pixel."""
    channels, height, width = image.shape
    seen = torch.zeros_like(image)
    for c, i, j in product(range(channels), range(height), range(width)):
        row, column = i + top - padding, (width - 1 - j if mirror else j) + left - padding
        if 0 <= row < height and 0 <= column < width:
            seen[c, i, j] = image[c, row, column]
    return seen


def places(kind):
    """Every (top, left, mirror) that a kind has, with its padding."""
    padding = 0 if kind == "flip" else PADDING
    offsets = range(2 * padding + 1)
    return padding, list(product(offsets, offsets, [False] if kind == "crop" else [False, True]))


def trained(kind, x):
    return Augmentation(kind)(nn.Identity().train(), (x,))


def numbered(images, *shape):
    return torch.arange(1.0, 1 + images * torch.Size(shape).numel()).view(images, *shape)


# --- the views


@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_a_view_is_a_crop_of_the_padded_image_then_mirrored(data, images, channels, height, width, padding):
    x = numbered(images, channels, height, width)
    drawn = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2 * padding), st.integers(0, 2 * padding), st.booleans()),
            min_size=images,
            max_size=images,
        )
    )
    top, left, mirror = (torch.tensor(column) for column in zip(*drawn, strict=True))
    seen = views(x, padding, top, left, mirror)
    assert (seen.shape, seen.dtype, seen.is_contiguous()) == (x.shape, x.dtype, True)
    for image, result, place in zip(x, seen, drawn, strict=True):
        assert torch.equal(result, view(image, padding, *place))


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_is_as_likely_as_any_other(kind):
    image = numbered(1, 1, 9, 9)[0]
    padding, possible = places(kind)
    names = {view(image, padding, *place).numpy().tobytes(): place for place in possible}
    assert len(names) == len(possible) == {"crop": 81, "flip": 2, "crop-flip": 162}[kind]
    AUGMENTATION.manual_seed(5)
    seen = Counter(names[row.numpy().tobytes()] for row in trained(kind, image.expand(20_000, -1, -1, -1)))
    assert chisquare([seen[place] for place in possible]).pvalue > 0.001


def test_each_image_draws_once_however_the_batch_is_cut():
    x = numbered(40, 2, 9, 9)
    AUGMENTATION.manual_seed(5)
    whole = trained("crop-flip", x)
    AUGMENTATION.manual_seed(5)
    assert torch.equal(torch.cat([trained("crop-flip", part) for part in x.split(7)]), whole)
    assert not torch.equal(trained("crop-flip", x), whole)


def test_views_start_anew_with_each_experience_and_a_fork_leaves_no_trace():
    seeds, x = Seeds(3), numbered(8, 1, 9, 9)
    drawn = []
    for experience in (0, 1, 0):
        seeds.start(experience)
        drawn.append(trained("crop-flip", x))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    before = AUGMENTATION.get_state()
    with forked(7):
        first = trained("crop-flip", x)
    assert torch.equal(AUGMENTATION.get_state(), before)
    with forked(7):
        assert torch.equal(trained("crop-flip", x), first)


# --- who sees them


class Watched(TinyMlp):
    """Keeps what it is given, by mode."""

    seen: dict[bool, list[torch.Tensor]]

    def forward(self, x):
        Watched.seen[self.training].append(x.detach().clone())
        return super().forward(x)


@pytest.fixture
def seen():
    Watched.seen = {True: [], False: []}
    return Watched.seen


def rows(tensors):
    return [row.numpy().tobytes() for tensor in tensors for row in tensor]


def learned(cls, scenario="class", **protocol):
    known = {"stream_length": "known"} if "known_stream_length" in cls.needs else {}
    return walk(cls, scenario, backbone=Watched, **known | protocol)


@pytest.fixture(scope="module")
def possible_views():
    padding, possible = places("crop-flip")
    return {view(x, padding, *place).numpy().tobytes() for x in TinyStream().data().x_train for place in possible}


ADDED = {cls.name for cls in NATIVE if "adapters" in cls.needs}
"""They work on other backbones than the one here, and say in their own tests what these see."""
WHOLE = [HOST.strategy("er+lwf+si"), *(cls for cls in NATIVE if cls.name not in APART | FROZEN | ADDED)]


@pytest.mark.parametrize("cls", WHOLE, ids=lambda cls: cls.name)
def test_training_sees_views_and_all_else_is_plain(cls, seen, possible_views):
    """Stored, scanned and tested are the samples themselves, bit for bit, and training passes see nothing but views."""
    ours = learned(cls, augmentation="crop-flip").finish()
    ours.predict()
    data = ours.realised.data
    samples, tested = set(rows([data.x_train])), set(rows([data.x_test]))
    assert set(rows(seen[False])) <= samples | tested

    passed = rows(seen[True])
    assert set(passed) <= possible_views
    assert sum(row not in samples for row in passed) > 0.9 * len(passed)

    state = ours.strategy.state_dict()
    stored = rows([t.cpu() for t in state.values() if isinstance(t, torch.Tensor) and t.shape[1:] == SHAPE])
    assert set(stored) <= samples
    assert bool(stored) is bool(STORING & set(part_names(cls.name)))


@pytest.mark.parametrize("cls", [Finetune, ER, LwF], ids=lambda cls: cls.name)
def test_views_move_no_other_draw(cls, seen, monkeypatch):
    """Were the views the images themselves, nothing would differ: batches, exemplars and first values are the same."""
    plain = learned(cls).finish()
    state = AUGMENTATION.get_state()
    monkeypatch.setattr("clarena.contract.augmentation.views", lambda x, *place: x)
    other = learned(cls, augmentation="crop-flip").finish()
    assert same(other.parameters(), plain.parameters())
    assert not torch.equal(AUGMENTATION.get_state(), state)  # it did draw


def test_without_augmentation_nothing_is_drawn_or_hooked(seen):
    ours = learned(ER)
    ours.step(0)
    fresh = Seeds(0)
    fresh.start(0)
    drawn = AUGMENTATION.get_state()
    ours.step(0)
    assert torch.equal(AUGMENTATION.get_state(), drawn)
    assert not any(module._forward_pre_hooks for module in ours.strategy.modules())
    assert set(rows(seen[True])) <= set(rows([ours.realised.data.x_train]))


SWITCHED = [cls for cls in NATIVE if cls.off and not cls.needs]


@pytest.mark.parametrize("cls", SWITCHED, ids=lambda cls: cls.name)
def test_switched_off_it_is_finetune_bit_for_bit(cls, seen):
    off, plain = (learned(strategy, augmentation="crop") for strategy in (cls(**cls.off), Finetune()))
    assert same(off.finish().parameters(), plain.finish().parameters())


@pytest.mark.parametrize("cls", [ER, LwF], ids=lambda cls: cls.name)
@pytest.mark.parametrize("way", ["deep copy", "pickle", "state"])
def test_a_run_goes_on_from_any_copy(cls, way, seen):
    whole, half = (learned(cls, augmentation="crop-flip") for _ in range(2))
    half.step(0)
    if way == "state":
        other = learned(cls, augmentation="crop-flip")
        other.realised.begin([0])
        other.strategy.load_state_dict(copy.deepcopy(half.strategy.state_dict()))
        half = other
    else:
        half = copy.deepcopy(half) if way == "deep copy" else pickle.loads(pickle.dumps(half))
    assert same(half.finish(1).parameters(), whole.finish().parameters())


def test_a_copy_of_a_model_draws_from_the_one_stream(seen):
    ours = learned(Finetune, augmentation="crop-flip")
    twin, x = copy.deepcopy(ours.strategy.model).train(), ours.realised.data.x_train
    ours.strategy.model.train()
    outputs = []
    for model in (ours.strategy.model, twin, ours.strategy.model):
        ours.realised.begin([0])
        outputs.append(model.backbone(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


# --- what does not go together


@pytest.mark.parametrize("name", sorted(APART))
def test_a_strategy_that_takes_the_backbone_apart_refuses(name):
    with pytest.raises(UsageError, match=f"{name} takes the backbone apart .* protocol.augmentation does not reach"):
        walk(HOST.strategies.load(name), "task", augmentation="flip")


def plan(tmp_path, kind, **request):
    settings = {"protocol": {"augmentation": kind, "epochs": 1, "limit": 8}, "benchmark": {"experiences": 2}}
    return evaluate("finetune", settings=settings, seeds=[0], store=tmp_path, track=False, **request)


def test_inputs_that_are_no_images_refuse_before_anything_runs(tmp_path):
    table = tmp_path / "rows.npz"
    x, y = np.zeros((20, 5), np.float32), np.arange(20) % 4
    np.savez(table, x_train=x, y_train=y, x_test=x + 1, y_test=y)
    with pytest.raises(UsageError, match=r"crops and mirrors images \[channels, height, width\], but .* shape \(5,\)"):
        plan(tmp_path / "runs", "crop", benchmark=f"split:{table}", backbone="mlp")
    assert not (tmp_path / "runs").exists()


def test_an_unknown_kind_is_refused_and_none_is_none(tmp_path):
    with pytest.raises(UsageError, match=r"protocol.augmentation is not valid: .*'flip', 'crop-flip' or 'contrastive'"):
        plan(tmp_path, "blur")
    plain = plan(tmp_path, "none").records[0].cell.track.protocol
    assert plain.augmentation is None
