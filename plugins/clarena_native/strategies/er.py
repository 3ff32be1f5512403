"""ER: experience replay.

Chaudhry et al., "On tiny episodic memories in continual learning", 2019, algorithm 1; Riemer et al., "Learning to
learn without forgetting by maximizing transfer and minimizing interference", ICLR 2019, algorithm 4. At each step

    θ ← θ − η ∇ mean CE(B_n ∪ B_M),    B_M ~ buffer,    then B_n is written to the buffer.

Differences from the papers:
1. Exemplars are drawn without replacement within a step.
2. Buffers: reservoir (exact inclusion probability M/n), class-balanced (Chrysakis & Moens 2020), or a ring per class.
"""

from typing import Annotated, Literal

from pydantic import Field

from clarena import Batch, GradientStrategy, ReplayBuffer


class ER(GradientStrategy):
    """Experience replay: every step also trains on exemplars drawn from a buffer."""

    name = "er"
    reference = "Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning. arXiv:1902.10486"
    off = {"buffer_size": 0}
    carries = "the model and the buffer"

    def __init__(
        self,
        *,
        buffer_size: Annotated[
            int | None,
            Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants."),
        ] = None,
        replay_size: Annotated[
            int | None,
            Field(ge=1, description="Exemplars drawn per step; none draws as many as the protocol's batch."),
        ] = None,
        policy: Annotated[
            Literal["reservoir", "class_balanced", "ring"],
            Field(description="Which samples the buffer keeps."),
        ] = "reservoir",
    ) -> None:
        super().__init__()
        self.buffer_size = buffer_size
        self.replay_size = replay_size
        self.policy = policy

    def setup(self, context):
        super().setup(context)
        self.buffer = ReplayBuffer(context.granted_buffer(self.buffer_size), self.policy).to(context.device)

    def replay(self, batch: Batch) -> Batch:
        if len(self.buffer) == 0:
            return batch
        wanted = self.replay_size or self.context.protocol.batch_size
        exemplars = self.buffer.sample(wanted, self.context.generator("buffer"))
        task = exemplars.get("task")
        return batch.join(exemplars["x"], exemplars["y"], task, self.context.space.exemplar_mask(task))

    def after_step(self, batch: Batch) -> None:
        fresh = batch.stream()
        fields = {"x": fresh.x, "y": fresh.y} | ({} if fresh.task is None else {"task": fresh.task})
        self.buffer.add(self.context.generator("buffer"), **fields)
