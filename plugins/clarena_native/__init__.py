"""What CLArena ships: strategies, backbones and benchmarks, through the same door as everyone's plugins.

Everything is registered by reference, with the first sentence of its docstring, so that a list of names imports
nothing heavy; `clarena doctor` compares the two.
"""

from clarena import hookimpl
from clarena.hookspecs import Register

STRATEGIES = {
    "finetune": (
        "finetune:Finetune",
        "Trains on each experience in turn, with no protection against forgetting",
    ),
    "joint": ("joint:Joint", "Trains once on the data of the whole stream; the upper bound"),
    "cumulative": (
        "cumulative:Cumulative",
        "Trains at each experience on all the data seen so far; a bound over time",
    ),
    "ewc": (
        "ewc:EWC",
        "Elastic weight consolidation: weights that mattered are held near where they were, as by springs",
    ),
    "er": ("er:ER", "Experience replay: every step also trains on exemplars drawn from a buffer"),
}
BACKBONES = {
    "mlp": (
        "Mlp",
        "Fully connected layers on the flattened input; each is linear, normalised, ReLU, dropout",
    ),
    "cnn": (
        "Cnn",
        "Blocks of a 3×3 convolution that halve the image, then a linear layer; each normalised, then ReLU",
    ),
}
DIGITS = {
    "split-digits": ("SplitDigits", "Scikit-learn's 8×8 digits, a few classes at a time; needs no download"),
    "permuted-digits": (
        "PermutedDigits",
        "Scikit-learn's 8×8 digits under one pixel permutation after another; needs no download",
    ),
    "rotated-digits": (
        "RotatedDigits",
        "Scikit-learn's 8×8 digits, turned by one angle after another; needs no download",
    ),
}
MNIST = {
    "split-mnist": ("SplitMnist", "MNIST, a few classes at a time; downloads 12 MB once"),
    "permuted-mnist": (
        "PermutedMnist",
        "MNIST under one pixel permutation after another; downloads 12 MB once",
    ),
    "rotated-mnist": ("RotatedMnist", "MNIST, turned by one angle after another; downloads 12 MB once"),
    "split-fashion-mnist": (
        "SplitFashionMnist",
        "Fashion-MNIST, a few classes at a time; downloads 31 MB once",
    ),
    "permuted-fashion-mnist": (
        "PermutedFashionMnist",
        "Fashion-MNIST under one pixel permutation after another; downloads 31 MB once",
    ),
    "rotated-fashion-mnist": (
        "RotatedFashionMnist",
        "Fashion-MNIST, turned by one angle after another; downloads 31 MB once",
    ),
}


@hookimpl
def clarena_register_strategies(register: Register) -> None:
    """Register the native strategies."""
    for name, (path, summary) in STRATEGIES.items():
        register(f"clarena_native.strategies.{path}", name=name, summary=summary)


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """Register the native backbones."""
    for name, (path, summary) in BACKBONES.items():
        register(f"clarena_native.backbones:{path}", name=name, summary=summary)


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register the native benchmarks."""
    for name, (path, summary) in DIGITS.items():
        register(f"clarena_native.benchmarks.digits:{path}", name=name, summary=summary)
    for name, (path, summary) in MNIST.items():
        register(f"clarena_native.benchmarks.mnist:{path}", name=name, summary=summary, extra="vision")
