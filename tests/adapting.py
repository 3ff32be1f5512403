"""What every strategy of low-rank terms does on every backbone: the backbone keeps its bits, and the terms act."""

import copy
from typing import Any

import torch
from clarena_native.strategies.adapters.inflora import InfLoRA
from clarena_native.strategies.adapters.lora import LoRA
from clarena_native.strategies.adapters.n_lora import NLoRA
from clarena_native.strategies.adapters.o_lora import OLoRA
from clarena_native.strategies.adapters.sd_lora import SDLoRA
from clarena_native.strategies.adapters.slao import SLAO
from tiny import walk

ADAPTING = (LoRA, OLoRA, NLoRA, InfLoRA, SDLoRA, SLAO)


def adapts(cls: type[Any], **place: Any) -> None:
    """Learn two experiences there, and answer as a network with the terms in its weights does."""
    ours = walk(cls(rank=2), "domain", learning_rate=0.02, **place)
    model, x = ours.strategy.model, ours.realised.test.x
    before = copy.deepcopy(model.backbone.eval())
    for position in range(2):
        ours.step(position)
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.state_dict().items())
    terms = model.adapter.terms()
    assert len(terms) >= 2
    for name, term in terms.items():
        assert term.any()
        before.get_parameter(name).data += term.detach()
    with torch.no_grad():
        torch.testing.assert_close(ours.strategy.predict(x), model.head(before(x)), rtol=1e-4, atol=1e-5)
