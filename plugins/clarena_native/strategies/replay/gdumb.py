"""GDumb: greedy sampler and dumb learner, the sobering control.

Prabhu, Torr & Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020,
algorithms 1 and 2. The stream is only used to fill a balanced buffer, greedily: a sample is taken where its class
has fewer than its share, in exchange for a random one of the largest class. Whenever a model is wanted, one is
trained from scratch on the buffer alone.

Differences from the paper:
1. A model is trained at the end of each experience, with the protocol's optimiser, batch size, schedule and
   augmentation for `epochs` passes over the buffer; the paper anneals its rate by cosines and augments by CutMix.
2. Where samples are of no class, as the tokens of a text, the buffer is a reservoir.
3. One pass of the protocol's budget reads the stream; the passes over the buffer are metered as replayed samples.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clarena import Batch, Context, Experience, Strategy
from clarena_native.strategies.exemplars import fields, picked


class GDumb(Strategy):
    """Fills a balanced buffer and trains from scratch on it alone."""

    name = "gdumb"
    reference = "Prabhu et al. 2020, GDumb: A Simple Approach that Questions Our Progress in Continual Learning"
    family = "replay"
    needs = frozenset({"own_loop"})
    carries = "the model and the buffer"

    def __init__(
        self,
        *,
        epochs: Annotated[int, Field(ge=1, description="Passes over the buffer when a model is trained.")] = 50,
        buffer_size: Annotated[
            int | None, Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants.")
        ] = None,
    ) -> None:
        super().__init__()
        self.epochs = epochs
        self.buffer_size = buffer_size

    def setup(self, context: Context) -> None:
        super().setup(context)
        by_class = context.target.labels_are_classes
        self.buffer = context.replay_buffer(self.buffer_size, "greedy" if by_class else "reservoir")

    def learn(self, experience: Experience) -> None:
        self.context.grow(self.model)  # until a new model is trained, the last one answers
        for batch in experience.batches(1):
            self.buffer.add(self.context.generator("buffer"), **fields(batch))
        self.model = self.context.model()
        self._train_from_scratch(experience, self.buffer.everything(as_rows=True))

    def _train_from_scratch(self, experience: Experience, stored: dict[str, Tensor]) -> None:
        if not stored or not len(self.buffer):
            return
        y = stored["y"]
        size = self.context.protocol.batch_size
        steps = self.epochs * -(-len(y) // size)
        updater = self.context.updater(self.model.parameters(), steps=steps, passes=self.epochs)
        self.model.train()
        for _ in range(self.epochs):
            order = torch.randperm(len(y), generator=self.context.generator()).to(y.device)
            for index in order.split(size):
                exemplars = picked(stored, index)
                task = exemplars.get("task")
                x, mask = self.context.inputs(exemplars["rows"]), self.context.space.exemplar_mask(task)
                batch = Batch(x, exemplars["y"], task, index, mask, fresh=0)
                experience.meter.observe(updater.descend(batch, self._loss))
                experience.meter.replayed += len(index)

    def _loss(self, batch: Batch) -> Tensor:
        return self.context.target.loss(self.model(batch.x), batch.y, batch.mask)
