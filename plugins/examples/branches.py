"""A plugin that grows: the first experience trains the backbone, each later one a small branch beside it."""

from torch import nn

from clarena import Backbone, Freezable, GradientStrategy, hookimpl


class Branched(Backbone):
    """A backbone's features h, and what the branch of each later experience adds to them: h + Σ A_k h."""

    name = "branched"

    def __init__(self, trunk):
        super().__init__()
        self.features = trunk.features
        self.parts = nn.ModuleList([Freezable(trunk)])

    def add(self):
        """Freeze what there is, and begin a branch with weights of zero, which changes nothing as yet."""
        for part in self.parts:
            part.freeze()
        branch = nn.Linear(self.features, self.features)
        nn.init.zeros_(branch.weight)
        nn.init.zeros_(branch.bias)
        self.parts.append(Freezable(branch.to(next(self.parameters()).device)))

    def forward(self, x):
        trunk, *branches = self.parts
        h = trunk(x)
        return h + sum(branch(h) for branch in branches)

    def structure(self):
        return len(self.parts)  # what has come while it learned, as plain data

    def build(self, structure):
        while len(self.parts) < structure:  # and the host has it made again before it loads a state
            self.add()


class Branches(GradientStrategy):
    """Adds a branch of features for every experience, and freezes the older ones."""

    name = "branches"
    reference = "An example; after Rebuffi et al. 2017, Learning Multiple Visual Domains with Residual Adapters."
    family = "architecture"

    def setup(self, context):
        super().setup(context)
        self.model.backbone = Branched(self.model.backbone)

    def before_experience(self, experience):
        if experience.position > 0:
            self.model.backbone.add()


@hookimpl
def clarena_register_strategies(register):
    register(Branches)
