"""Samples that are several tensors, a named tuple: every native that takes inputs as they come learns them."""

from typing import NamedTuple

import pytest
import torch
from clarena_native.strategies.replay.er import ER
from tiny import same, walk
from torch import nn

from clarena import Backbone, Data, DataError, GradientStrategy, UsageError
from clarena.checks.tiny import TinyStream
from clarena.checks.views import _rows, watching
from clarena.contract import rows as rows_module
from clarena.contract.views import granted_policy
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.protocol import Protocol
from clarena.run.data import load
from clarena.run.kept import kept_transforms

HOST = Host.discover(PluginSources(third_party=False))


class Pair(NamedTuple):
    """An image and the words beside it."""

    image: torch.Tensor
    words: torch.Tensor


class Captioned(TinyStream):
    """The blobs as bytes, and beside each the words for its first three values."""

    name = "captioned"

    def data(self):
        plain = TinyStream(stored="bytes").data()

        def pair(x):
            return Pair(x, x.flatten(1)[:, :3] // 32)

        return Data(pair(plain.x_train), plain.y_train, pair(plain.x_test), plain.y_test, plain.class_names)

    def inputs(self, x):
        return Pair((x.image.float() - 128) / 32, x.words.long())


class Reader(Backbone):
    """Looks at both."""

    name = "reader"

    def __init__(self, input_shape):
        super().__init__()
        assert input_shape == ((1, 4, 4), (3,))
        self.features = 24
        self.image, self.words = nn.Linear(16, 16), nn.Embedding(8, 8)

    def forward(self, x):
        return torch.cat([self.image(x.image.flatten(1)), self.words(x.words).mean(1)], 1).relu()


TAKES_BACKBONES_APART = {"pnn", "den", "l2p", "dualprompt", "coda-prompt", "aper", "ease"}
ONE_TENSOR = {"icarl", "randumb"}
NATIVES = sorted(name for name in HOST.strategies.names() if "/" not in name)
NO_ATTENTION = {name for name in NATIVES if "adapters" in HOST.strategies.load(name).needs}


def learned(cls, **protocol):
    ours = walk(cls, "task", benchmark=Captioned, backbone=Reader, **protocol).finish()
    return ours.parameters(), ours.predict(), ours


@pytest.mark.parametrize("name", [n for n in NATIVES if n not in TAKES_BACKBONES_APART | ONE_TENSOR | NO_ATTENTION])
def test_a_native_learns_them(name, monkeypatch):
    cls = HOST.strategies.load(name)
    kept, answers, ours = learned(cls)
    right = torch.tensor(answers) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.5
    monkeypatch.setattr(rows_module, "KEPT", 0)
    assert same(kept, learned(cls)[0])


@pytest.mark.parametrize("name", sorted(ONE_TENSOR | TAKES_BACKBONES_APART | NO_ATTENTION))
def test_one_that_cannot_says_so(name):
    with pytest.raises(UsageError, match=r"one tensor|backbone|no tokens|LoRA"):
        walk(HOST.strategies.load(name), "task", benchmark=Captioned, backbone=Reader)


def test_views_of_them_are_the_inputs_and_a_policy_of_images_is_refused():
    ours = walk(HOST.strategies.load("scr"), benchmark=Captioned, backbone=Reader, views=1)
    meter = ours.step(0).meter
    assert meter.viewed == meter.samples + meter.replayed
    with pytest.raises(UsageError, match=r"of images \[channels, height, width\], but inputs have shape"):
        granted_policy(Protocol(own_views=True), "flip", ((1, 4, 4), (3,), (2,)))


def test_what_a_backbone_is_shown_of_them_is_watched_in_full():
    ours = walk(HOST.strategies.load("finetune"), benchmark=Captioned, backbone=Reader)
    with watching() as watch:
        ours.realised.begin([0])
        experience = ours.realised.experience([0])
        watch.handed.update(row for batch in experience.scan() for row in _rows(batch.x))
        ours.strategy.learn(experience)
        assert (watch.unknown, watch.twice) == (0, 0)
        x = next(experience.scan()).x
        ours.strategy.model.train()(Pair(x.image, x.words.flip(0)))
    assert watch.unknown > 0


def test_composites_and_named_optimisers_take_them():
    cls = HOST.strategy("ewc+lwf+er")
    _, answers, ours = learned(cls)
    assert len(answers) == len(ours.realised.test.labels)


def test_a_saved_buffer_goes_on_with_the_same_bits():
    whole = walk(ER, benchmark=Captioned, backbone=Reader).finish()
    first = walk(ER, benchmark=Captioned, backbone=Reader)
    first.step(0)
    second = walk(ER, benchmark=Captioned, backbone=Reader)
    second.realised.begin(second.realised.steps[0])
    second.strategy.load_state_dict(first.strategy.state_dict())
    second.finish(1)
    assert same(whole.parameters(), second.parameters())
    assert second.strategy.buffer.everything(as_rows=True)["rows"].image.dtype == torch.uint8


def test_what_is_said_of_them():
    made = load(Captioned, {})
    assert made.input_shape == Pair((1, 4, 4), (3,))
    assert made.report["inputs"]["words"] | {"lowest": 0} == {"shape": [3], "type": "uint8", "lowest": 0, "highest": 6}
    assert "image 1 × 4 × 4 uint8 from" in made.summary
    assert "words 3 uint8 from" in made.summary
    assert made.report["twice"]["within_train"] == 0


def test_their_identity_has_their_names():
    data = Captioned().data()

    class Other(NamedTuple):
        picture: torch.Tensor
        words: torch.Tensor

    renamed = Data(Other(*data.x_train), data.y_train, Other(*data.x_test), data.y_test, data.class_names)
    assert renamed.fingerprint() != data.fingerprint() == Captioned().data().fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x.image, x.words), "Give one tensor, or for inputs of several kinds a named tuple"),
        (lambda x: Pair(x.image, x.words[1:]), "inputs but 78 labels"),
        (lambda x: Pair(x.image, x.words.tolist()), "must be a torch.Tensor, not list"),
        (lambda x: Pair(x.image.double() / 0, x.words), "NaN or infinity"),
        (lambda x: Pair(x.words, x.image), "must be alike"),
    ],
)
def test_what_is_no_named_tuple_of_samples_is_refused(change, message):
    data = Captioned().data()
    with pytest.raises(DataError, match=message):
        Data(change(data.x_train), data.y_train, data.x_test, data.y_test, data.class_names).validate()


def test_a_model_of_them_is_not_kept():
    ours = walk(GradientStrategy, benchmark=Captioned, backbone=Reader)
    with pytest.raises(UsageError, match="several tensors"):
        kept_transforms(ours.realised)
