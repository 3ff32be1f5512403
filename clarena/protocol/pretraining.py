"""What the weights that a track starts from have seen, and what of that its benchmark asks for again.

Facts and words only: none takes part in a digest, none leaves a number out.
"""

from clarena.protocol.frozen import FrozenModel

SHOWN = 10
"""How many classes a sentence names; a record has them all."""


class Overlap(FrozenModel):
    """What a benchmark has in common with data that the weights were trained on, going by names.

    Attributes:
        data: what those data are called.
        classes: classes of the benchmark that have the name of a class of theirs.
        parts: the benchmark, or domains of it, that have their name.
    """

    data: str
    classes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


class Pretraining(FrozenModel):
    """What is known of the weights that a track starts from.

    Attributes:
        trained_on: in words; None where it is not known, as of weights of one's own.
        classes: how many the benchmark has.
        compared: the data whose names, and whose classes' names, the benchmark's were compared with.
        overlaps: what was found; data without any are left out.
    """

    trained_on: str | None = None
    classes: int = 0
    compared: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()

    def told(self, benchmark: str) -> list[str]:
        """A sentence on what they were trained on, and one on each overlap with the benchmark of this name."""
        if self.trained_on is None:
            return [UNKNOWN]
        lines = [f"Starts from weights trained on {self.trained_on}."]
        for each in self.overlaps:
            if each.parts:
                parts = ", ".join(each.parts)
                lines.append(f"Overlap: the weights were trained on {each.data}, and {benchmark} asks for it: {parts}.")
            if each.classes:
                more = ", …" if len(each.classes) > SHOWN else ""
                lines.append(
                    f"Overlap: {len(each.classes)} of {self.classes} classes of {benchmark} have the name of a class "
                    f"of {each.data}: {', '.join(each.classes[:SHOWN])}{more}."
                )
        if not self.compared:
            lines.append("Whether they have seen what is asked here is not known: nobody says by what names.")
        elif not self.overlaps:
            lines.append(f"No name of {benchmark} is in {_few(self.compared)}; what has another name is not found.")
        return lines


UNKNOWN = "Starts from weights, and what they were trained on is not known: what is asked here may be among it."


def _few(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"any of the {len(names)} data sets that they are known to have seen"
