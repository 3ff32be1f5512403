"""What learning one experience has cost, as the host counts it."""

from dataclasses import dataclass, fields, replace

from torch import Tensor


@dataclass
class Meter:
    """What learning one experience has cost, counted by the host.

    Attributes:
        steps: batches handed out.
        samples: samples of the stream handed out in them; `passes` is this divided by the experience's size.
        replayed: exemplars trained on besides.
        scanned: samples read outside training (importance, herding, targets).
        accesses: samples read through `dataset()` by a strategy's own loader.
        viewed: augmented views of samples that batches gave (`Batch.view`).
        loss_sum, loss_steps: of the loss that the training loop reports, kept on the device.
    """

    steps: int = 0
    samples: int = 0
    replayed: int = 0
    scanned: int = 0
    accesses: int = 0
    viewed: int = 0
    loss_sum: Tensor | None = None
    loss_steps: int = 0

    def observe(self, loss: Tensor) -> None:
        """Add a step's loss without waiting for the device; NaN and infinity stay visible in the sum."""
        loss = loss.detach()
        self.loss_sum = loss.clone() if self.loss_sum is None else self.loss_sum.add_(loss)
        self.loss_steps += 1

    def copy(self) -> "Meter":
        """The meter as it is now."""
        return replace(self, loss_sum=None if self.loss_sum is None else self.loss_sum.clone())

    def since(self, earlier: "Meter") -> "Meter":
        """What was spent after `earlier`, a copy of this meter."""
        spent = {f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self) if f.name != "loss_sum"}
        if not spent["loss_steps"]:
            return Meter(**spent)
        assert self.loss_sum is not None
        return Meter(**spent, loss_sum=self.loss_sum - (0 if earlier.loss_sum is None else earlier.loss_sum))

    @property
    def mean_loss(self) -> float | None:
        """The mean of the observed losses (this waits for the device), or None."""
        return None if self.loss_sum is None else float(self.loss_sum) / self.loss_steps
