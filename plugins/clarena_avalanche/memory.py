"""What Avalanche's objects remember, as tensors, numbers, text, lists and dictionaries; and back.

Between experiences nothing of Avalanche's is kept but this: so a checkpoint holds all there is, a resumed run goes
the way of an uninterrupted one, exemplars are copies rather than views of whole data sets, and all of it is metered.
"""

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset, make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import TensorDataAttribute
from avalanche.training.utils import ParamData
from torch import Tensor, nn

from clarena import Head, PluginError
from clarena_avalanche.samples import Pool, Samples, joined
from clarena_avalanche.trainer import labelled

FACTORIES = {factory.__name__: factory for factory in (dict, set, list, int, float)}


@dataclass(frozen=True)
class Place:
    """Where something is remembered.

    Attributes:
        model: the model to be trained, of which copies are made.
        width: the number of outputs.
        pool: where the exemplars of all buffers lie.
    """

    model: nn.Module
    width: int
    pool: Pool


def pack(value: Any) -> Any:
    """What is to be remembered of a value, without anything of Avalanche's in it; the inverse of `unpack`.

    Raises:
        PluginError: for an object of a kind that is not known here.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            return value.detach().clone()
        case np.ndarray():
            return "array", torch.from_numpy(value.copy())
        case np.generic():
            return value.item()
        case torch.device():
            return "device", str(value)
        case ParamData():
            return "parameter", value.name, value.data.detach().clone(), str(value.device)
        case nn.ParameterDict():
            return "parameters", {name: parameter.detach().clone() for name, parameter in value.items()}
        case nn.Module():
            frozen = [name for name, parameter in value.named_parameters() if not parameter.requires_grad]
            state = {name: tensor.detach().clone() for name, tensor in value.state_dict().items()}
            return "model", state, value.training, frozen
        case AvalancheDataset():
            return "exemplars", *_columns(value)
        case dict():
            factory = getattr(value, "default_factory", None)
            items = [pack(key) for key in value], [pack(item) for item in value.values()]
            return "dict", factory and factory.__name__, *items
        case list():
            return [pack(item) for item in value]
        case tuple() | set():  # a torch.Size, too
            return "set" if isinstance(value, set) else "tuple", [pack(item) for item in value]
    kind = type(value)
    if not kind.__module__.startswith("avalanche.training."):
        raise PluginError(f"it remembers an object of {kind.__module__}.{kind.__qualname__}, which cannot be saved.")
    return "object", f"{kind.__module__}:{kind.__qualname__}", {name: pack(item) for name, item in vars(value).items()}


def unpack(packed: Any, place: Place) -> Any:
    """The value of which `packed` was remembered."""
    match packed:
        case "array", values:
            return values.cpu().numpy()
        case "parameter", name, values, device:
            return ParamData(name, values.shape, init_tensor=values.to(device).clone(), device=device)
        case "parameters", values:
            parameters = nn.ParameterDict()  # given a dictionary, it would sort the names
            for name, tensor in values.items():
                parameters[name] = nn.Parameter(tensor.clone())
            return parameters
        case "device", name:
            return torch.device(name)
        case "model", state, training, frozen:
            return _model(state, training, frozen, place)
        case "exemplars", x, y, tasks, scores:
            return _dataset(x, y, tasks, scores, place)
        case "dict", factory, keys, values:
            items = zip([unpack(key, place) for key in keys], [unpack(value, place) for value in values])
            return defaultdict(FACTORIES[factory], items) if factory else dict(items)
        case "set" | "tuple" as kind, values:
            items_of = [unpack(value, place) for value in values]
            return set(items_of) if kind == "set" else tuple(items_of)
        case "object", reference, attributes:
            module, _, name = reference.partition(":")
            made = object.__new__(getattr(import_module(module), name))
            vars(made).update({name: unpack(value, place) for name, value in attributes.items()})
            return made
        case Tensor():
            return packed.clone()
        case list():
            return [unpack(value, place) for value in packed]
    return packed


def _columns(dataset: Any) -> tuple[Tensor | None, list[int], list[int], list[Tensor] | None]:
    """Rows, labels, task labels and, where they are stored, scores of every sample (without those that are NaN)."""
    rows = [dataset[i] for i in range(len(dataset))]
    if not rows:
        return None, [], [], None
    scores = [row[3][~row[3].isnan()] for row in rows] if len(rows[0]) > 3 else None
    x = joined([row[0] for row in rows], converted=False)
    return x, [int(row[1]) for row in rows], [int(row[2]) for row in rows], scores


def _dataset(x: Tensor | None, y: list[int], tasks: list[int], scores: list[Tensor] | None, place: Place) -> Any:
    if x is None:
        return AvalancheDataset([])
    samples = labelled(Samples(place.pool, y, place.pool.add(x)), tasks)
    if scores is None:
        return samples
    # A sample has no scores of outputs that came later: NaN.
    wide = [nn.functional.pad(row, (0, place.width - len(row)), value=torch.nan) for row in scores]
    attribute = TensorDataAttribute(wide, name="logits", use_in_getitem=True)
    return make_avalanche_dataset(samples, data_attributes=[attribute])


def _model(state: dict[str, Tensor], training: bool, frozen: list[str], place: Place) -> nn.Module:
    """A copy of the present model with an earlier state, without the outputs that came later."""
    copy = deepcopy(place.model).requires_grad_(True)
    for name, head in copy.named_modules():
        if isinstance(head, Head):
            present = [block for i, block in enumerate(head.blocks) if f"{name}.blocks.{i}.weight" in state]
            head.blocks = nn.ModuleList(present)
    copy.load_state_dict(state)
    for name, parameter in copy.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return copy.train(training)
