"""What the benchmarks of this plugin share: images as uint8, normalised on the device."""

from typing import Annotated, Any, ClassVar

from clarena_data.arrays import Deviations, channels_last, normalised
from pydantic import Field
from torch import Tensor

from clarena import Benchmark


class Images(Benchmark):
    """Images as uint8 [n, height, width] (grey), channels first, or channels last.

    Attributes:
        statistics: mean and standard deviation of each channel that pixels in 0 … 1 are normalised by.
    """

    pictures = 255
    statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = ((0.5,), (0.5,))

    def __init__(
        self,
        *,
        mean: Annotated[
            tuple[float, ...] | None,
            Field(description="Subtracted from each channel, pixels being in 0 … 1; none takes that of the data set."),
        ] = None,
        std: Annotated[
            Deviations | None,
            Field(description="What each channel is divided by; none takes that of the data set."),
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mean = mean
        self.std = std

    def inputs(self, x: Tensor) -> Tensor:
        """Normalised pixels [n, channels, height, width]."""
        x = x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1) if channels_last(x) else x
        mean, std = (
            published if given is None else given for given, published in zip((self.mean, self.std), self.statistics)
        )
        return normalised(x.float().div_(255), mean, std)
