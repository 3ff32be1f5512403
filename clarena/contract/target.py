"""What is asked of an input: the labels there may be, how wrong a score is, and what of it the host keeps.

All that a likelihood p(y | scores) determines is here: the loss, the directions of its Fisher information, the
distance to older scores that distillation holds small. A strategy that takes these from `context.target`, and has
nothing to say of labels itself, learns every target. The other half, what an answer is worth, needs no torch: see
`clarena.record`.

Scores are [batch, …, outputs]: outputs last, and before them the positions of a sample, where it has several.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.errors import DataError, UsageError, unknown_name
from clarena.protocol.protocol import SCENARIOS, Scenario
from clarena.toolbox.categorical import (
    IGNORED,
    FisherKind,
    categorical_directions,
    cross_entropy,
    drawn_labels,
    outputs_in_play,
    soft_cross_entropy,
)
from clarena.toolbox.together import form_of

if TYPE_CHECKING:
    from clarena.contract.data import Data


class Target(ABC):
    """What is asked of an input, and how wrong a score is. It has no state and takes no arguments.

    Attributes:
        name: what data call it.
        scenarios: those in which it makes sense.
        revision: raised by the author when it comes to mean another loss or answer; in a track's digest above 1.
        labels_are_classes: whether y is [n], the class of each sample: then streams are dealt out, held out and varied
            by it, and buffers can be balanced. Elsewhere samples are taken as they come, and a buffer is a reservoir.
    """

    name: ClassVar[str]
    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain",)
    revision: ClassVar[int] = 1
    labels_are_classes: ClassVar[bool] = False

    # ---- Labels ----

    @abstractmethod
    def check(self, y: Tensor, outputs: int, what: str) -> None:
        """Raise `DataError` where labels [n, …] cannot be learned with so many outputs: of a wrong type, shape, range.

        Args:
            what: whose labels, to begin a sentence with: `The training labels`.
        """

    def validate(self, data: "Data") -> None:
        """Raise `DataError` where this cannot be asked of the data."""
        for part, y in (("training", data.y_train), ("test", data.y_test)):
            self.check(y, data.classes, f"The {part} labels")

    def labels_by_output(self, y: Tensor, outputs: int) -> Tensor:
        """How many labels there are for each output, int64 [outputs]; by default one for each sample."""
        return torch.full((outputs,), len(y))

    def shown(self, y: Tensor, outputs: int) -> frozenset[int]:
        """The outputs that these labels show to exist."""
        return frozenset(self.labels_by_output(y, outputs).nonzero().flatten().tolist())

    def positions(self, y: Tensor) -> tuple[int, ...]:
        """The shape of the positions at which a sample is asked, that stands in scores before the outputs."""
        return ()

    def counted(self, y: Tensor) -> Tensor | None:
        """Which positions count, bool [n, …positions]; None where all do."""
        return None

    # ---- Likelihood ----

    @abstractmethod
    def loss(self, scores: Tensor, y: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """−ln p(y | scores), without constants.

        Args:
            scores: [batch, …, outputs].
            y: labels [batch, …].
            mask: outputs in play, bool [batch or 1, outputs]; None puts all in play.
            reduction: `mean` over samples, or over the positions that count; `sum`; or `none`: one for each of them.
        """

    @abstractmethod
    def divergence(
        self,
        scores: Tensor,
        old: Tensor,
        counted: Tensor | None = None,
        mask: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """How far scores are from older ones of the same inputs: the mean of a divergence of what they predict.

        Its gradient is 0 where they are equal, and there its second derivative is the Fisher information; constants are
        left out.

        Args:
            scores, old: [batch, …, outputs].
            counted: which positions count, as `counted` says; None: all.
            mask: outputs that are compared, bool [batch or 1, outputs]; None: all.
            temperature: softens both where that means something; raises `UsageError` where it does not.
        """

    def directions(
        self, scores: Tensor, y: Tensor | None, mask: Tensor | None, kind: FisherKind, generator: torch.Generator
    ) -> Iterable[Tensor]:
        """Directions v [n, …, outputs] at the scores with Σ v vᵀ = E_y[g gᵀ], where g = ∂ ln p(y | scores) / ∂scores.

        `exact`: over all y, by `exact_directions`; `sample`: g of one y that `draw` draws; `empirical`: g of the label.

        Args:
            scores: [n, …, outputs].
            y: labels; needed by `empirical`, and to know which positions count.
            mask: outputs in play, bool [outputs] or [n or 1, outputs].
            generator: on the CPU.

        Raises:
            UsageError: for a kind that this likelihood does not have.
            DataError: no labels where they are needed.
        """
        if kind == "exact":
            yield from self.exact_directions(scores, mask)
            return
        if kind == "empirical" and y is None:
            raise DataError("Labels are needed here. Pass y with each batch, or choose another kind of Fisher.")
        label = y if kind == "empirical" else self.draw(scores, generator)
        with torch.enable_grad():
            leaf = scores.detach().requires_grad_()
            loss = self.loss(leaf, label, None if mask is None else mask.reshape(-1, mask.shape[-1]), "sum")  # type: ignore[arg-type]
        yield -torch.autograd.grad(loss, leaf)[0]

    def exact_directions(self, scores: Tensor, mask: Tensor | None) -> Iterable[Tensor]:
        """The directions of `exact`; by default there are none."""
        raise UsageError(f"The exact Fisher of {self.name} has no closed form. Choose `sample` or `empirical`.")

    def draw(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Labels y ~ p(· | scores) on the scores' device; by default there are none. `generator` is on the CPU."""
        raise UsageError(f"Labels of {self.name} cannot be drawn from a model. Choose another kind of Fisher.")

    # ---- Answers ----

    @abstractmethod
    def answers(self, scores: Tensor, y: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """What the host keeps of a batch of scores, compact: tensors [batch, …positions, …], by name.

        The host writes −1 or NaN where nothing was asked, so whole numbers are 0 or more.

        Args:
            scores: [batch, …, in play], of the outputs in play alone.
            y: their labels.
            columns: the output behind each, int64 [in play], ascending.
        """

    def truth(self, y: NDArray[Any], data: "Data") -> dict[str, NDArray[Any]]:
        """What answers are scored by, by name: arrays [N, …], of labels of samples, or of positions that count."""
        return {"labels": y}


class Categorical(Target):
    """Labels are outputs, for each sample or position; the likelihood is the softmax over the outputs in play."""

    def check(self, y: Tensor, outputs: int, what: str) -> None:
        said = f"{what} are {str(y.dtype).removeprefix('torch.')} {list(y.shape)}."
        if y.dtype != torch.int64:
            raise DataError(f"{said} Labels must be the numbers of classes, int64; where they are: y.long().")
        counted = self.counted(y)
        given = y if counted is None else y[counted]
        low, high = int(given.min()), int(given.max())
        if low < 0 or high >= outputs:
            raise DataError(
                f"{what} run from {low} to {high}, but there are {outputs} classes: "
                f"labels must lie in 0 … {outputs - 1}."
            )

    def labels_by_output(self, y: Tensor, outputs: int) -> Tensor:
        counted = self.counted(y)
        return torch.bincount(y if counted is None else y[counted], minlength=outputs)

    def loss(self, scores: Tensor, y: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
        return cross_entropy(scores, y, mask, reduction)

    def divergence(
        self,
        scores: Tensor,
        old: Tensor,
        counted: Tensor | None = None,
        mask: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Cross-entropy between softened softmaxes; no factor T²."""
        in_play = None if mask is None else outputs_in_play(scores, mask)
        if counted is not None:
            scores, old = scores[counted], old[counted]  # [counted, outputs]
            in_play = None if in_play is None else in_play[counted]
        return soft_cross_entropy(scores, old, temperature, in_play)

    def directions(
        self, scores: Tensor, y: Tensor | None, mask: Tensor | None, kind: FisherKind, generator: torch.Generator
    ) -> Iterable[Tensor]:
        return categorical_directions(scores, y, mask, kind, generator)

    def draw(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        return drawn_labels(scores.softmax(-1), generator)

    def answers(self, scores: Tensor, y: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """The output with the highest score, `predicted` int64 [batch, …]."""
        return {"predicted": columns[scores.argmax(-1)]}


class Classes(Categorical):
    """A class for each sample: y int64 [n], scores [n, outputs]."""

    name = "classes"
    scenarios = SCENARIOS
    labels_are_classes = True

    def check(self, y: Tensor, outputs: int, what: str) -> None:
        said = f"{what} are {str(y.dtype).removeprefix('torch.')} {list(y.shape)}."
        if y.ndim == 2 and bool(((y != 0).sum(1) == 1).all() and (y.sum(1) == 1).all()):
            raise DataError(f"{said} Each row has a single 1: give the number of the class in its place, y.argmax(1).")
        if y.ndim != 1:
            raise DataError(
                f"{said} Give one label per input, int64 [n]; or one for each token of inputs that are tokens, and "
                "say so: Data(target='tokens')."
            )
        super().check(y, outputs, what)


class Tokens(Categorical):
    """A class for every token of a sequence: y int64 [n, time], −100 where none counts; scores [n, time, outputs]."""

    name = "tokens"

    def check(self, y: Tensor, outputs: int, what: str) -> None:
        without = (y == IGNORED).flatten(1).all(1) if y.ndim > 1 else torch.zeros(1)
        if bool(without.any()):
            first = int(without.nonzero()[0])
            raise DataError(f"{what} have a sequence without any label, first number {first}. Remove it.")
        super().check(y, outputs, what)

    def validate(self, data: "Data") -> None:
        if data.class_bytes and self.name == Tokens.name:
            raise DataError("Only language models are asked for bytes of classes: Data(target='text').")
        for part, x, y in (("training", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
            tokens = isinstance(x, Tensor) and x.ndim == 2 and not x.is_floating_point() and x.dtype != torch.bool
            if not tokens or y.shape != x.shape:
                shapes = form_of(y), form_of(x)
                raise DataError(
                    "The {} labels of a sample are {}, its inputs {}. Give a label for each token of inputs that are "
                    "tokens, both [n, time].".format(part, *shapes)
                )
        super().validate(data)

    def positions(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def counted(self, y: Tensor) -> Tensor | None:
        return y != IGNORED


class Text(Tokens):
    """The token after each, of a language model; likelihoods are kept beside answers, for bits per byte."""

    name = "text"

    def validate(self, data: "Data") -> None:
        if len(data.class_bytes) != data.classes or min(data.class_bytes) < 0:
            raise DataError(f"Give a number of bytes, 0 or more, for each of the {data.classes} classes: class_bytes.")
        super().validate(data)

    def answers(self, scores: Tensor, y: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """The likeliest token, and `log_probability`: ln of the probability of the true one, float32 [batch, time].

        All outputs are in play, as in every stream of one vocabulary.
        """
        target = y.where(y != IGNORED, 0)[..., None]
        likely = scores.gather(-1, target)[..., 0].float() - scores.float().logsumexp(-1)
        # More than 0 is what rounding makes of p = 1.
        return super().answers(scores, y, columns) | {"log_probability": likely.clamp(max=0)}

    def truth(self, y: NDArray[Any], data: "Data") -> dict[str, NDArray[Any]]:
        """The labels, and how many bytes of text each stands for."""
        return super().truth(y, data) | {"text_bytes": np.array(data.class_bytes)[y]}


BUILT_IN: Mapping[str, type[Target]] = {target.name: target for target in (Classes, Tokens, Text)}
"""What comes with the contract, by name; what plugins offer besides, a host knows."""


def built_in(name: str) -> type[Target]:
    """The built-in target of a name; raises `UnknownNameError` where there is none."""
    if name not in BUILT_IN:
        raise unknown_name("target", name, BUILT_IN)
    return BUILT_IN[name]
