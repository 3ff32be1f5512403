"""A-GEM: averaged gradient episodic memory.

Chaudhry et al., "Efficient lifelong learning with A-GEM", ICLR 2019, equation 11: with g_ref the gradient of the loss
on a random batch of the memories of all past experiences,

    g̃ = g − (gᵀ g_ref / g_refᵀ g_ref) g_ref    if gᵀ g_ref < 0,    else g̃ = g

Differences from the paper:
1. The paper keeps as many samples of each class of each experience, in rings. Here the budget is one total, and a
   class-balanced or plain reservoir of all past experiences fills it. An experience enters it when it ends: its
   samples are read once more, in order, so that each counts once, whatever the number of passes. Where samples are of
   no class, as the tokens of a text, it is plain.
2. The reference gradient is that of the predictor, in evaluation mode: BatchNorm uses its running statistics and
   leaves them as they are, dropout is off.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from clarena import Batch, Context, Experience, GradientStrategy, evaluating
from clarena_native.strategies.exemplars import draw, fields
from clarena_native.strategies.projection.gem import loss_gradient, trained, write_gradient
from clarena_native.strategies.regularisation.quadratic import flat_gradient


class AGEM(GradientStrategy):
    """Averaged gradient episodic memory: no step may raise the loss on a random batch of the past."""

    name = "agem"
    reference = "Chaudhry et al. 2019, Efficient Lifelong Learning with A-GEM. arXiv:1812.00420"
    family = "gradient projection"
    needs = frozenset({"plain_sgd"})
    off = {"buffer_size": 0}
    carries = "the model and the buffer"

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, description="Learning rate of the plain SGD.")] = 0.05,
        buffer_size: Annotated[
            int | None,
            Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants."),
        ] = None,
        reference_size: Annotated[
            int, Field(ge=1, description="Exemplars drawn per step, without replacement, for the reference gradient.")
        ] = 256,
        policy: Annotated[
            Literal["class_balanced", "reservoir"], Field(description="Which samples the buffer keeps.")
        ] = "class_balanced",
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.buffer_size = buffer_size
        self.reference_size = reference_size
        self.policy = policy

    def setup(self, context: Context) -> None:
        super().setup(replace(context, learning_rate=self.learning_rate))
        policy = self.policy if context.target.labels_are_classes else "reservoir"
        self.buffer = context.replay_buffer(self.buffer_size, policy)

    def adjust_gradients(self, batch: Batch) -> None:
        if len(self.buffer) == 0:
            return
        exemplars = draw(self.buffer, self.reference_size, self.context)
        mask = self.context.space.exemplar_mask(exemplars.get("task"))
        parameters = trained(self.model)
        with evaluating(self.model):
            memory = exemplars["x"], exemplars["y"], mask
            reference = loss_gradient(self.context.target, self.model, parameters, *memory)  # [parameters]
        self.experience.meter.replayed += len(exemplars["y"])
        g = flat_gradient(parameters)
        overlap, square = g @ reference, reference @ reference
        projected = g - overlap / square * reference
        violated = (overlap < 0) & (square > torch.finfo(g.dtype).tiny)  # decided on the device: nothing waits for it
        write_gradient(parameters, torch.where(violated, projected, g))

    def after_experience(self, experience: Experience) -> None:
        if self.buffer.capacity == 0:
            return
        for batch in experience.scan():
            self.buffer.add(self.context.generator("buffer"), **fields(batch))
