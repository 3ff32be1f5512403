"""Language models of Hugging Face transformers as backbones, with random or pre-trained weights, and LoRA."""

from clarena import hookimpl
from clarena.hookspecs import Register

BACKBONES = {
    "gpt2": (
        "GPT2",
        "GPT-2 of Hugging Face transformers, as classifier or language model, random or pre-trained, with LoRA or not",
    ),
    "hf:MODEL": (
        "HubModel",
        "Any encoder or decoder of text of Hugging Face transformers, by the name or path of its files",
    ),
}


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """Register the language models."""
    for name, (target, summary) in BACKBONES.items():
        register(f"clarena_transformers.backbones:{target}", name=name, summary=summary, extra="transformers")
