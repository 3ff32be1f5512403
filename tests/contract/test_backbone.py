"""What the face asks of backbones that have none: nothing."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from tiny import walk
from torch import nn

from clarena import Backbone, Head, Model, UsageError
from clarena.checks.tiny import TinyMlp


class Older(Backbone):
    """An author's network, whose layers happen to be called as the methods of the face are."""

    name = "older"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 6
        self.embed = nn.Conv2d(input_shape[0], 4, 1)
        self.stages = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.encode = nn.Flatten()
        self.outputs, self.process, self.adapt = nn.Identity(), nn.ReLU(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.process(self.embed(x))
        for stage in self.stages:
            x = self.process(stage(x))
        return self.adapt(self.outputs(self.encode(self.pool(x))))


def test_layers_may_be_called_as_the_methods_are():
    torch.manual_seed(0)
    older = Older((1, 4, 4))
    names = ["embed.weight", "embed.bias", *(f"stages.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias"))]
    assert list(older.state_dict()) == names
    x = torch.rand(3, 1, 4, 4)
    expected = older(x)
    assert expected.shape == (3, 6)
    for copied in (copy.deepcopy(older), pickle.loads(pickle.dumps(older))):
        assert torch.equal(copied(x), expected)
        with torch.no_grad():
            copied.get_submodule("embed").weight.zero_()
        assert not torch.equal(copied(x), expected)  # its own layer, under both names
        assert torch.equal(older(x), expected)
    assert older.double()(x.double()).dtype == torch.float64
    assert walk(Finetune, backbone=Older).finish().predict()


def test_what_acts_on_a_backbone_has_a_place_in_its_model():
    torch.manual_seed(0)
    model, x = Model(TinyMlp((1, 4, 4))), torch.rand(3, 1, 4, 4)
    model.head.grow(2)
    names, plain = list(model.state_dict()), model(x)
    model.adapter = model.backbone.adapt("lora", rank=2, on=("other",))
    with torch.no_grad():
        assert torch.equal(model(x), plain)
        model.adapter.branches[0].up[0].fill_(1)
    learned = model(x)
    assert not torch.allclose(learned, plain)
    with torch.no_grad():
        model.backbone.layers[1].weight += model.adapter.branches[0].down[0].sum(0)
    model.adapter = None
    torch.testing.assert_close(model(x), learned)
    assert list(model.state_dict()) == names


def test_a_head_that_grows_is_still_the_last_of_a_models_parameters():
    """Penalties keep what they hold by place: what is there stays where it is, also where something was added."""
    model = Model(TinyMlp((1, 4, 4)))
    model.head.grow(2)
    model.adapter = model.backbone.adapt("lora", rank=2, on=("other",))
    before = list(model.parameters())
    model.head.grow(3)
    assert all(new is old for new, old in zip(model.parameters(), before, strict=False))


class Plain(Backbone):
    """One that says nothing of itself."""

    name = "plain"
    features = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2]


def test_one_that_says_nothing_says_so():
    plain = Plain()
    for ask, message in (
        (plain.stages, "plain does not say what its stages are"),
        (lambda: plain.embed(torch.rand(1, 4)), "plain works on no tokens"),
        (lambda: plain.adapt("lora", rank=1), "plain has no query and no value .* It has no linear layers at all"),
        (lambda: plain.adapt("prompt"), "prompt"),
    ):
        with pytest.raises(UsageError, match=message):
            ask()


def test_a_strategy_that_needs_adapters_is_refused_where_there_is_nothing_to_add_to():
    needy = type("Needy", (Finetune,), {"name": "needy", "needs": frozenset({"adapters"})})
    with pytest.raises(UsageError, match="The backbone plain has no linear layers to which anything could be added"):
        walk(needy, backbone=type("Unsized", (Plain,), {"__init__": lambda self, shape: nn.Module.__init__(self)}))


class Reader(Head):
    """Scores by the length of what outputs are called, and by the inputs themselves."""

    def __init__(self) -> None:
        super().__init__(1)
        self.told: list[tuple[str, ...]] = []
        self.factor = nn.Parameter(torch.ones(()))

    @property
    def outputs(self) -> int:
        return len(self.told[-1]) if self.told else 0

    def read_names(self, names: Sequence[str]) -> None:
        self.told.append(tuple(names))

    def grow(self, outputs: int) -> None:
        assert outputs == self.outputs

    def ask(self, backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor([float(len(name)) for name in self.told[-1]])
        return self.factor * x.flatten(1).sum(1, keepdim=True) * lengths

    def structure(self) -> Any:
        return []

    def build(self, structure: Any) -> None:
        pass


class Read(Plain):
    """One on which another head stands."""

    name = "read"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()

    def make_head(self) -> Reader:
        return Reader()


@pytest.mark.parametrize("heads", ["growing", "full"])
def test_a_head_of_the_backbones_own_is_told_what_outputs_are_called_and_asks_inputs(heads):
    ours = walk(Finetune, backbone=Read, heads=heads, stream_length="known")
    names, head = ours.realised.stream.output_names, ours.strategy.model.head
    assert isinstance(head, Reader)
    assert head.told == [names if heads == "full" else ()]
    for position in range(3):
        experience = ours.step(position)
        assert head.told[-1] == names[: experience.outputs]
    x = ours.realised.test.x[:4]
    scores = head.factor * x.flatten(1).sum(1, keepdim=True) * torch.tensor([float(len(name)) for name in names])
    assert torch.equal(ours.strategy.model(x), scores)
    assert head.factor != 1  # it was trained
    assert len(ours.predict()) == len(ours.realised.test.labels)
