"""Continuum (Douillard & Lesort 2021): its scenarios over your own arrays, under CLArena's protocol.

Continuum says which samples make up each experience and how they are transformed; the host keeps order, budget,
testing and metrics. Nothing of it is imported until one of these names is asked for.
"""

from clarena import hookimpl
from clarena.hookspecs import Register

EXTRA = "continuum"
BENCHMARKS = {
    "class-incremental:PATH": (
        "ClassIncremental",
        "Continuum's ClassIncremental: new classes in each experience, the first of which may have more",
    ),
    "instance-incremental:PATH": (
        "InstanceIncremental",
        "Continuum's InstanceIncremental: the same classes in each experience, other samples",
    ),
    "transformation-incremental:PATH": (
        "TransformationIncremental",
        "Continuum's TransformationIncremental: the same samples in each experience, seen through another transform",
    ),
    "rotations:PATH": ("Rotations", "Continuum's Rotations: the same images in each experience, turned by its angle"),
    "permutations:PATH": (
        "Permutations",
        "Continuum's Permutations: the same samples in each experience, their values permuted in its way",
    ),
}


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register Continuum's scenarios; PATH is that of `split:PATH`, or `digits`."""
    for name, (target, summary) in BENCHMARKS.items():
        register(f"clarena_continuum.benchmarks:{target}", name=f"continuum/{name}", summary=summary, extra=EXTRA)
