"""What has newly arrived, under the outputs of a model: known classes keep theirs, and every sample has one place."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from clarena import DataError, Samples
from clarena.protocol.protocol import Protocol
from clarena.run.arrived import arrived


def round_up(number: float) -> int:
    """To the nearest whole number, halves up."""
    return math.floor(number + 0.5)


KNOWN = ("5", "1", "cat")
labels = st.lists(st.sampled_from(["1", "5", "cat", "dog", "10", "2"]), min_size=1, max_size=40)


@given(labels, st.floats(0.05, 0.95), st.booleans())
def test_samples_are_divided_and_named(names, share, told):
    rows = torch.arange(len(names), dtype=torch.float32)[:, None]
    parts = tuple("test" if i % 3 == 0 else "" for i in range(len(names))) if told else None
    samples = Samples(rows, tuple(map(str, range(len(names)))), tuple(names), parts)
    try:
        new = arrived(samples, "new.csv", KNOWN, share, Protocol())
    except DataError:
        counts = [names.count(name) for name in set(names)]
        trained = {name for name, part in zip(names, parts or ()) if not part}
        untrained = trained < set(names) if told else any(count - round_up(count * share) < 1 for count in counts)
        assert untrained or (not told and all(round_up(count * share) < 1 for count in counts))
        return
    assert new.names[: len(KNOWN)] == KNOWN
    assert len(set(new.names)) == len(new.names)
    assert set(new.names) == {*KNOWN, *names}
    place = torch.cat([new.x, new.x_test])[:, 0].long()
    assert sorted(place.tolist()) == list(range(len(names)))
    for x, y in ((new.x, new.y), (new.x_test, new.y_test)):
        assert [new.names[label] for label in y] == [names[int(row)] for row in x[:, 0]]
    assert set(new.y_test.tolist()) <= set(new.y.tolist())
    if told:
        assert new.x_test[:, 0].tolist() == [float(i) for i in range(0, len(names), 3)]


def test_new_classes_are_in_the_order_of_their_names_or_numbers():
    rows = torch.zeros(60, 1)

    def added(*names: str) -> tuple[str, ...]:
        samples = Samples(rows, ("",) * 60, tuple(name for name in names for _ in range(60 // len(names))))
        return arrived(samples, "new.csv", KNOWN, 0.2, Protocol()).names[3:]

    assert added("10", "9", "1") == ("9", "10")
    assert added("10", "9", "b") == ("10", "9", "b")
