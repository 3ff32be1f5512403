"""The native backbones: shapes, sizes, norms, and what a single sample may and may not do."""

import pytest
import torch
from clarena_native.backbones.small import BatchNorm, Cnn, Mlp, TruncatedMlp, normalise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clarena import Model, UsageError

BACKBONES = [Mlp, Cnn]
NORMS = ["none", "batch", "group", "layer"]
PER_SAMPLE = ["none", "group", "layer"]


def numbers(model):
    return sum(parameter.numel() for parameter in model.parameters())


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 9, 5)])
@pytest.mark.parametrize(("backbone", "features"), [(Mlp, 400), (Cnn, 128)])
def test_features_have_the_promised_shape(backbone, features, shape, norm):
    model = backbone(shape, norm=norm)
    assert model.features == features
    assert model(torch.randn(3, *shape)).shape == (3, features)
    assert model(torch.randn(0, *shape)).shape == (0, features)


def test_numbers_of_parameters():
    assert numbers(Mlp((1, 28, 28))) == (784 * 400 + 400) + (400 * 400 + 400)
    assert numbers(Mlp((7,), hidden=(5,))) == 7 * 5 + 5
    convolutions = (1 * 9 * 32 + 32) + (32 * 9 * 64 + 64)
    assert numbers(Cnn((1, 8, 8))) == convolutions + (64 * 2 * 2 * 128 + 128)
    assert numbers(Cnn((1, 28, 28))) == convolutions + (64 * 7 * 7 * 128 + 128)
    for norm in ("batch", "group", "layer"):  # one scale and one shift for each channel or unit
        assert numbers(Mlp((1, 28, 28), norm=norm)) - numbers(Mlp((1, 28, 28))) == 2 * (400 + 400)
        assert numbers(Cnn((1, 8, 8), norm=norm)) - numbers(Cnn((1, 8, 8))) == 2 * (32 + 64 + 128)


def test_an_mlp_is_what_its_layers_say():
    model = Mlp((1, 2, 2), hidden=(3, 2))
    first, second = (part for part in model.modules() if isinstance(part, nn.Linear))
    x = torch.randn(5, 1, 2, 2)
    by_hand = (x.reshape(5, 4) @ first.weight.T + first.bias).clamp(min=0)
    by_hand = (by_hand @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(model(x), by_hand)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", PER_SAMPLE)
def test_a_sample_does_not_depend_on_its_batch(backbone, norm, training):
    model = backbone((1, 8, 8), norm=norm).train(training)
    x = torch.randn(6, 1, 8, 8)
    alone = torch.cat([model(sample[None]) for sample in x])
    torch.testing.assert_close(model(x), alone)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_batch_norm_depends_on_the_batch_in_training_alone(backbone):
    model = backbone((1, 8, 8), norm="batch")
    x = torch.randn(6, 1, 8, 8)
    assert not torch.allclose(model(x)[:3], model(x[:3]), atol=1e-3)
    model.eval()
    torch.testing.assert_close(model(x)[:3], model(x[:3]))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("norm", NORMS)
def test_one_sample_is_a_training_batch_like_any_other(backbone, norm):
    model = backbone((1, 8, 8), norm=norm)
    model(torch.randn(16, 1, 8, 8))  # so that running statistics are not those of a new model
    before = state(model)
    sample = torch.randn(1, 1, 8, 8)
    features = model(sample)
    features.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert features.count_nonzero() > 0
    torch.testing.assert_close(features, model.eval()(sample))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@given(shape=st.sampled_from([(2, 5), (7, 3), (2, 3, 4, 4), (5, 2, 1, 3)]))
@settings(max_examples=10, deadline=None)
def test_batch_norm_is_torchs_from_two_samples_on(shape):
    ours = BatchNorm(shape[1])
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1])
    x = torch.randn(shape)
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(state(ours).values(), state(theirs).values(), strict=True))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_the_layer_norm_is_torchs():
    [ours] = normalise("layer", 6)
    vectors, images = torch.randn(4, 6), torch.randn(4, 6, 3, 2)
    torch.testing.assert_close(ours(vectors), nn.LayerNorm(6)(vectors))
    torch.testing.assert_close(ours(images), nn.LayerNorm([6, 3, 2])(images))


@pytest.mark.parametrize(
    ("channels", "groups"), [(400, 8), (128, 8), (32, 8), (30, 6), (12, 3), (10, 2), (7, 1), (5, 1), (1, 1)]
)
def test_groups_divide_the_channels_and_are_not_too_small(channels, groups):
    [norm] = normalise("group", channels)
    assert norm.num_groups == groups


def test_dropout_acts_in_training_alone_and_is_absent_at_zero():
    torch.manual_seed(0)
    model = Mlp((1, 8, 8), hidden=(1000,), dropout=0.25)
    x = torch.randn(1, 1, 8, 8)
    dense = model.eval()(x)
    sparse = model.train()(x)
    kept = sparse[dense > 0] > 0
    assert 0.65 < kept.float().mean() < 0.85
    torch.testing.assert_close(sparse[dense > 0][kept], dense[dense > 0][kept] / 0.75)
    assert not any(isinstance(part, nn.Dropout) for part in Mlp((1, 8, 8)).modules())


def test_options_are_kept_verbatim():
    mlp = Mlp((4,), hidden=(3, 2), norm="layer", dropout=0.5)
    assert (mlp.input_shape, mlp.hidden, mlp.norm, mlp.dropout) == ((4,), (3, 2), "layer", 0.5)
    cnn = Cnn((3, 8, 8), widths=(4,), features=6, norm="batch")
    assert (cnn.input_shape, cnn.widths, cnn.features, cnn.norm) == ((3, 8, 8), (4,), 6, "batch")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mlp((4,), hidden=()), r"mlp\.hidden"),
        (lambda: Mlp((4,), hidden=(3, 0)), r"mlp\.hidden"),
        (lambda: Mlp((4,), hidden=(-3,)), r"mlp\.hidden"),
        (lambda: Mlp((4,), dropout=1.0), r"mlp\.dropout"),
        (lambda: Mlp((4,), dropout=-0.1), r"mlp\.dropout"),
        (lambda: Mlp((4,), norm="instance"), "none, batch, group or layer"),
        (lambda: Cnn((1, 8, 8), widths=()), r"cnn\.widths"),
        (lambda: Cnn((1, 8, 8), features=0), r"cnn\.features"),
        (lambda: Cnn((1, 8, 8), norm="instance"), "none, batch, group or layer"),
        (lambda: Cnn((64,)), "--backbone mlp"),
        (lambda: Cnn((1, 28, 3)), r"28×3.*fewer cnn\.widths"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_a_truncated_start_reaches_the_head_and_all_that_grows_on_it():
    torch.manual_seed(0)
    model = Model(TruncatedMlp((1, 4, 4)))
    model.head.grow(100)
    model.head.grow(200)
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    assert len(linear) == 4
    for layer in linear:
        assert layer.weight.abs().max() <= 0.2
        assert abs(layer.weight.std().item() - 0.088) < 0.003  # 0.1 · sqrt(1 − 4 φ(2) / (2 Φ(2) − 1))
        assert (layer.bias == 0.1).all()
    plain = Model(Mlp((1, 4, 4)))
    plain.head.grow(100)
    assert (plain.head.blocks[0].bias != 0.1).all()
