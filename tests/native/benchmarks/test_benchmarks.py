"""The native benchmarks: what their streams hold, and what their transforms do."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from clarena_native.benchmarks.digits import PermutedDigits, RotatedDigits, SplitDigits
from clarena_native.benchmarks.families import Permutation, Rotation, rotation_grid
from clarena_native.benchmarks.mnist import (
    RotatedMnist,
    SplitMnist,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clarena import Data, UsageError
from clarena.contract.benchmark import limited

DIGITS = [SplitDigits, PermutedDigits, RotatedDigits]
seeds = st.integers(0, 2**32 - 1)


def stream_of(benchmark, scenario=None, seed=0):
    return benchmark.stream(benchmark.data(), scenario or benchmark.scenarios[0], np.random.default_rng(seed))


def same(one, other):
    """Whether two streams are alike, transforms included."""
    data = torch.rand(3, 1, 8, 8)
    return one.output_names == other.output_names and all(
        torch.equal(a.train, b.train)
        and torch.equal(a.y_train, b.y_train)
        and torch.equal(a.test, b.test)
        and torch.equal(a.y_test, b.y_test)
        and torch.equal(*(s.transform(data) if s.transform else data for s in (a, b)))
        for a, b in zip(one.splits, other.splits, strict=True)
    )


@given(experiences=st.integers(1, 10), seed=seeds, scenario=st.sampled_from(SplitDigits.scenarios))
@settings(max_examples=40, deadline=None)
def test_a_split_stream_partitions_data_and_classes(experiences, seed, scenario):
    benchmark = SplitDigits(experiences=experiences)
    data, stream = benchmark.data(), stream_of(benchmark, scenario, seed)
    assert len(stream.splits) == experiences
    for part, source in (("train", data.y_train), ("test", data.y_test)):
        rows = torch.cat([getattr(split, part) for split in stream.splits])
        assert torch.equal(rows.sort().values, torch.arange(len(source)))
    groups = [data.y_train[split.train].unique().tolist() for split in stream.splits]
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    assert sorted(itertools.chain(*groups)) == list(range(10))
    first = 0
    for split, size, group in zip(stream.splits, sizes, groups, strict=True):
        assert split.classes == tuple(range(first, first + size)), "labels count positions in the stream"
        assert data.y_test[split.test].unique().tolist() == group
        pairs = set(zip(data.y_train[split.train].tolist(), split.y_train.tolist(), strict=True))
        assert pairs == set(zip(data.y_test[split.test].tolist(), split.y_test.tolist(), strict=True))
        assert len(pairs) == size, "one label for each class"
        if scenario != "domain":
            first += size
            assert all(stream.output_names[label] == data.class_names[source] for source, label in pairs)
    assert stream.outputs == (sizes[0] if scenario == "domain" else 10)


def test_natural_order_deals_the_classes_as_they_are_numbered():
    benchmark = SplitDigits(experiences=3, class_order="natural")
    data = benchmark.data()
    for scenario in ("class", "task"):
        stream = stream_of(benchmark, scenario)
        assert [split.classes for split in stream.splits] == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
        assert all(torch.equal(split.y_train, data.y_train[split.train]) for split in stream.splits)
        assert stream.output_names == tuple("0123456789")
    stream = stream_of(benchmark, "domain")
    assert [split.classes for split in stream.splits] == [(0, 1, 2, 3), (0, 1, 2), (0, 1, 2)]
    assert torch.equal(stream.splits[1].y_test, data.y_test[stream.splits[1].test] - 4)
    assert stream.outputs == 4


@pytest.mark.parametrize("experiences", [0, 11])
def test_there_must_be_a_class_for_every_experience(experiences):
    with pytest.raises(UsageError, match=f"10 classes into {experiences}"):
        stream_of(SplitDigits(experiences=experiences))


@given(seed=seeds, benchmark=st.sampled_from([SplitDigits, PermutedDigits, RotatedDigits]))
@settings(max_examples=20, deadline=None)
def test_the_stream_is_a_function_of_the_seed(seed, benchmark):
    assert same(stream_of(benchmark(), seed=seed), stream_of(benchmark(), seed=seed))


@pytest.mark.parametrize("benchmark", DIGITS)
def test_seeds_differ(benchmark):
    assert not any(
        same(*(stream_of(benchmark(), seed=s) for s in pair)) for pair in itertools.combinations(range(4), 2)
    )


@pytest.mark.parametrize("benchmark", [PermutedDigits, RotatedDigits])
def test_every_experience_has_all_the_data_under_its_own_transform(benchmark):
    for scenario in benchmark.scenarios:
        data, stream = benchmark(experiences=3).data(), stream_of(benchmark(experiences=3), scenario)
        assert stream.outputs == (10 if scenario == "domain" else 30)
        for position, split in enumerate(stream.splits):
            shift = 0 if scenario == "domain" else 10 * position
            assert torch.equal(split.train, torch.arange(len(data.x_train)))
            assert torch.equal(split.y_train, data.y_train + shift)
            assert torch.equal(split.y_test, data.y_test + shift)
            assert split.classes == tuple(range(shift, shift + 10))


def test_permutations_reorder_values_and_the_first_experience_is_left_alone():
    stream = stream_of(PermutedDigits(experiences=4))
    x = torch.rand(5, 1, 8, 8)
    assert stream.splits[0].transform is None
    for split in stream.splits[1:]:
        permuted = split.transform(x)
        assert permuted.shape == x.shape
        assert not torch.equal(permuted, x)
        index = split.transform.index
        assert torch.equal(index.sort().values, torch.arange(64))
        assert torch.equal(Permutation(index.argsort())(permuted), x)
        assert torch.equal(permuted.flatten(1)[:, 0], x.flatten(1)[:, index[0]])


def test_a_longer_permuted_stream_begins_with_the_shorter():
    short, long = (stream_of(PermutedDigits(experiences=n), seed=3) for n in (3, 5))
    for a, b in zip(short.splits[1:], long.splits[1:3], strict=True):
        assert torch.equal(a.transform.index, b.transform.index)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (5, 5)])
@pytest.mark.parametrize("background", [0.0, -0.42])
def test_quarter_turns_are_exact_and_anticlockwise(size, background):
    x = torch.randn(3, 2, *size)
    for turns in range(5):
        rotation = Rotation(rotation_grid(90 * turns, *size), background)
        torch.testing.assert_close(rotation(x), torch.rot90(x, turns, (2, 3)), atol=1e-4, rtol=0)


def test_half_a_turn_of_an_image_that_is_not_square():
    x = torch.randn(2, 1, 4, 7)
    turned = Rotation(rotation_grid(180, 4, 7), 0.0)(x)
    torch.testing.assert_close(turned, x.flip(2, 3), atol=1e-4, rtol=0)


def test_a_rotation_interpolates_between_four_pixels():
    """The bilinear definition, pixel by pixel, as an independent oracle."""
    height, width, degrees, background = 5, 6, 33.0, -2.0
    image = torch.rand(height, width, dtype=torch.float64)
    padded = torch.full((height + 20, width + 20), background, dtype=torch.float64)
    padded[10:-10, 10:-10] = image
    expected = torch.empty_like(image)
    turn = np.exp(1j * np.radians(degrees))  # the y axis points down, so turning back is a product with it
    for row, column in itertools.product(range(height), range(width)):
        point = turn * complex(column - (width - 1) / 2, row - (height - 1) / 2)
        x, y = point.real + (width - 1) / 2 + 10, point.imag + (height - 1) / 2 + 10
        i, j = int(np.floor(y)), int(np.floor(x))
        u, v = y - i, x - j
        top = (1 - v) * padded[i, j] + v * padded[i, j + 1]
        bottom = (1 - v) * padded[i + 1, j] + v * padded[i + 1, j + 1]
        expected[row, column] = (1 - u) * top + u * bottom
    turned = Rotation(rotation_grid(degrees, height, width), background)(image[None, None])
    torch.testing.assert_close(turned[0, 0], expected, atol=1e-5, rtol=0)


def test_corners_are_filled_with_the_background():
    benchmark = RotatedMnist(experiences=4, order="natural")
    black = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    data = Data(black, torch.arange(4), black, torch.arange(4), tuple("abcd"))
    for split in benchmark.stream(data, "domain", np.random.default_rng(0)).splits[1:]:
        turned = split.transform(benchmark.inputs(black))
        torch.testing.assert_close(turned, torch.full_like(turned, -0.1307 / 0.3081))


def test_angles_divide_the_range_evenly():
    natural = stream_of(RotatedDigits(experiences=4, max_angle=360.0, order="natural"))
    x = torch.rand(2, 1, 8, 8)
    assert natural.splits[0].transform is None
    for turns, split in enumerate(natural.splits[1:], start=1):
        torch.testing.assert_close(split.transform(x), torch.rot90(x, turns, (2, 3)), atol=1e-4, rtol=0)
    shuffled = stream_of(RotatedDigits(experiences=4, max_angle=360.0), seed=1)
    turned = [split.transform(x) if split.transform else x for split in shuffled.splits]
    for turns in range(4):
        hits = [torch.allclose(image, torch.rot90(x, turns, (2, 3)), atol=1e-4) for image in turned]
        assert sum(hits) == 1


@pytest.mark.parametrize("benchmark", [PermutedDigits, RotatedDigits])
def test_transforms_are_batched_repeatable_and_picklable(benchmark):
    x = torch.randn(6, 1, 8, 8)
    before = x.clone()
    for transform in filter(None, (split.transform for split in stream_of(benchmark()).splits)):
        batched = transform(x)
        torch.testing.assert_close(batched, torch.cat([transform(sample[None]) for sample in x]))
        assert torch.equal(pickle.loads(pickle.dumps(transform))(x), batched)
        assert transform(x[:0]).shape == (0, 1, 8, 8)
    assert torch.equal(x, before)


def test_every_fifth_digit_of_a_class_is_a_test_sample():
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), SplitDigits().data()
    data.validate()
    seen, train, test = [0] * 10, [], []
    for row, label in enumerate(bunch.target):
        seen[label] += 1
        (test if seen[label] % 5 == 0 else train).append(row)
    for rows, x, y in ((train, data.x_train, data.y_train), (test, data.x_test, data.y_test)):
        assert x.dtype == torch.uint8
        np.testing.assert_array_equal(x.squeeze(1).numpy(), bunch.images[rows])
        np.testing.assert_array_equal(y.numpy(), bunch.target[rows])
    inputs = SplitDigits().inputs(data.x_train)
    assert (inputs.shape, inputs.dtype, inputs.min(), inputs.max()) == ((1442, 1, 8, 8), torch.float32, 0, 1)
    assert SplitDigits().data() is PermutedDigits().data(), "loaded once for each process"


def test_images_are_padded_and_normalised_as_asked() -> None:
    """Hsu et al. 2018 pad to 32×32 and normalise by statistics of their own; permutations then cover the padding."""
    x = torch.full((2, 1, 28, 28), 255, dtype=torch.uint8)
    inputs = SplitMnist(pad=2, mean=0.1, std=0.2752).inputs(x)
    assert inputs.shape == (2, 1, 32, 32)
    assert inputs[0, 0, 0, 0] == pytest.approx(-0.1 / 0.2752)
    assert inputs[0, 0, 16, 16] == pytest.approx(0.9 / 0.2752)


@given(limit=st.integers(1, 400), experiences=st.sampled_from([1, 2, 5, 10]))
def test_a_limit_keeps_every_class_in_its_proportion(limit: int, experiences: int) -> None:
    """The first rows would do on shuffled data only; a data set in class order would lose its last classes."""
    benchmark = SplitDigits(experiences=experiences)
    data = benchmark.data()
    stream = benchmark.stream(data, "class", np.random.default_rng(0))
    for whole, part in zip(stream.splits, limited(stream, limit).splits):
        assert len(part.train) == len(part.y_train) == min(limit, len(whole.train))
        assert set(part.train.tolist()) <= set(whole.train.tolist())
        share = len(part.train) / len(whole.train)
        expected = whole.y_train.bincount() * share
        assert (part.y_train.bincount(minlength=len(expected)) - expected).abs().max() <= 1
        assert len(part.test) == min(limit, len(whole.test))
