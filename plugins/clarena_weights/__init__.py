"""Weights that install as packages: pre-trained backbones without a download of their own."""

from clarena import hookimpl
from clarena.hookspecs import Register

BACKBONES = {
    "efficientnet-lite0": (
        "efficientnet:EfficientNetLite0",
        "EfficientNet-Lite0 without its classifier, pre-trained on ImageNet-1k by weights that install as a package",
    ),
    "efficientnet-lite2": (
        "efficientnet:EfficientNetLite2",
        "EfficientNet-Lite2 without its classifier, pre-trained on ImageNet-1k by weights that install as a package",
    ),
    "minilm": (
        "minilm:MiniLM",
        "All-MiniLM-L6-v2, pre-trained on pairs of sentences, by weights that install as a package",
    ),
    "smollm2": (
        "smollm2:SmolLM2",
        "SmolLM2-135M-Instruct, a language model, by weights that install as a package",
    ),
}


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """Register the backbones whose weights install as packages."""
    for name, (path, summary) in BACKBONES.items():
        register(f"clarena_weights.{path}", name=name, summary=summary, extra="weights")
