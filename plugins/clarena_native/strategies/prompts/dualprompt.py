"""DualPrompt: prompts that all experiences share, and prompts of each experience, before the keys and values.

Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022, section 4. The
backbone is pre-trained and stays as it is. By prefix tuning, attention is given a prompt in two halves,

    f(p, h) = MSA(h_Q, [p_K; h_K], [p_V; h_V]).

There is one G-prompt g for the first blocks and, for those after them, an E-prompt e_t with a key k_t for each
experience t. With the query q(x), the feature of an input by the backbone alone, and the cosine distance γ,

    min_{g, e_t, k_t, φ}  L(f_φ(f_{g, e_t}(x)), y) + λ γ(q(x), k_t),  x ∈ D_t,

and a test input is given the E-prompt whose key is nearest to it, argmin_t γ(q(x), k_t).

Differences from the paper:
1. What `prefixed` says: a backbone in evaluation mode, prefixes that are not projected, the loss over the classes of
   the experience, the protocol's optimiser anew for each experience.
2. The pool grows: experience t brings e_t and k_t, so that nobody has to know how many will come (the paper makes as
   many as there will be). As in its code, e_t begins as a copy of e_{t−1}, and k_t, g and e_1 are drawn evenly from 0
   to 0.01. Earlier ones keep their bits. With `pool` there are so many at most, and one experience more is refused.
3. Each test input has the prompt of its own nearest key, whatever it is asked beside; no vote, no mixing of places.
4. In the task scenario the label says which prompt it is, and no query is made. In the others nothing is told.
5. Blocks are numbered from 0. Where a backbone has none of 2, 3 and 4, E-prompts are put in its last block, behind g
   where that is there as well; a backbone of one block has both in that.
6. Lengths are of p_K, and p_V is as long, as in the code's configuration for CIFAR-100. Where both are 0, or there are
   no blocks, it is a linear classifier on frozen features.
7. The distance is 1 − cosine, a mean over the batch, and moves the key alone.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Backbone, Batch, Context, Experience, Tokens, UsageError, evaluating
from clarena_native.strategies.prompts.prefixed import PrefixedModel, PrefixStrategy, blocks_in, require_one_answer


class DualPrompt(PrefixStrategy):
    """DualPrompt: a frozen backbone is given prefixes that all experiences share, and those of the nearest one."""

    name = "dualprompt"
    reference = "Wang et al. 2022, DualPrompt: Complementary Prompting for Rehearsal-free CL. arXiv:2204.04799"
    tuning = {"pull": "0.01..1:log"}
    carries = "the frozen backbone, the shared prompt, a prompt and a key for each experience, and the head"

    model: "DualPrompted"

    def __init__(
        self,
        *,
        general_length: Annotated[int, Field(ge=0, description="Keys, and values, of the prompt that all share.")] = 5,
        expert_length: Annotated[int, Field(ge=0, description="Keys, and values, of an experience's prompt.")] = 5,
        general_blocks: Annotated[
            tuple[int, ...] | None, Field(description="Blocks with the shared prompt, from 0; none: 0 and 1.")
        ] = None,
        expert_blocks: Annotated[
            tuple[int, ...] | None,
            Field(description="Blocks with an experience's prompt; none: 2, 3 and 4, or the last where it has none."),
        ] = None,
        pull: Annotated[
            float, Field(ge=0, description="λ, the weight of the distance between a query and its experience's key.")
        ] = 1.0,
        pool: Annotated[
            int | None, Field(ge=1, description="How many experiences may have a prompt; none: as many as come.")
        ] = None,
    ) -> None:
        super().__init__()
        self.general_length = general_length
        self.expert_length = expert_length
        self.general_blocks = general_blocks
        self.expert_blocks = expert_blocks
        self.pull = pull
        self.pool = pool

    def setup(self, context: Context) -> None:
        """Build the frozen backbone, the shared prompt and the head; experiences bring their own prompts."""
        self.context = context
        self._require_room(context.experiences or 0)
        backbone = context.backbone()
        require_one_answer(backbone)
        last = len(backbone.stages()) - 1
        general = blocks_in(backbone, self.general_blocks, (0, 1), "dualprompt.general_blocks")
        expert = blocks_in(backbone, self.expert_blocks, (2, 3, 4) if last > 1 else (last,), "dualprompt.expert_blocks")
        self.model = DualPrompted(backbone, general, expert, self.general_length, self.expert_length)
        self.model.general.data.uniform_(0, 0.01, generator=context.generator())
        context.grow(self.model)

    def learn(self, experience: Experience) -> None:
        """Train the shared prompt, a new prompt with its key, and the head."""
        self._require_room(len(self.model.experts) + 1)
        self.model.add()
        self.model.draw(self.context.generator())
        self.model.to(self.context.device)

        def loss(part: Batch, mask: Tensor | None) -> Tensor:
            tokens, query = self.model.look(part.x)
            scores = self.model.answer(tokens, slice(-1, None))
            near = F.cosine_similarity(query, self.model.keys[-1][None])
            return self.context.target.loss(scores, part.y, mask) + self.pull * (1 - near).mean()

        self.fit(experience, loss)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Scores [batch, outputs] by the prompt of the task or, where no task is told, of the nearest key."""
        if task is None or task >= len(self.model.experts):
            return super().predict(x, task)
        with torch.no_grad(), evaluating(self):
            return self.model.answer(self.model.backbone.embed(x), slice(task, task + 1))

    def _require_room(self, experiences: int) -> None:
        if self.pool is not None and experiences > self.pool:
            raise UsageError(
                f"dualprompt gives each experience a prompt of its own, and has room for dualprompt.pool = {self.pool} "
                f"where there are {experiences} experiences. Raise it, or leave it out: then the pool grows."
            )


class DualPrompted(PrefixedModel):
    """A frozen backbone with a shared prompt, a prompt and a key for each experience, and a head."""

    def __init__(
        self, backbone: Backbone, general: tuple[int, ...], expert: tuple[int, ...], length: int, expert_length: int
    ) -> None:
        super().__init__(backbone)
        width = backbone.token_width or 0
        self.general_blocks, self.expert_blocks = general, expert
        self.shape = (len(expert), 2, expert_length, width)  # p_K and p_V for each block
        self.general = nn.Parameter(torch.empty(len(general), 2, length, width))
        self.experts, self.keys = nn.ParameterList(), nn.ParameterList()

    def add(self) -> None:
        """Freeze the prompts and keys there are, and make one more of each."""
        for kept in (self.experts, self.keys):
            kept.requires_grad_(False)
        self.experts.append(nn.Parameter(torch.empty(self.shape)))
        self.keys.append(nn.Parameter(torch.empty(self.backbone.features)))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Give the newest prompt and key their first values."""
        self.keys[-1].uniform_(0, 0.01, generator=generator)
        if len(self.experts) == 1:
            self.experts[0].uniform_(0, 0.01, generator=generator)
        else:
            self.experts[-1].copy_(self.experts[-2])

    def structure(self) -> int:
        """For how many experiences there are prompts."""
        return len(self.experts)

    def build(self, structure: int) -> None:
        """Have as many prompts."""
        while len(self.experts) < structure:
            self.add()

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs [batch, *input_shape], each by the prompt of its nearest key."""
        tokens, query = self.look(x)
        return self.answer(tokens, self.nearest(query) if len(self.keys) else slice(0))

    def nearest(self, query: Tensor) -> Tensor:
        """The experience of the nearest key [batch] of each query [batch, features]."""
        keys = torch.stack(list(self.keys))
        return (F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T).argmax(1)

    def answer(self, tokens: Tokens, which: Tensor | slice) -> Tensor:
        """Scores [batch, outputs] of tokens by the prompts of these experiences [batch or 1]; none before the first."""
        prompts = {block: g[None] for block, g in zip(self.general_blocks, self.general)}  # [1, 2, length, width]
        if len(self.experts):
            experts = torch.stack(list(self.experts))[which]  # [batch or 1, blocks, 2, length, width]
            for block, e in zip(self.expert_blocks, experts.unbind(1)):
                shared = prompts.get(block)
                prompts[block] = e if shared is None else torch.cat([shared.expand(len(e), -1, -1, -1), e], dim=2)
        pairs = {block: (prompt[:, 0], prompt[:, 1]) for block, prompt in prompts.items()}
        return self.head(self.backbone.encode(tokens, pairs))  # type: ignore[no-any-return]
