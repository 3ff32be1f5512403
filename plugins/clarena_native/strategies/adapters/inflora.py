"""InfLoRA: low-rank terms that look only where old inputs of their layer had nothing to say.

Liang and Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024. In the
paper's names, which are the other way round from LoRA's, experience t has a term A_t B_t of its own,

    h = W_{t−1} x + A_t B_t x,    B_t [r, in] designed before training and fixed, A_t [out, r] trained from 0.

Training A_t is training W_{t−1} within span(B_t) (its proposition 1). So that this leaves old inputs as they are, and
yet reaches the new, B_t has the first r principal directions of the new inputs H_t [in, tokens] outside the old space,

    Ĥ_t = H_t − M_t M_tᵀ H_t,    Ĥ_t = U Σ Vᵀ,    B_t = (U_r)ᵀ.

M_t spans the gradients of old experiences: the inputs of the layer. After training it is given the fewest directions
with which it holds a share ε of the energy of the inputs, ‖H‖² = Σ σ² (gradient projection memory). DualGPM keeps it by
a basis of M_t, or of its complement where that is smaller.

Differences from the paper:
1. ε goes from 0.95 (CIFAR-100) to 1 in equal steps over the stream, whose length is not known here: `growth` is what it
   rises by with each experience, (1 − 0.95) / 10 for ten of them. It stays at 1.
2. The code takes the matrix of second moments H Hᵀ for H, so that its energy is Σ σ⁴, which far fewer directions hold;
   `energy` = fourth does the same. It also keeps one direction fewer than asked for; here it is as many as asked for.
3. Rows of B_t are divided by √3, as in the code: they are then as long as the rows that LoRA draws. Where fewer than r
   directions are left outside M_t, the other rows are 0.
4. H_t is of all samples of the experience as they are, and of all tokens that count, in one scan before training and
   one after. In a causal model the first token's inputs may be so long that they are most of the energy.
5. Keys and values that are made of the same inputs have the same B_t; where a backbone has them apart, it is computed
   twice. Of the output of torch's own attention nobody is shown the inputs, so it cannot have a term.
6. Each experience has its own head there. Here the head grows with the classes; blocks with none of an experience's
   outputs are frozen, and in the class scenario its loss is over its own outputs alone. A head that experiences share
   (the domain scenario) is trained on.
7. The optimiser, its rate and the passes are the protocol's; the paper has Adam at 5e-4, and 20 passes for CIFAR-100.
   As in the code, the backbone is in evaluation mode while it is trained through.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Context, Experience, evaluating, observed
from clarena_native.strategies.adapters.low_rank import On, OwnOutputs, Rank

NOTHING = 1e-12
"""The share of all energy below which a direction holds none, but for rounding."""


class InfLoRA(OwnOutputs):
    """InfLoRA: each experience has low-rank terms that see only what the inputs of earlier ones left free."""

    name = "inflora"
    reference = "Liang & Li 2024, InfLoRA: Interference-Free Low-Rank Adaptation. arXiv:2404.00228"
    carries = "the frozen backbone, the low-rank terms, a basis of old inputs for each layer, and the head"
    tuning = {"threshold": "0.8..0.999"}

    def __init__(
        self,
        *,
        threshold: Annotated[
            float, Field(gt=0, le=1, description="ε, the share of the inputs' energy that the old space holds.")
        ] = 0.95,
        growth: Annotated[float, Field(ge=0, description="What ε rises by with each experience, up to 1.")] = 0.005,
        energy: Annotated[
            Literal["squares", "fourth"],
            Field(description="Of the singular values: their squares, or as in the code their fourth powers."),
        ] = "squares",
        rank: Rank = 10,
        on: On = ("key", "value"),
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.growth = growth
        self.energy = energy
        self.rank = rank
        self.on = on

    def setup(self, context: Context) -> None:
        """Build the model, and an empty space for each weight that has terms."""
        super().setup(context)
        with observed(self.model.backbone, self.lora.on_weights):
            """Refused now, where it cannot be."""
        widths = {weight.name: weight.shape[1] for weight in self.lora.on_weights}
        self.spaces = nn.ModuleList(Space(width, self.lora.like) for width in widths.values())
        self.place = {name: place for place, name in enumerate(widths)}

    def before_experience(self, experience: Experience) -> None:
        """Add a branch, and fix its B_t: LoRA's A, which is not trained."""
        super().before_experience(experience)
        newest = self.lora.chosen([-1])[0]
        newest.down.requires_grad_(False)
        if self.rank:
            moments = self._moments(experience)
            designed = [space.free(moment, self.rank) / 3**0.5 for space, moment in zip(self._spaces(), moments)]
            for weight, b in zip(self.lora.on_weights, newest.down):
                b.copy_(designed[self.place[weight.name]])

    def after_experience(self, experience: Experience) -> None:
        """The inputs of this experience are old from now on."""
        if self.rank:
            share = min(1.0, self.threshold + self.growth * experience.position)
            for space, moment in zip(self._spaces(), self._moments(experience)):
                space.add(moment, share)

    def _spaces(self) -> list["Space"]:
        return list(self.spaces)  # type: ignore[arg-type]

    @torch.no_grad()
    def _moments(self, experience: Experience) -> list[Tensor]:
        """H Hᵀ of each space's layer over one scan [in, in], in float64; its square for energy of fourth powers."""
        backbone = self.model.backbone
        moments = [space.basis.new_zeros(2 * (len(space.basis),), dtype=torch.float64) for space in self._spaces()]
        with evaluating(self.model), observed(backbone, self.lora.on_weights) as inputs:
            for batch in experience.scan():
                self.model(batch.x)
                kept = None if backbone.token_width is None else backbone.embed(batch.x).kept
                for name, place in self.place.items():
                    h = inputs[name]  # [batch, …, in]
                    if kept is not None and kept.shape == h.shape[:-1]:
                        h = h.where(kept[..., None], 0)
                    h = h.flatten(0, -2).double()
                    moments[place] += h.T @ h
        if self.energy == "squares":
            return moments
        return [moment @ moment / moment.trace() for moment in moments]


class Space(nn.Module):
    """A subspace M of a layer's inputs: an orthonormal basis [in, dimensions] of it, or of what it leaves free."""

    basis: Tensor
    of_rest: Tensor

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", like.new_zeros(width, 0))
        self.register_buffer("of_rest", torch.zeros((), dtype=torch.bool, device=like.device))

    def onto_rest(self) -> Tensor:
        """The projection onto what M leaves free, I − MMᵀ [in, in], in float64."""
        basis = self.basis.double()
        projection = basis @ basis.T
        return projection if self.of_rest else torch.eye(len(basis)).to(projection) - projection

    def free(self, moment: Tensor, rank: int) -> Tensor:
        """The first principal directions outside M of inputs of this moment H Hᵀ: orthonormal rows [rank, in], or 0."""
        rest, directions = self.onto_rest(), moment.new_zeros(rank, len(moment))
        values, vectors = _principal(rest @ moment @ rest)
        found = vectors[:, : min(rank, int((values > NOTHING * moment.trace()).sum()))]
        directions[: found.shape[1]] = (rest @ found).T
        return directions

    def add(self, moment: Tensor, share: float) -> None:
        """Give M the fewest directions with which it holds this share of the energy of inputs with this moment."""
        rest, energy = self.onto_rest(), moment.trace()
        values, vectors = _principal(rest @ moment @ rest)
        held = energy - values.sum() + torch.cat([values.new_zeros(1), values.cumsum(0)])  # by 0, 1, … of them
        wanted = min(int((held < share * energy).sum()), int((values > NOTHING * energy).sum()))
        added = vectors[:, :wanted]
        _, vectors = _principal(torch.eye(len(rest)).to(rest) - rest + added @ added.T)
        dimensions = len(rest) - round(float(rest.trace())) + wanted
        self.of_rest = torch.tensor(dimensions > len(rest) / 2, device=moment.device)
        kept = vectors[:, dimensions:] if self.of_rest else vectors[:, :dimensions]
        self.basis = kept.to(self.basis.dtype).contiguous()


def _principal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, the largest first and none below 0, and their eigenvectors as columns."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.flip(0).clamp(min=0), vectors.flip(1)
