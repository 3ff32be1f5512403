"""Evaluation mode that restores itself, frozen copies, and the bytes that a module carries."""

import copy

import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from tiny import same, walk
from torch import nn

from clarena import Frozen, evaluating
from clarena.toolbox.modules import state_bytes, tensors


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Sequential(nn.Linear(5, 2)))


def state(module):
    return [tensor.clone() for tensor in tensors(dict(module.state_dict()))]


def test_evaluating_restores_the_mode_of_every_part():
    module = network().train()
    module[1].eval()
    modes = [part.training for part in module.modules()]
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == modes
    with pytest.raises(ValueError, match="stop"), evaluating(module):
        raise ValueError("stop")
    assert [part.training for part in module.modules()] == modes


def test_a_frozen_copy_does_not_move():
    module = network()
    frozen = Frozen(module)
    x = torch.randn(16, 4)
    expected, kept = frozen(x), state(frozen)
    parent = nn.ModuleList([frozen, module]).train()
    parent.requires_grad_(True)  # even then
    for _ in range(3):
        module(x).sum().backward()
        frozen(x)
        with torch.no_grad():
            for p in module.parameters():
                p.sub_(p.grad)
    assert same(state(frozen), kept)
    assert torch.equal(frozen(x), expected)
    assert not expected.requires_grad
    assert not any(part.training for part in frozen.modules())
    assert all(p.grad is None for p in frozen.parameters())
    assert not same(state(module), kept)


def test_holding_again_replaces_the_copy():
    first, second = network(), network()
    frozen = Frozen(first)
    frozen.hold(second.train())
    assert same(state(frozen), state(second))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(part.training for part in frozen.modules())
    assert second.training
    frozen.hold(None)
    with pytest.raises(RuntimeError, match="hold"):
        frozen(torch.zeros(1, 4))


class Teacher(Finetune):
    """Keeps a frozen copy of the model of the experience before; a buffer that is None until then."""

    name = "teacher"

    def setup(self, context):
        super().setup(context)
        self.teacher = Frozen()
        self.register_buffer("centre", None)

    def after_experience(self, experience):
        self.teacher.hold(self.model)
        self.centre = torch.arange(float(experience.outputs))


def test_a_checkpoint_fills_what_was_empty():
    """A frozen copy, a head that grew and a buffer that was None come back with their values and their manners."""
    whole = walk(Teacher, "class")
    whole.step(0)
    whole.step(1)
    restored = walk(Teacher, "class")
    restored.strategy.load_state_dict(copy.deepcopy(whole.strategy.state_dict()))
    assert same(state(restored.strategy), state(whole.strategy))
    teacher = restored.strategy.teacher
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(part.training for part in teacher.modules())
    assert teacher.module is not restored.strategy.model
    again = walk(Teacher, "class")
    again.strategy.load_state_dict(restored.strategy.state_dict())
    assert same(state(again.strategy), state(whole.strategy))


class Carrier(nn.Module):
    """A parameter that is there twice, a view of a buffer, a buffer outside the state, and extra state."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 2)  # (3 · 2 + 2) · 4 bytes
        self.second = self.first
        self.register_buffer("wide", torch.zeros(10, dtype=torch.float64))  # 80 bytes
        self.register_buffer("view", self.wide[2:5])
        self.register_buffer("left_out", torch.zeros(1000), persistent=False)
        self.register_buffer("absent", None)
        self.register_buffer("none", torch.zeros(0))

    def get_extra_state(self):
        return {"moments": [{"step": torch.zeros(7, dtype=torch.int64)}, (torch.zeros(2, dtype=torch.uint8), "text")]}


def test_bytes_of_state_count_each_storage_once():
    assert state_bytes(Carrier()) == (3 * 2 + 2) * 4 + 80 + 7 * 8 + 2


def test_kept_moments_are_part_of_what_is_carried():
    sizes = {}
    for state in ("kept", "reset"):
        ours = walk(Finetune, "domain", optimizer="adam", optimizer_state=state).finish()
        sizes[state] = state_bytes(ours.strategy)
    parameters = (16 * 32 + 32) + (32 * 3 + 3)
    assert sizes == {"reset": 4 * parameters, "kept": 4 * (3 * parameters + 4)}  # two moments, and a step for each


def test_tensors_are_found_however_deep():
    one, two = torch.zeros(1), torch.zeros(2)
    assert [len(t) for t in tensors({"a": [one, {"b": (two, 3)}], "c": None})] == [1, 2]
