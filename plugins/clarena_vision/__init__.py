"""Vision: published sets of images as benchmarks, and backbones for them."""

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
}


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register the benchmarks of images."""
    for name, (path, summary) in BENCHMARKS.items():
        register(f"clarena_vision.{path}", name=name, summary=summary, extra="vision")
