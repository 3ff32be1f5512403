"""Avalanche (avalanche-lib 0.6.0) in the realisation: its strategies, models and benchmarks under CLArena's protocol.

The host keeps the order of data, the budget, testing and metrics; Avalanche only trains. Nothing of it is imported
until one of these names is asked for.
"""

from clarena import hookimpl
from clarena.hookspecs import Register
from clarena_avalanche.table import METHODS

EXTRA = "avalanche"
BACKBONES = {
    "simple-mlp": (
        "SimpleMlp",
        "Avalanche's SimpleMLP: linear layers with ReLU and dropout on the flattened input",
    ),
    "simple-cnn": (
        "SimpleCnn",
        "Avalanche's SimpleCNN: five convolutions with pooling and dropout, for colour images",
    ),
    "lenet5": (
        "LeNet5",
        "Avalanche's LeNet-5: three convolutions with tanh, and a linear layer, for images of 32×32",
    ),
    "slim-resnet18": (
        "SlimResNet18",
        "Avalanche's SlimResNet18, as in the code of GEM: a narrow ResNet-18 for colour images of 32×32",
    ),
    "icarl-net": ("IcarlNet", "Avalanche's ResNet of iCaRL, with 64 features, for small images"),
}
BENCHMARKS = {
    "split-mnist": ("SplitMnist", "Avalanche's SplitMNIST: two new digits an experience; downloads 12 MB once"),
    "permuted-mnist": (
        "PermutedMnist",
        "Avalanche's PermutedMNIST: a pixel permutation for every experience, the first included; downloads 12 MB once",
    ),
    "rotated-mnist": (
        "RotatedMnist",
        "Avalanche's RotatedMNIST: an angle between −180 and 180 degrees for every experience; downloads 12 MB once",
    ),
    "split-fmnist": (
        "SplitFmnist",
        "Avalanche's SplitFMNIST: two new articles of clothing an experience; downloads 31 MB once",
    ),
    "split-cifar10": ("SplitCifar10", "Avalanche's SplitCIFAR10: two new classes an experience; downloads 170 MB once"),
    "split-cifar100": (
        "SplitCifar100",
        "Avalanche's SplitCIFAR100: twenty new classes an experience, or as are set; downloads 169 MB once",
    ),
}


@hookimpl
def clarena_register_strategies(register: Register) -> None:
    """Register what `METHODS` describes; the classes are made from it when one is asked for."""
    for method in METHODS:
        register(
            f"clarena_avalanche.strategies:{method.class_name}",
            name=f"avalanche/{method.name}",
            summary=method.summary,
            extra=EXTRA,
        )


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """Register Avalanche's models, without their classifiers."""
    for name, (target, summary) in BACKBONES.items():
        register(f"clarena_avalanche.backbones:{target}", name=f"avalanche/{name}", summary=summary, extra=EXTRA)


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register Avalanche's classic benchmarks, which need torchvision alone."""
    for name, (target, summary) in BENCHMARKS.items():
        register(f"clarena_avalanche.benchmarks:{target}", name=f"avalanche/{name}", summary=summary, extra="vision")
