"""Continuum's scenarios through the host: the same samples and pixels as there, and as our own splits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs

import clarena
from clarena import Benchmark, Data, Stream, UsageError

needs("continuum")

from clarena_continuum import benchmarks as ours
from clarena_continuum.benchmarks import (
    ClassIncremental,
    InstanceIncremental,
    Permutations,
    Rotations,
    TransformationIncremental,
)
from clarena_data.own import SplitOwn
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.references.finetune import Finetune
from tiny import walk

SIZE = 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of six classes, 36 to train on and 18 to test."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(
        file,
        x_train=rng.integers(0, 256, (36, SIZE, SIZE), dtype=np.uint8),
        y_train=rng.permutation(np.arange(36) % 6),
        x_test=rng.integers(0, 256, (18, SIZE, SIZE), dtype=np.uint8),
        y_test=np.arange(18) % 6,
    )
    return file


def made(family: type[Benchmark], path: object, **options: object) -> Benchmark:
    return family.of(str(path))(**options)


def stream(benchmark: Benchmark, scenario: Any = "class", seed: int = 0) -> tuple[Data, Stream]:
    data = benchmark.data()
    found = benchmark.stream(data, scenario, np.random.default_rng(seed))
    found.validate(data, benchmark.name)
    return data, found


def same(a: Stream, b: Stream) -> bool:
    """Whether two streams hold the same rows under the same labels and names."""
    return a.output_names == b.output_names and all(
        torch.equal(getattr(x, part), getattr(y, part))
        for x, y in zip(a.splits, b.splits, strict=True)
        for part in ("train", "y_train", "test", "y_test")
    )


# ---- New classes ----


@pytest.mark.parametrize("class_order", ["seed", "natural"])
@pytest.mark.parametrize("seed", [0, 1])
def test_new_classes_are_those_of_our_own_split(path: Path, class_order: str, seed: int) -> None:
    options = {"experiences": 3, "class_order": class_order}
    for scenario in ("class", "task"):
        theirs = stream(made(ClassIncremental, path, **options), scenario, seed)[1]
        assert same(theirs, stream(made(SplitOwn, path, **options), scenario, seed)[1])


def test_a_run_on_new_classes_ends_as_on_our_own_split(path: Path, tmp_path: Path) -> None:
    matrices = []
    for name in (f"continuum/class-incremental:{path}", f"split:{path}"):
        results = clarena.evaluate(
            ["er"], benchmark=name, seeds=1, settings={"benchmark": {"experiences": 3}, "protocol": {"epochs": 1}},
            store=tmp_path / "runs", jobs=1, track=False,
        )  # fmt: skip
        assert [record.status for record in results] == ["finished"]
        matrices.append(np.array(results.records[0].accuracy_matrix, dtype=float))
    assert np.array_equal(*matrices, equal_nan=True)


def test_the_first_experience_may_have_more_classes(path: Path) -> None:
    found = stream(made(ClassIncremental, path, experiences=3, first=4))[1]
    assert [split.classes for split in found.splits] == [(0, 1, 2, 3), (4,), (5,)]
    for options, message in (
        ({"experiences": 4}, "as many classes: 6 cannot be shared by 4.*experiences=2,2,1,1"),
        ({"experiences": 3, "first": 3}, "3 cannot be shared equally by 2 more"),
        ({"experiences": 1, "first": 2}, "leaves 4 for 0 more"),
        ({"experiences": 2, "first": 6}, "leaves 0 for 1 more"),
        ({"experiences": 7}, "6 classes into 7"),
    ):
        with pytest.raises(UsageError, match=message):
            stream(made(ClassIncremental, path, **options))


def test_sizes_and_order_may_be_given_as_on_our_own_split(path: Path) -> None:
    options = {"experiences": (3, 1, 2), "class_order": (5, 0, 3, 1, 4, 2)}
    assert same(stream(made(ClassIncremental, path, **options))[1], stream(made(SplitOwn, path, **options))[1])


# ---- New instances ----


def test_instances_are_divided_in_their_order(tmp_path: Path) -> None:
    y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    np.savez(tmp_path / "a.npz", x_train=np.arange(18.0).reshape(9, 2), y_train=y,
             x_test=np.arange(4.0).reshape(4, 1).repeat(2, 1), y_test=[1, 0, 0, 1])  # fmt: skip
    found = stream(made(InstanceIncremental, tmp_path / "a.npz", experiences=2, order="natural"), "domain")[1]
    assert [split.train.tolist() for split in found.splits] == [[0, 1, 4, 5, 6], [2, 3, 7, 8]]  # row 4 is left over
    assert [split.test.tolist() for split in found.splits] == [[0, 1], [2, 3]]
    assert [split.y_train.tolist() for split in found.splits] == [[0, 0, 0, 1, 1], [0, 0, 1, 1]]
    with pytest.raises(UsageError, match="The class 0 has 2 test samples, too few for 3 experiences"):
        stream(made(InstanceIncremental, tmp_path / "a.npz", experiences=3), "domain")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(1, 3))
def test_every_instance_is_in_one_experience_under_its_own_class(path: Path, seed: int, experiences: int) -> None:
    data, found = stream(made(InstanceIncremental, path, experiences=experiences), "domain", seed)
    for part in ("train", "test"):
        rows = torch.cat([getattr(split, part) for split in found.splits])
        labels = torch.cat([getattr(split, f"y_{part}") for split in found.splits])
        assert rows.sort().values.tolist() == list(range(len(rows)))
        assert torch.equal(labels, getattr(data, f"y_{part}")[rows])
    assert found.output_names == data.class_names


# ---- New transforms ----


def theirs(path: Path, scenario: Any, position: int) -> torch.Tensor:
    """What Continuum's own task set gives, sample by sample, [n, 1, height, width]."""
    task = scenario[position]
    return torch.stack([task[index][0] for index in range(len(task))])


def images(path: Path) -> Any:
    """Continuum's data set of the same training images."""
    ours.scenarios()
    from continuum.datasets import InMemoryDataset

    content = np.load(path)
    return InMemoryDataset(content["x_train"], content["y_train"])


def seen(benchmark: Benchmark, data: Data, found: Stream, position: int) -> torch.Tensor:
    split = found.splits[position]
    x = benchmark.inputs(data.x_train[split.train])
    return x if split.transform is None else split.transform(x)


PLAIN = {"mean": (0.0,), "std": (1.0,)}


@pytest.mark.parametrize("seed", [0, 7])
def test_permutations_are_continuums(path: Path, seed: int) -> None:
    benchmark = made(Permutations, path, experiences=3, continuum_seed=seed, **PLAIN)
    data, found = stream(benchmark, "domain", seed=99)
    scenario = ours.scenarios().Permutations(images(path), nb_tasks=3, seed=seed)
    for position in range(3):
        assert torch.equal(seen(benchmark, data, found, position), theirs(path, scenario, position))
    assert not torch.equal(seen(benchmark, data, found, 1), seen(benchmark, data, found, 2))


def test_rotations_are_continuums(path: Path) -> None:
    degrees = (0, 90, -90, 180, 30)
    benchmark = made(Rotations, path, degrees=degrees, order="natural", **PLAIN)
    data, found = stream(benchmark, "domain")
    scenario = ours.scenarios().Rotations(images(path), list_degrees=list(degrees))
    for position in range(5):
        assert torch.equal(seen(benchmark, data, found, position), theirs(path, scenario, position))


def test_corners_of_turned_images_are_black(path: Path) -> None:
    benchmark = made(Rotations, path, degrees=(45,))  # black is −1
    data, found = stream(benchmark, "domain")
    assert seen(benchmark, data, found, 0)[:, 0, 0, 0].tolist() == [-1] * 36


def test_transforms_by_name(path: Path) -> None:
    benchmark = made(
        TransformationIncremental, path, transforms=("identity", "mirror", "flip", "blur"), order="natural"
    )
    data, found = stream(benchmark, "domain")
    plain = benchmark.inputs(data.x_train)
    assert torch.equal(seen(benchmark, data, found, 0), plain)
    assert torch.equal(seen(benchmark, data, found, 1), plain.flip(3))
    assert torch.equal(seen(benchmark, data, found, 2), plain.flip(2))
    blurred = seen(benchmark, data, found, 3)
    assert blurred.shape == plain.shape
    assert blurred.std() < plain.std()


@pytest.mark.parametrize("family", [TransformationIncremental, Rotations, Permutations])
def test_labels_are_shared_in_the_domain_scenario_alone(path: Path, family: type[Benchmark]) -> None:
    benchmark = made(family, path)
    data, shared = stream(benchmark, "domain")
    assert shared.output_names == data.class_names
    for split in shared.splits:
        assert torch.equal(split.train, torch.arange(36))
        assert torch.equal(split.y_train, data.y_train)
        assert torch.equal(split.y_test, data.y_test)
    for scenario in ("task", "class"):
        own = stream(benchmark, scenario)[1]
        assert own.outputs == 6 * len(own.splits)
        assert own.output_names[7] == "1 (2)"
        for position, split in enumerate(own.splits):
            assert torch.equal(split.y_train, data.y_train + 6 * position)
            assert torch.equal(split.y_test, data.y_test + 6 * position)


# ---- Chance ----


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (ClassIncremental, {"experiences": 3}),
        (InstanceIncremental, {"experiences": 3}),
        (TransformationIncremental, {}),
        (Rotations, {}),
        (Permutations, {}),
    ],
)
def test_a_seed_fixes_the_stream_and_global_generators_stay_as_they_were(
    path: Path, family: type[Benchmark], options: dict[str, int]
) -> None:
    benchmark = made(family, path, **options)
    scenario = benchmark.scenarios[0]
    stream(benchmark, scenario)  # whatever an import may draw
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())

    def trace(seed: int) -> list[torch.Tensor]:
        data, found = stream(benchmark, scenario, seed)
        return [seen(benchmark, data, found, position) for position in range(len(found.splits))]

    first = trace(3)
    assert all(torch.equal(a, b) for a, b in zip(first, trace(3), strict=True))
    assert any(
        not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, trace(seed))) for seed in (4, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


# ---- What is asked for ----


def test_digits_need_no_file() -> None:
    benchmark = made(Permutations, "digits", experiences=2)
    assert benchmark.name == "continuum/permutations:digits"
    assert Permutations.of("digits") is Permutations.of("digits")
    data, found = stream(benchmark, "domain")
    assert [len(split.train) for split in found.splits] == [len(data.y_train)] * 2


def test_rotating_what_is_no_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.normal(size=(8, 3)), "y_train": np.arange(8) % 2,
              "x_test": rng.normal(size=(4, 3)), "y_test": np.arange(4) % 2}  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    for family in (Rotations, TransformationIncremental):
        with pytest.raises(UsageError, match=r"needs images; its inputs have the shape \(3,\)"):
            stream(made(family, tmp_path / "a.npz"), "domain")
    stream(made(Permutations, tmp_path / "a.npz"), "domain")


class Witness(Finetune):
    """Notes which task labels it is shown."""

    name = "witness"

    def setup(self, context: Any) -> None:
        super().setup(context)
        self.shown: set[int | None] = set()

    def after_step(self, batch: Any) -> None:
        self.shown |= {None} if batch.task is None else set(batch.task.tolist())

    def predict(self, x: torch.Tensor, task: int | None = None) -> torch.Tensor:
        self.shown.add(task)
        return super().predict(x, task)


@pytest.mark.parametrize(
    ("family", "scenario", "expected"),
    [
        (ClassIncremental, "class", {None}),
        (ClassIncremental, "task", {0, 1}),
        (InstanceIncremental, "domain", {None}),
        (Permutations, "domain", {None}),
        (Permutations, "class", {None}),
        (Permutations, "task", {0, 1}),
    ],
)
def test_task_labels_are_shown_in_the_task_scenario_alone(
    path: Path, family: type[Benchmark], scenario: Any, expected: set[int | None]
) -> None:
    walked = walk(
        Witness, scenario, benchmark=family.of(str(path)), benchmark_options={"experiences": 2}, backbone=Mlp, epochs=1
    ).finish()
    walked.predict()
    assert walked.strategy.shown == expected


def test_rotations_run_from_the_name(path: Path, tmp_path: Path) -> None:
    results = clarena.evaluate(
        ["finetune"], benchmark=f"continuum/rotations:{path}", seeds=1,
        settings={"benchmark": {"degrees": (0, 90)}, "protocol": {"epochs": 1}},
        store=tmp_path / "runs", jobs=1, track=False,
    )  # fmt: skip
    assert [record.status for record in results] == ["finished"]
    assert results.records[0].cell.track.benchmark.name == "continuum/rotations:mine"
