"""Rules about two runs that must be one, bit for bit: started over, copied, saved, or with the mechanism off."""

from collections.abc import Callable
from copy import deepcopy

import cloudpickle
import torch

from clarena.checks.declared import NotApplicable, require
from clarena.checks.restart import Restart
from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial
from clarena.contract.strategy import Strategy
from clarena.toolbox.modules import tensors
from clarena.toolbox.states import differing, same


def check_reproducible(subject: Subject) -> None:
    """The same seed gives the same scores."""
    first, second = (Trial(subject).finish().scores() for _ in range(2))
    require(
        same(first, second),
        "Two runs of one seed end with different scores. Draw from context.generator(...), or from the global "
        "generators, which are seeded before every experience; never from the clock, id(), hash(), the order of a "
        "set, or a generator made without a seed.",
    )


def check_setup_starts_over(subject: Subject) -> None:
    """`setup` makes a used object as good as new."""
    fresh = Trial(subject).finish()
    again = Trial(subject, strategy=Trial(subject).finish().strategy).finish()
    changed = differing(fresh.state(), again.state())
    require(
        not changed and same(fresh.scores(), again.scores()),
        "setup and learn on an object that was used before end elsewhere than on a new one"
        f"{f' (first differences in the state: {changed})' if changed else ''}. Build everything in setup, "
        "whether it exists already or not, and call super().setup(context) first.",
    )


def check_copies(subject: Subject) -> None:
    """A deep copy and a pickle, taken in the middle of the stream, go on alike and alone."""
    uninterrupted = Trial(subject).finish().scores()
    ways: dict[str, Callable[[Trial], Trial]] = {"deep copy": deepcopy, "pickle": _through_pickle}
    for how, copy in ways.items():
        trial = Trial(subject)
        trial.step()
        before = trial.state()
        try:
            twin = copy(trial)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            require(
                False,
                f"A {how} fails: {error}. Hold no lock, file, iterator, or tensor with a graph behind it "
                "(detach it) between experiences.",
            )
        require(not differing(before, twin.state()), f"A {how} has another state. Leave copying to nn.Module.")
        require(
            not _storages(trial) & _storages(twin),
            f"A {how} shares tensors with the original, so one learns what the other does. Leave copying to nn.Module.",
        )
        twin.finish()
        for which, end in ((f"The {how}", twin), (f"The original of a {how}", trial.finish())):
            require(
                same(end.scores(), uninterrupted),
                f"{which} ends the stream with other scores. Keep what is remembered in parameters, buffers and "
                "plain attributes, and look up nothing by id().",
            )


def _through_pickle(trial: Trial) -> Trial:
    return cloudpickle.loads(cloudpickle.dumps(trial))  # type: ignore[no-any-return]


def _storages(trial: Trial) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors(dict(trial.strategy.state_dict())) if t.numel()}


def check_restart(subject: Subject, restart: Restart | None = None) -> None:
    """Saved after any experience and restored in a new process, it learns the next as if nothing had happened."""
    failure = (restart or Restart([subject])).failure(subject)
    if failure is None:
        return
    require(
        not failure.renamed,
        f"Learning experience {failure.after} gave a parameter another name: {failure.renamed}. What is kept of it, as "
        "an optimiser's state, goes by its name. Append what is new, and freeze what is old where it is: "
        "clarena.Freezable.",
    )
    require(
        not failure.error,
        f"The state saved after experience {failure.after} cannot be restored in a new process: {failure.error}. Make "
        "submodules and buffers in setup. A module to which more come while it learns declares them: structure() "
        "returns what there is as numbers, text, lists and dictionaries, and build(structure) makes it again before "
        "the state is loaded. Let extra state hold tensors and such data only.",
    )
    require(
        False,
        f"Restored in a new process after experience {failure.after}, it goes on otherwise (what differs first: "
        f"{failure.differs}): something it remembers is not in its state_dict. Make it a parameter or a registered "
        "buffer, or return it from get_extra_state (with super()'s); or, where it says how a module is built, from "
        "structure(). A list, a number or a tensor in a plain attribute, a class or a module is lost.",
    )


def check_off(subject: Subject) -> None:
    """With its mechanism switched off it follows finetune, where it declares how."""
    off = subject.strategy.off
    if off is None:
        raise NotApplicable("it declares no way to switch its mechanism off")
    switched = Trial(subject, **off)
    finetune = switched.finetune()
    while finetune.done < len(finetune.steps):
        for trial in (switched, finetune):
            trial.step()
        require(
            same(switched.scores(), finetune.scores()) and _weights(switched.strategy, finetune.strategy),
            f"With {dict(off)} the model is not that of finetune after experience {finetune.done}, bit for bit. Skip "
            "the mechanism altogether when it is off: no other draw from the init stream, no other order of a sum, no "
            "forward pass in training mode besides the step's own.",
        )


def _weights(switched: Strategy, finetune: Strategy) -> bool:
    """Whether the models have equal parameters; a strategy without one is judged by its scores alone."""
    model = getattr(switched, "model", None)
    if model is None:
        return True
    mine, plain = list(model.parameters()), list(finetune.model.parameters())
    return len(mine) == len(plain) and all(map(torch.equal, mine, plain))
