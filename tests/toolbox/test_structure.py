"""Structure that grows: plain data, built parents first, and refused in words where it cannot be."""

import copy
import io
import json

import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from hypothesis import given
from hypothesis import strategies as st
from tiny import same, walk
from torch import nn

from clarena import Freezable, Head, PluginError, StoreError
from clarena.toolbox.states import differing
from clarena.toolbox.structure import STRUCTURE, prepare, rebuild, structure_of


class Tree(nn.Module):
    """A module with as many of its like below it as have grown there."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.children_of_it = nn.ModuleList()

    def grow(self, shape):
        """`shape`: a list of such lists, one for each child."""
        for below in shape:
            child = Tree()
            child.grow(below)
            self.children_of_it.append(child)
        return self

    def structure(self):
        return (len(self.children_of_it),)

    def build(self, structure):
        self.children_of_it = nn.ModuleList(Tree() for _ in range(structure[0]))


shapes = st.recursive(st.just([]), lambda below: st.lists(below, max_size=3), max_leaves=10)


def saved(module):
    """Its state and structure, through a file and what weights_only lets through."""
    file = io.BytesIO()
    torch.save(dict(module.state_dict()) | {STRUCTURE: structure_of(module)}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@given(shapes, shapes, st.data())
def test_any_tree_is_built_again_parents_first_with_its_gradients_and_modes(shape, other, data):
    tree = Tree().grow(shape)
    for parameter in tree.parameters():
        parameter.requires_grad_(data.draw(st.booleans()))
    for part in tree.modules():
        part.training = data.draw(st.booleans())
    fresh = Tree().grow(other)
    fresh.load_state_dict(prepare(fresh, saved(tree)))
    assert structure_of(fresh) == structure_of(tree)
    names = [name for name, _ in tree.named_parameters()]
    assert [name for name, _ in fresh.named_parameters()] == names
    assert same(list(fresh.parameters()), list(tree.parameters()))
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in tree.parameters()]
    assert [part.training for part in fresh.modules()] == [part.training for part in tree.modules()]


@given(shapes)
def test_structure_is_json_and_shares_nothing(shape):
    structure = structure_of(Tree().grow(shape))
    assert json.loads(json.dumps(structure)) == structure

    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = [1, {"a": [2.5, None, True, "text"]}]

        def structure(self):
            return self.kept

        def build(self, structure):
            self.kept = structure

    module = Lists()
    before = structure_of(module)
    kept = copy.deepcopy(before)
    module.kept[1]["a"].append(3)
    assert before == kept


def test_what_has_this_structure_already_is_left_alone():
    head = Head(4)
    head.grow(3)
    block = head.blocks[0]
    rebuild(head, structure_of(head))
    assert head.blocks[0] is block


@pytest.mark.parametrize("grown", [[], [1], [2, 3], [1, 1, 4]])
def test_a_head_is_built_block_by_block(grown):
    head, fresh = Head(4), Head(4)
    for outputs in grown:
        head.grow(head.outputs + outputs)
    fresh.grow(7)
    fresh.load_state_dict(prepare(fresh, saved(head)))
    assert [block.out_features for block in fresh.blocks] == grown
    assert same(list(fresh.parameters()), list(head.parameters()))


def test_buffers_take_the_shape_and_type_of_what_was_saved():
    def made():
        module = nn.Module()
        module.register_buffer("absent", None)
        module.register_buffer("grows", torch.zeros(0, 3))
        module.register_buffer("counts", torch.zeros(2))
        return module

    old, new = made(), made()
    old.absent, old.grows = torch.arange(3), torch.randn(5, 3)
    old.counts = torch.tensor([2**60 + 1, 3])
    new.load_state_dict(prepare(new, saved(old)))
    assert same(list(new.buffers()), list(old.buffers()))


# --- freezing in place


def test_what_is_frozen_stays_where_and_as_it_is():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    place = nn.ModuleList([Freezable(module), nn.Linear(5, 2)]).train()
    x, names = torch.randn(16, 4), [name for name, _ in place.named_parameters()]
    place[1](place[0](x)).sum().backward()
    assert module.training
    assert module[1].num_batches_tracked == 1
    place[0].freeze()
    place.train()
    before, expected = copy.deepcopy(module.state_dict()), place[0](x)
    place[1](place[0](x)).sum().backward()
    assert [name for name, _ in place.named_parameters()] == names
    assert place[0].module is module
    assert not any(part.training for part in place[0].modules())
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert place[1].training
    assert place[1].weight.grad is not None
    assert not differing(dict(before), dict(module.state_dict()))
    assert torch.equal(place[0](x), expected)
    fresh = nn.ModuleList([Freezable(copy.deepcopy(module).requires_grad_(True)), nn.Linear(5, 2)])
    fresh.load_state_dict(prepare(fresh, saved(place)))
    fresh.train()
    assert not any(part.training for part in fresh[0].modules())
    assert not any(p.requires_grad for p in fresh[0].parameters())


# --- in a strategy


def test_the_structure_of_a_strategy_is_in_its_state_once():
    ours = walk(Finetune, "class")
    ours.step(0)
    state = ours.strategy.state_dict()
    assert [key for key in state if STRUCTURE in key] == [STRUCTURE]
    assert state[STRUCTURE]["modules"] == {"": {"copies": []}, "model.head": [3]}
    ours.strategy.model.backbone.requires_grad_(False).eval()
    state = ours.strategy.state_dict()[STRUCTURE]
    assert state["frozen"] == [f"model.backbone.layers.1.{name}" for name in ("weight", "bias")]
    assert state["evaluating"] == ["model.backbone", *(f"model.backbone.layers{end}" for end in ("", ".0", ".1", ".2"))]


def test_a_state_of_an_earlier_version_is_refused_in_words():
    ours = walk(Finetune, "class")
    state = dict(ours.strategy.state_dict())
    del state[STRUCTURE]
    with pytest.raises(StoreError, match="earlier versions of CLArena"):
        ours.strategy.load_state_dict(state)


class Grows(Finetune):
    """Grows in a way that tests choose."""

    name = "grows"
    said = [1]
    built = [1]

    def structure(self):
        return self.said

    def build(self, structure):
        if self.built is None:
            raise ValueError("no room")
        self.said = self.built


@pytest.mark.parametrize(
    ("structure", "built", "message"),
    [
        ({"modules": {"": [2]}}, None, r"Grows cannot be built as \[2\]: ValueError: no room"),
        ({"modules": {"": [2]}}, [3], r"Grows was to be built as \[2\], and is then \[3\]"),
        ({"modules": {"extra.0": [2]}}, [1], "There is no module 'extra.0' to be built again.* holds it grows too"),
        ({"modules": {"model.backbone": [2]}}, [1], "TinyMlp at model.backbone had a structure, and has no structure"),
    ],
)
def test_a_structure_that_cannot_be_built_is_one_message(structure, built, message):
    strategy = walk(Grows, "class").strategy
    strategy.built = built
    state = dict(strategy.state_dict()) | {STRUCTURE: {"frozen": [], "evaluating": []} | structure}
    with pytest.raises(PluginError, match=message):
        strategy.load_state_dict(state)


@pytest.mark.parametrize("value", [torch.zeros(1), {1, 2}, object(), [{"deep": torch.float32}]])
def test_structure_that_is_no_plain_data_is_refused(value):
    strategy = walk(Grows, "class").strategy
    strategy.said = value
    with pytest.raises(PluginError, match=r"Grows\.structure\(\) holds .* a parameter or a registered buffer"):
        strategy.state_dict()
