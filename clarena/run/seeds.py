"""Which seeds a request may name."""

from collections.abc import Sequence
from operator import index

from clarena.errors import UsageError
from clarena.record.record import FIRST_TUNING_SEED


def checked_seeds(seeds: Sequence[int], tuning: bool) -> list[int]:
    """The seeds as whole numbers; raises `UsageError` where they are none, repeat, or are kept for tuning."""
    if not len(seeds):
        raise UsageError("Give at least one seed: --seeds 5 runs seeds 0 to 4, --seeds 0,3,7 those three.")
    try:
        seeds = [index(seed) for seed in seeds]
    except TypeError as error:
        raise UsageError(f"Seeds must be whole numbers, not {seeds!r}.") from error
    negative = [seed for seed in seeds if seed < 0]
    if negative:
        raise UsageError(f"Seeds must not be negative: {negative[0]}.")
    kept = [seed for seed in seeds if seed >= FIRST_TUNING_SEED]
    if kept and not tuning:
        raise UsageError(f"Seeds from {FIRST_TUNING_SEED} on are kept for tuning: {kept[0]}. Take smaller ones.")
    repeated = sorted({seed for seed in seeds if list(seeds).count(seed) > 1})
    if repeated:
        raise UsageError(f"Seeds must not repeat: {', '.join(map(str, repeated))}.")
    return seeds
