"""What packaged and published weights have seen, under the names that benchmarks have."""

from types import SimpleNamespace

import pytest

from clarena.plugins.host import Host
from clarena.run.seen import pretraining


def overlaps(backbone: str, names: tuple[str, ...], domains: tuple[str, ...] = ()):
    loaded = SimpleNamespace(
        name="mine",
        data=SimpleNamespace(class_names=names, domain_names=domains),
        target=SimpleNamespace(labels_are_classes=True),
    )
    return pretraining(Host.discover().backbones.resolve(backbone), {"weights": "default"}, loaded).overlaps


@pytest.mark.needs("weights")
def test_imagenets_classes_have_all_their_names():
    """Of pick-up trucks WordNet's first name is `pickup`; an apple is there as a Granny Smith only."""
    (found,) = overlaps("efficientnet-lite0", ("apple", "beaver", "pickup_truck", "Tinca tinca"))
    assert found.data == "ImageNet-1k"
    assert found.classes == ("beaver", "pickup_truck", "Tinca tinca")
    (data,) = Host.discover().backbones.resolve("efficientnet-lite0").seen_data()
    assert len(data.classes) == 1000


@pytest.mark.needs("weights")
def test_five_texts_is_partly_what_minilm_was_tuned_on():
    (found,) = overlaps("minilm", ("Sports",), ("agnews", "yahoo"))
    assert (found.data, found.parts, found.classes) == ("Yahoo Answers", ("yahoo",), ())
