"""GEM: gradient episodic memory.

Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NIPS 2017, equations 7 to 11: at each step

    minimise over g̃   ½ ‖g − g̃‖²   subject to   ⟨g̃, gₖ⟩ ≥ 0 for all k < t

where g is the gradient of the step and gₖ that of the loss on the memory of experience k. In the dual, with the gₖ as
the rows of G:

    minimise over v   ½ vᵀ G Gᵀ v + gᵀ Gᵀ v   subject to   v ≥ 0,      g̃ = Gᵀ v* + g

"We simply solve by adding a small constant γ ≥ 0 to v*": it biases g̃ towards steps that help the past.

Differences from the paper:
1. A memory holds the last samples of each experience, as in the paper, but m = M/T asks for T. Where the length of the
   stream is not known, the budget M is divided equally over the experiences so far, and older memories shrink to their
   last samples. What the division leaves over goes to the newest, one each; so if M < T, the newest M have one each.
   Where the protocol grants exemplars per class, a memory holds the last ones of each class of its experience.
2. Memory gradients are those of the predictor, in evaluation mode: BatchNorm uses its running statistics and leaves
   them as they are, dropout is off. The constraints then concern the loss that tests will see.
3. The rows are scaled to length 1 before the dual is solved (the same problem, in v / scale). A singular Gram matrix
   (equal gradients, a zero gradient) is solved in the space that it spans, so nothing need be added to its diagonal.
4. The released code adds ε = 0.001 to that diagonal. That is more than arithmetic: constraint k then gives way by ε vₖ,
   and memories with gradients shorter than √ε hardly count. `eps` does that; the default is 0, the problem as printed.
5. The released code does not add γ to v*: it solves under v ≥ γ. `margin_as = bound` does that, and keeps every
   constraint; γ > 0 added to v* need not. The default is γ = 0, the problem as printed; published runs use 0.5, bound.
6. When no constraint is violated, g stays as it is, margin or not, as in the released code.

Each step that has a past waits for the device: whether a constraint is violated, and if so the dual, is decided on the
host, from t − 1 and (t − 1)² numbers. A-GEM, whose dual has a closed form, does not.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import nnls
from torch import Tensor, nn

from clarena import Batch, Context, Experience, GradientStrategy, Model, Target, evaluating
from clarena_native.strategies.exemplars import fields, picked, ring_key, together
from clarena_native.strategies.regularisation.quadratic import flat_gradient


class GEM(GradientStrategy):
    """Gradient episodic memory: no step may raise the loss on what is remembered of any past experience."""

    name = "gem"
    reference = "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory for Continual Learning. arXiv:1706.08840"
    family = "gradient projection"
    needs = frozenset({"plain_sgd"})
    off = {"buffer_size": 0}
    carries = "the model and the last samples of each experience"

    past: list[tuple[Tensor, Tensor, Tensor | None]]  # x, y and mask of each memory
    rows: Tensor  # G [past, parameters], written anew at each step
    latest: deque[dict[str, Tensor]]  # what the stream gave last

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, description="Learning rate of the plain SGD.")] = 0.05,
        buffer_size: Annotated[
            int | None,
            Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants."),
        ] = None,
        margin: Annotated[float, Field(ge=0, description="γ, which makes more of the past than v* does.")] = 0.0,
        margin_as: Annotated[
            Literal["added", "bound"],
            Field(description="Whether γ is added to v* (the paper) or is the least v may be (the released code)."),
        ] = "added",
        eps: Annotated[
            float,
            Field(ge=0, description="ε on the Gram matrix's diagonal, which lets constraints give way."),
        ] = 0.0,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.buffer_size = buffer_size
        self.margin = margin
        self.margin_as = margin_as
        self.eps = eps

    def setup(self, context: Context) -> None:
        super().setup(replace(context, learning_rate=self.learning_rate))
        self.buffer = context.replay_buffer(self.buffer_size, "ring", ring_key(context))
        self._between_experiences()

    def before_experience(self, experience: Experience) -> None:
        stored = self.buffer.everything()
        for position in stored["experience"].unique() if stored else ():
            memory = picked(stored, stored["experience"] == position)
            mask = self.context.space.exemplar_mask(memory["task"][:1] if "task" in memory else None)
            self.past.append((memory["x"], memory["y"], mask))

    def adjust_gradients(self, batch: Batch) -> None:
        if not self.past:
            return
        parameters = trained(self.model)
        if not len(self.rows):  # not before: another part may have frozen some as the experience began
            self.rows = parameters[0].new_empty(len(self.past), sum(p.numel() for p in parameters))
        with evaluating(self.model):
            for row, memory in zip(self.rows, self.past):
                loss_gradient(self.context.target, self.model, parameters, *memory, out=row)
                self.experience.meter.replayed += len(memory[1])
        g = flat_gradient(parameters)  # [parameters]
        products = (self.rows @ g).double().cpu().numpy()  # [past]
        if not (products < 0).any():
            return
        gram = (self.rows @ self.rows.T).double().cpu().numpy()  # [past, past]; all that leaves the device
        gram += self.eps * np.eye(len(gram))
        v = multipliers(gram, products, self.margin, self.margin_as, torch.finfo(g.dtype).eps)
        if v is not None:
            write_gradient(parameters, g.addmv_(self.rows.T, torch.from_numpy(v).to(g)))

    def after_step(self, batch: Batch) -> None:
        if self.buffer.capacity:
            self.latest.append(fields(batch.stream()))
            while sum(len(part["y"]) for part in self.latest) - len(self.latest[0]["y"]) >= self.quota:
                self.latest.popleft()

    def after_experience(self, experience: Experience) -> None:
        if self.latest:
            last = min(self.quota, len(experience))  # the last pass has each sample once
            kept = picked(together(list(self.latest)), slice(-last, None))
            position = torch.full((last,), experience.position, device=kept["y"].device)
            self.buffer.add(self.context.generator("buffer"), experience=position, **kept)
        self._between_experiences()

    @property
    def quota(self) -> int:
        """The most samples of the present experience that can be kept; the ring takes of them what fits."""
        if self.buffer.key == "y":  # the last ones of each class may be any
            return len(self.experience)
        return -(-self.buffer.capacity // (self.context.experiences or self.experience.position + 1))

    def _between_experiences(self) -> None:
        self.past = []
        self.rows = torch.empty(0)
        self.latest = deque()


def multipliers(
    gram: NDArray[np.float64],
    products: NDArray[np.float64],
    margin: float = 0.0,
    margin_as: str = "added",
    precision: float = np.finfo(np.float64).eps,
) -> NDArray[np.float64] | None:
    """The solution v of the dual [past]; None where there is none: past gradients not finite, or all of length zero.

    ½ vᵀ K v + bᵀ v is ½ ‖A v − c‖² up to a constant if AᵀA = K and Aᵀc = −b: a problem of non-negative least squares.

    Args:
        gram: K = G Gᵀ, or G Gᵀ + ε I [past, past].
        products: b = G g [past].
        margin: γ.
        margin_as: `added` to the solution, or the `bound` v ≥ γ, which with w = v − γ is the problem for b + K γ.
        precision: relative error of the Gram matrix; directions that it does not resolve are left out.
    """
    if margin_as == "bound":
        products = products + gram @ np.full(len(gram), margin)
    if not (np.isfinite(gram).all() and np.isfinite(products).all()):
        return None
    lengths = np.sqrt(np.diag(gram))
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > np.finfo(np.float32).tiny ** 0.5)
    values, vectors = np.linalg.eigh(gram * np.outer(scale, scale))
    kept = values > len(gram) * precision * values[-1]
    if not kept.any():
        return None
    root = np.sqrt(values[kept])
    target = -(vectors[:, kept].T @ (scale * products)) / root
    solution, _ = nnls(root[:, None] * vectors[:, kept].T, target, maxiter=100 * len(gram))
    return solution * scale + margin


def trained(model: Model) -> list[nn.Parameter]:
    """The parameters that training moves, in the order of every flat vector here."""
    return [p for p in model.parameters() if p.requires_grad]


def loss_gradient(
    target: Target,
    model: Model,
    parameters: Sequence[nn.Parameter],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient [parameters] of the target's mean loss, written to `out` if given; `p.grad` stays as it is."""
    loss = target.loss(model(x), y, mask)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients], out=out)


def write_gradient(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    """Make the parts of the vector [parameters] the gradients of the parameters."""
    for p, part in zip(parameters, gradient.split([p.numel() for p in parameters])):
        p.grad = part.view_as(p)
