"""What is tried before anything runs: a backbone's answer, exemplars for replay, looks outside training and views."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from clarena.contract.strategy import Strategy
from clarena.contract.target import Target
from clarena.errors import ClarenaError, ClarenaWarning, PluginError, SpentError, UsageError
from clarena.plugins.composite import Composite
from clarena.protocol.protocol import Protocol, Track
from clarena.record.record import StrategyInfo
from clarena.run.realisation import CellClasses, Realisation
from clarena.toolbox.together import count, form_of, kinds, part, shape_of

FEW = 4
"""Samples of an experience on which looks and views are counted."""


def check_backbone(realised: Realisation) -> None:
    """Have a fresh backbone answer two inputs; raise `PluginError` in words where the answer is not its features.

    What is wrong with it would otherwise fail in a layer of the head, with every strategy, in PyTorch's words.
    """
    name, transform = realised.parts.backbone.name, realised.stream.splits[0].transform
    x = realised.inputs(part(realised.data.x_train, slice(2)))
    x = x if transform is None else transform(x)
    shape = form_of(x) if kinds(x) else list(shape_of(x))
    try:
        backbone = realised.context().backbone().eval()
        with torch.no_grad():
            features = backbone(x)
    except ClarenaError:
        raise
    except (MemoryError, torch.cuda.OutOfMemoryError):
        return  # the runs will say so, each in its record
    except Exception as error:  # whatever a plugin's network raises
        raise PluginError(
            f"The backbone {name} fails on inputs {shape} of {realised.benchmark.name}: "
            f"{type(error).__name__}: {error}\n"
            "Build it from input_shape, or choose another: clarena list."
        ) from error
    wanted = f"[{', '.join(['batch', *map(str, realised.positions), 'features'])}]"
    if not isinstance(features, torch.Tensor):
        what = "nothing (does it end in return?)" if features is None else f"a {type(features).__name__}"
        raise PluginError(f"The backbone {name} returns {what} from forward. Return one tensor: features {wanted}.")
    if not features.is_floating_point():
        kind = str(features.dtype).removeprefix("torch.")
        raise PluginError(f"The backbone {name} returns features of {kind}. Return floating-point numbers, {wanted}.")
    said = getattr(backbone, "features", None)
    if not isinstance(said, int):
        raise PluginError(f"The backbone {name} does not say how many features it has: set self.features, a number.")
    fits = (count(x), *realised.positions, said)
    if tuple(features.shape) != fits:
        flat = "Flatten all but the batch, and set self.features to what is left."
        each = f"A sample of {realised.target.name} is asked at each of its positions. Choose another: clarena list."
        raise PluginError(
            f"The backbone {name} turns {fits[0]} inputs {shape} into features {list(features.shape)}, and by its "
            f"self.features = {said} they should be {list(fits)}. {each if realised.positions else flat}"
        )


def check_buffers(cls: type[Strategy], hyperparameters: Mapping[str, Any], protocol: Protocol, target: Target) -> None:
    """Look whether a strategy, or a part of a sum, keeps exemplars and is granted none.

    Where that is its declared way to be switched off, a warning says so; elsewhere nothing sensible can come of it.

    Raises:
        UsageError: where it has no exemplars and is not switched off, or where they have no class of their own.
    """
    if protocol.exemplars_per_class is not None and not target.labels_are_classes:
        raise UsageError(
            f"protocol.exemplars_per_class counts exemplars of each class, and samples of {target.name} are of none. "
            "Set protocol.buffer_size: so many samples in total."
        )
    members = cls.members if issubclass(cls, Composite) else (cls,)
    for member in members:
        values = hyperparameters["parts"][member.name] if issubclass(cls, Composite) else hyperparameters
        if "buffer_size" not in values:
            continue
        off = member.off or {}
        asked, is_off = values["buffer_size"], bool(off) and all(values.get(key) == off[key] for key in off)
        if (protocol.buffer_size if asked is None else asked) != 0 or (is_off and "buffer_size" not in off):
            continue
        if not is_off:
            owner = cls.name if member is cls else f"{cls.name}.{member.name}"
            setting = f"--set {owner}.buffer_size=200" if asked == 0 else "--set protocol.buffer_size=200"
            raise UsageError(
                f"{member.name} keeps exemplars, and is granted none: buffer_size is 0. Grant it some with {setting}, "
                "or leave it out: without exemplars finetune is what to compare with."
            )
        message = f"{member.name} keeps no exemplars (buffer_size=0): it is switched off, and does what finetune does."
        warnings.warn(message, ClarenaWarning, stacklevel=2)


def check_allowances(track: Track, parts: CellClasses, info: StrategyInfo, seed: int) -> None:
    """Where looks outside training or views are limited, have the strategy learn the beginning of two experiences.

    A pass over the data is a pass, however few they are, and a view of each sample one view; so what it would do in its
    run it does here.

    Raises:
        UsageError: where it takes more of either than the protocol allows.
    """
    if track.protocol.scans is None and track.protocol.views is None:
        return
    still = {"schedule": "constant", "milestones": (), "warmup": 0}
    short = track.protocol.model_copy(update={"epochs": 1, "limit": FEW} | still)
    realised = Realisation(track.model_copy(update={"protocol": short}), parts, seed, torch.device("cpu"))
    strategy = realised.set_up(parts.strategy(**info.hyperparameters), info.learning_rate)
    for positions in realised.steps[:2]:
        realised.begin(positions)
        try:
            strategy.learn(realised.experience(positions))
        except Exception as error:
            if spent := _spent(error):
                raise UsageError(f"{info.name} cannot learn on this track, as it is set: {spent}") from error
            return  # a faulty one fails in a run of its own, and so does what cannot learn so little


def _spent(error: BaseException | None) -> SpentError | None:
    """The error that says what was spent, where a strategy may have raised another in its place."""
    while error is not None and not isinstance(error, SpentError):
        error = error.__cause__ or error.__context__
    return error
