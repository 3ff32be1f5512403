"""Rules about one run: what a strategy may do with data, budget, buffer and tests."""

import gc
import random
import sys
import weakref
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clarena.checks.declared import NotApplicable, require, require_stored
from clarena.checks.tiny import TINY, Subject
from clarena.checks.trial import Question, Trial
from clarena.contract.experience import Experience
from clarena.contract.rows import Rows
from clarena.errors import UsageError
from clarena.protocol.protocol import TOTAL
from clarena.toolbox.buffer import ReplayBuffer
from clarena.toolbox.modules import tensors
from clarena.toolbox.states import differing, same

ROUNDING = 1e-5
"""Relative error that the arithmetic of another batch size may cause."""


def check_runs(subject: Subject) -> None:
    """It learns a stream of uneven experiences, one of a single class, whose last batches are odd or one sample."""
    try:
        trial = Trial(subject)
    except UsageError as refusal:
        if subject.backbone in TINY:
            raise
        raise NotApplicable(f"this backbone does not serve: {refusal}") from refusal
    trial.finish()


def check_parameters_kept(subject: Subject) -> None:
    """Hyper-parameters are still as they were given after `setup` and `learn`."""
    trial = Trial(subject)
    require_stored(trial.strategy, {}, "setup")
    require_stored(trial.finish().strategy, {}, "learn")


def check_scores(subject: Subject) -> None:
    """`predict` gives a finite score of every output, whenever the host may ask: after and within experiences."""
    trial = Trial(subject)

    def ask(when: str) -> None:
        for question in trial.questions():
            _well_formed(trial, question, when)

    while trial.done < len(trial.steps):
        number = trial.done + 1
        trial.step(lambda step, n=number: ask(f"within experience {n}") if step % 5 == 1 else None)  # type: ignore[misc]
        ask(f"after experience {number}")


def check_untrained_scores(subject: Subject) -> None:
    """Where all outputs exist from the start, `predict` works before any learning."""
    if subject.scenario != "domain":
        raise NotApplicable("no output exists before the first experience")
    trial = Trial(subject)
    for question in trial.questions():
        _well_formed(trial, question, "before learning (build the model in setup)")


def _well_formed(trial: Trial, question: Question, when: str) -> None:
    scores = trial.strategy.predict(question.x.clone(), question.task)
    call = f"predict, {when},"
    require(isinstance(scores, Tensor), f"{call} returned {type(scores).__name__}. Return a tensor of scores.")
    least, most = question.columns[-1] + 1, trial.realised.stream.outputs
    require(
        scores.ndim == 2 and len(scores) == len(question.x) and least <= scores.shape[1] <= most,
        f"{call} returned scores of shape {list(scores.shape)} for {len(question.x)} inputs. Return "
        f"[batch, outputs], one score for each of the outputs that exist by now ({least}), not a class or "
        "a task's part of them; self.context.grow(self.model) in learn makes the head as wide.",
    )
    dtype = question.x.dtype if question.x.is_floating_point() else torch.float32  # of tokens
    require(
        scores.dtype == dtype and scores.device == question.x.device,
        f"{call} returned {scores.dtype} on {scores.device} for inputs of {question.x.dtype} on "
        f"{question.x.device}. Leave type and device as they are.",
    )
    bad = ~torch.isfinite(scores[:, question.columns])
    require(
        not bad.any(),
        f"{call} returned NaN or infinity for {int(bad.any(1).sum())} of {len(bad)} inputs, in outputs in play. "
        "Look for a logarithm or a division, or an update that diverges on a batch of one sample.",
    )


def check_no_task_label(subject: Subject) -> None:
    """Outside the task scenario nothing asks for a task label."""
    if subject.scenario == "task":
        raise NotApplicable("the task scenario gives task labels")
    trial = Trial(subject).finish()
    for question in trial.questions():
        try:
            scores = trial.strategy.predict(question.x.clone())
        except TypeError as error:
            require(False, f"predict(x) failed: {error}. Define predict(self, x, task=None).")
        require(
            same(scores, trial.strategy.predict(question.x.clone(), None)),
            "predict(x) and predict(x, None) differ. Make None the default of task.",
        )


def check_learns(subject: Subject) -> None:
    """Just after an experience of several classes, its test accuracy is clearly above chance."""
    trials = [Trial(subject, seed=seed) for seed in (0, 1)]
    accuracy, luck = _just_learned(trials)
    if accuracy >= luck + (1 - luck) / 3:
        return
    # Perhaps this backbone learns slowly: a third of what fine-tuning gains at this rate will do, where it gains much.
    finetune, _ = _just_learned([trial.finetune() for trial in trials])
    require(
        accuracy >= luck + max((finetune - luck) / 3, (1 - luck) / 6),
        f"Accuracy just after learning is {accuracy:.2f} on blobs that {subject.track().protocol.epochs} passes tell "
        f"apart; chance is {luck:.2f}, and fine-tuning at the same learning rate reaches {finetune:.2f}. Does every "
        "batch reach loss, backward and optimizer.step()? Is the learning rate too small, or the default strength of "
        "the mechanism so large that nothing moves?",
    )


def _just_learned(trials: list[Trial]) -> tuple[float, float]:
    """Learn all streams; the mean test accuracy on an experience of several classes just after it, and that of luck."""
    reached, chance = [], []
    for trial in trials:
        while trial.done < len(trial.steps):
            positions = trial.steps[trial.done]
            if len(trial.step().classes) == 1:
                continue
            for question in trial.questions():
                rows = torch.isin(question.experience, torch.tensor(positions)).nonzero().flatten()
                if len(rows) and len(question.columns) > 1:
                    right = trial.ask(question, rows).argmax(1) == _columns_of(question, rows)
                    reached.append(float(right.float().mean()))
                    chance.append(1 / len(question.columns))
    return float(np.mean(reached)), float(np.mean(chance))


def _columns_of(question: Question, rows: Tensor) -> Tensor:
    return torch.searchsorted(torch.tensor(question.columns), question.labels[rows])


def check_batch_independent(subject: Subject) -> None:
    """The scores of an input do not depend on what else is in its batch."""
    trial = Trial(subject).finish()
    for question in trial.questions():
        whole = trial.ask(question)
        order = torch.randperm(len(question.x))
        alone = torch.cat([trial.ask(question, row) for row in order[:10].split(1)])
        allowed = ROUNDING * max(1.0, float(whole.abs().max()))
        for how, scores, rows in (
            ("in another order", trial.ask(question, order), order),
            ("alone", alone, order[:10]),
        ):
            error = float((scores - whole[rows]).abs().max())
            require(
                error <= allowed,
                f"Scores of the same inputs {how} differ by {error:.1e}. Predict in evaluation mode (`with "
                "evaluating(self)`), so that BatchNorm uses its running statistics, and normalise nothing over the "
                "batch: who shares a batch would give the answer away.",
            )


def check_data_untouched(subject: Subject) -> None:
    """Neither training data nor test inputs are changed."""
    trial = Trial(subject)
    test = trial.realised.test.x.clone()
    while trial.done < len(trial.steps):
        experience = trial.begin()
        before = experience.x.clone(), experience.y.clone()
        trial.learn(experience)
        for name, now, then in (("x", experience.x, before[0]), ("y", experience.y, before[1])):
            require(
                torch.equal(now, then),
                f"learn changed experience.{name} in place. Work on a copy: the data belongs to the host.",
            )
        for question in trial.questions():
            x = question.x.clone()
            trial.strategy.predict(x, question.task)
            require(torch.equal(x, question.x), "predict changed its input x in place. Work on a copy.")
    require(torch.equal(test, trial.realised.test.x), "The test inputs were changed. Work on a copy.")


def check_data_released(subject: Subject) -> None:
    """After `learn` the experience is let go; what is to be kept goes into a buffer, within the budget."""
    held: list[weakref.ref[Any]] = []
    gc.freeze()  # collecting then looks only at what comes from now on, and takes milliseconds
    try:
        trial = Trial(subject)
        while trial.done < len(trial.steps):
            experience = trial.begin()
            held += [weakref.ref(experience), weakref.ref(experience.rows), weakref.ref(experience.x)]
            trial.learn(experience)
            del experience
        gc.collect()
    finally:
        gc.unfreeze()
    require(
        all(reference() is None for reference in held),
        "The strategy still holds an experience, or its inputs, after learn. Drop every reference (attributes, lists, "
        "iterators), and keep exemplars in a ReplayBuffer of context.buffer_size.",
    )


class Watched(Experience):
    """An experience that notices when someone other than the host reads `x`."""

    direct = False

    @property
    def rows(self) -> Rows:
        """The samples; the host's own reads go through `clarena.contract.experience`."""
        self.direct |= sys._getframe(1).f_globals["__name__"] != Experience.__module__
        return self._samples

    @rows.setter
    def rows(self, value: Rows) -> None:
        self._samples = value

    @property
    def x(self) -> Any:
        """The inputs."""
        self.direct = True
        return self._samples.inputs()

    @x.setter
    def x(self, inputs: Any) -> None:
        self.direct = True
        self._samples = Rows.of(inputs)


def check_budget(subject: Subject) -> None:
    """Training goes through `experience.batches()`, where it is metered."""
    trial = Trial(subject)
    while trial.done < len(trial.steps):
        plain = trial.begin()
        experience = Watched(**{f.name: getattr(plain, f.name) for f in fields(plain)})
        trial.learn(experience)
        require(
            not experience.direct,
            "learn reads experience.x itself, past the meter. Train on experience.batches(), look at all samples "
            "with experience.scan(), and hand experience.dataset() to a loader of your own.",
        )
        spent = experience.meter.samples + experience.meter.accesses
        own = "own_loop" in subject.strategy.needs
        require(
            spent > 0 if own else experience.meter.samples > 0,
            f"learn took no batch of experience {trial.done}. Train on experience.batches()"
            + (", or on experience.dataset()." if own else "; a loader of its own is a need: 'own_loop'."),
        )


def check_updates(subject: Subject) -> None:
    """It learns under a schedule, with clipped gradients and batches in parts, or declares which it cannot have."""
    asked: dict[str, dict[str, Any]] = {
        "constant_rate": {"schedule": "cosine", "warmup": 1},
        "unclipped": {"clip_norm": 1.0},
        "whole_batches": {"accumulation": 2},
    }
    granted = [protocol for need, protocol in asked.items() if need not in subject.strategy.needs]
    Trial(subject, protocol={name: value for protocol in granted for name, value in protocol.items()}).finish()


def check_buffer_budget(subject: Subject) -> None:
    """No more training samples are kept than the protocol grants: in total, none, or so many for each class seen."""
    total = subject.track().protocol.buffer_size
    per_class = {"buffer_size": TOTAL, "exemplars_per_class": 2}
    for protocol in ({"buffer_size": total}, {"buffer_size": 0}, per_class):
        try:
            trial = Trial(subject, protocol=protocol)
        except UsageError:
            if protocol is per_class:  # it says that it keeps a total, as planning will
                continue
            raise
        inputs: list[Tensor] = []
        while trial.done < len(trial.steps):
            experience = trial.step()
            inputs.append(experience.x.flatten(1))
            kept = exemplars(trial, torch.cat(inputs))
            granted = 2 * len(experience.space.seen) if protocol is per_class else protocol["buffer_size"]
            require(
                kept <= granted,
                f"The state holds {kept} training samples after experience {trial.done}; the protocol grants "
                f"{granted}. Make the buffer with ReplayBuffer(context.granted_buffer(self.buffer_size)): "
                "buffer_size counts all samples, over all classes and experiences, and may be 0.",
            )


def check_rows(subject: Subject) -> None:
    """Samples of the stream are kept as rows, as they are stored, and not as inputs, converted for good."""
    trial = Trial(replace(subject, stored="bytes"))
    inputs: list[Tensor] = []
    while trial.done < len(trial.steps):
        inputs.append(trial.step().x.flatten(1))
        known = {row.numpy().tobytes() for row in torch.cat(inputs)}
        converted = 0
        for tensor in tensors(dict(trial.strategy.state_dict())):
            if tensor.dtype == inputs[0].dtype and tensor.numel() and tensor.numel() % inputs[0].shape[1] == 0:
                converted += sum(row.numpy().tobytes() in known for row in tensor.reshape(-1, inputs[0].shape[1]))
        require(
            not converted,
            f"The state holds {converted} samples as inputs, converted for good, where rows are bytes: four times what "
            "it takes. Keep them with context.replay_buffer(…) and buffer.add(…, rows=batch.rows, y=batch.y), which "
            "gives inputs back as x; elsewhere context.inputs(rows) converts.",
        )


def exemplars(trial: Trial, inputs: Tensor) -> int:
    """How many training samples a strategy keeps: what its buffers count, and inputs found elsewhere in its state.

    Args:
        trial: whose strategy is looked at.
        inputs: all training inputs so far [n, values]; only exact copies of them are recognised.
    """
    buffers = [module for module in trial.strategy.modules() if isinstance(module, ReplayBuffer)]
    counted = {id(part) for buffer in buffers for part in tensors(dict(buffer.state_dict(keep_vars=True)))}
    others: dict[int, Tensor] = {}  # by address: what is shared is stored once
    for tensor in tensors(dict(trial.strategy.state_dict(keep_vars=True))):
        if id(tensor) not in counted and tensor.numel() and tensor.numel() % inputs.shape[1] == 0:
            others[tensor.data_ptr()] = tensor.detach()
    found = 0
    for tensor in others.values():
        rows = tensor.reshape(-1, inputs.shape[1]).to(inputs.dtype)
        rows = rows[torch.isin(rows[:, 0], inputs[:, 0])]  # few are left to be compared in full
        found += int((rows[:, None] == inputs).all(2).any(1).sum())
    return sum(map(len, buffers)) + found


def check_predict_changes_nothing(subject: Subject) -> None:
    """`predict` leaves weights, modes, random numbers and all that is learned later as they were."""
    undisturbed = Trial(subject).finish()
    trial = Trial(subject)

    def ask() -> None:
        for question in trial.questions():
            state, modes, chance = trial.state(), _modes(trial), _chance()
            trial.ask(question)
            require(
                modes == _modes(trial),
                "predict left a module in another mode (train or eval). Use `with evaluating(self):`, which puts "
                "every module back as it was.",
            )
            changed = differing(state, dict(trial.strategy.state_dict()))
            require(not changed, f"predict changed the state: {changed}. Only learn may.")
            require(
                same(chance, _chance()),
                "predict drew from a global random generator. Draw what it needs in learn, and keep it.",
            )

    while trial.done < len(trial.steps):
        trial.step(lambda step: ask() if step % 5 == 1 else None)
        ask()
    require(
        same(trial.scores(), undisturbed.scores()),
        "The strategy ends elsewhere when it is asked for predictions on the way. predict must leave every "
        "attribute alone, and draw from none of context's generators.",
    )


def _modes(trial: Trial) -> list[bool]:
    return [module.training for module in trial.strategy.modules()]


def _chance() -> list[Any]:
    return [torch.get_rng_state(), np.random.get_state(), random.getstate()]
