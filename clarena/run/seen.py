"""What of a benchmark the weights of a backbone have seen before, going by names."""

import re
from collections.abc import Mapping
from typing import Any

from clarena.contract.backbone import Backbone
from clarena.protocol.pretraining import Overlap, Pretraining
from clarena.run.data import Loaded


def pretraining(backbone: type[Backbone], options: Mapping[str, Any], loaded: Loaded) -> Pretraining:
    """What is known of the weights that a backbone starts from with these options; of one's own nothing is."""
    classes = loaded.data.class_names if loaded.target.labels_are_classes else ()
    if options.get("weights", "default") != "default" or backbone.trained_on is None:
        return Pretraining(classes=len(classes))
    parts, seen = (loaded.name, *loaded.data.domain_names), list(backbone.seen_data())
    overlaps = []
    for data in seen:
        known = {words(name) for names in data.classes for name in names}
        called = set(map(words, data.names))
        found = Overlap(
            data=data.names[0],
            classes=tuple(name for name in classes if words(name) in known),
            parts=tuple(part for part in parts if words(part) in called),
        )
        overlaps += [found] if found.classes or found.parts else []
    return Pretraining(
        trained_on=backbone.trained_on,
        classes=len(classes),
        compared=tuple(data.names[0] for data in seen),
        overlaps=tuple(overlaps),
    )


def words(name: str) -> str:
    """A name as it is compared: lower case, its letters and digits only, a space between words."""
    return " ".join(re.findall(r"[^\W_]+", name.lower()))
