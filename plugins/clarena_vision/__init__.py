"""Vision: published sets of images as benchmarks, and torchvision's and timm's classifiers as backbones."""

from clarena import hookimpl
from clarena.hookspecs import Register

BENCHMARKS = {
    "torchvision:NAME": (
        "torchvision_sets:SplitTorchvision",
        "A set of labelled images that torchvision knows, a few classes at a time; downloads it once",
    ),
    "split-cifar10": (
        "torchvision_sets:SplitCifar10",
        "CIFAR-10, two classes at a time; downloads 170 MB once",
    ),
    "split-cifar100": (
        "torchvision_sets:SplitCifar100",
        "CIFAR-100 as 10 experiences of 10 classes; downloads 169 MB once",
    ),
    "split-cifar100-20": (
        "torchvision_sets:SplitCifar100In20",
        "CIFAR-100 as 20 experiences of 5 classes; downloads 169 MB once",
    ),
    "split-tiny-imagenet": (
        "tiny_imagenet:SplitTinyImageNet",
        "Tiny ImageNet, ten experiences of 20 classes; downloads 248 MB once",
    ),
    "core50-nc": (
        "core50:Core50Nc",
        "CORe50 with new classes: ten objects, then five more in each of eight experiences; downloads some GB once",
    ),
    "core50-ni": (
        "core50:Core50Ni",
        "CORe50 with new instances: all objects in one session after another; downloads some GB once",
    ),
    "small-norb": (
        "norb:SmallNorb",
        "Small NORB: toys of five categories, one lighting after another, or one azimuth; downloads 263 MB once",
    ),
    "split-small-norb": (
        "norb:SplitSmallNorb",
        "Small NORB, one category of toys at a time; downloads 263 MB once",
    ),
}
BACKBONES = {
    "resnet18-imagenet": (
        "backbones:ResNet18ImageNet",
        "Torchvision's ResNet-18 for ImageNet, without its classifier; with pre-trained weights where they can be had",
        "vision",
    ),
    "torchvision:NAME": (
        "backbones:TorchvisionModel",
        "Any of torchvision's classifiers of images, without its last layer, random or pre-trained",
        "vision",
    ),
    "timm:NAME": (
        "timm_backbones:TimmModel",
        "Any of timm's models of images, without its classifier, random or pre-trained",
        "timm",
    ),
}


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register the benchmarks of images."""
    for name, (path, summary) in BENCHMARKS.items():
        register(f"clarena_vision.{path}", name=name, summary=summary, extra="vision")


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """Register the backbones of images from libraries."""
    for name, (path, summary, extra) in BACKBONES.items():
        register(f"clarena_vision.{path}", name=name, summary=summary, extra=extra)
