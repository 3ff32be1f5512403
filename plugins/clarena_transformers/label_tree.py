"""The words of labels as a tree behind a text: what labels begin with alike is there once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LabelTree(nn.Module):
    """A prompt's tokens around a text, and behind it those of labels, each label a path in a tree.

    Its nodes are the tokens behind the text that something comes after: a chain for the question, then the labels'
    tokens but for the last of each, which has to be predicted and not to be seen. A state is what the network makes of
    the text's last token (0) or of a node (1, 2, …). An edge is a token of a label, with the state that predicts it.

    Attributes:
        before, question: the prompt's tokens, before the text and behind it.
        nodes: their tokens, int64 [nodes].
        depth: how far behind the text each stands, from 0, int64 [nodes].
        sees: which nodes each may see: itself and those on its way to the text, bool [nodes, nodes].
        asked: the states that something of a label is predicted from, int64 [asked].
        edge_from, edge_token: of each edge its place in `asked` and its token, int64 [edges].
        belongs: which edges make up a label, float32 [edges, labels].
    """

    nodes: Tensor
    depth: Tensor
    sees: Tensor
    asked: Tensor
    edge_from: Tensor
    edge_token: Tensor
    belongs: Tensor
    _before: Tensor

    def __init__(self, before: Sequence[int], question: Sequence[int], labels: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.before, self.question = list(before), list(question)
        nodes, parents = list(question), list(range(len(question)))  # a parent is a state: 0 is the text
        edges: dict[tuple[int, int], int] = {}  # (state, token): its number
        place: dict[tuple[int, int], int] = {}  # (state, token): the state behind it
        of_labels: list[list[int]] = []
        for label in labels:
            state, path = len(question), []
            for position, token in enumerate(label):
                step = state, token
                path.append(edges.setdefault(step, len(edges)))
                if position + 1 < len(label):
                    if step not in place:
                        nodes.append(token)
                        parents.append(state)
                        place[step] = len(nodes)
                    state = place[step]
            of_labels.append(path)
        sees = torch.eye(len(nodes), dtype=torch.bool)
        depth = torch.zeros(len(nodes), dtype=torch.long)
        for node, parent in enumerate(parents):  # parents come first
            if parent:
                sees[node] |= sees[parent - 1]
                depth[node] = depth[parent - 1] + 1
        asked = {state: None for state, _ in edges}
        number = {state: place for place, state in enumerate(asked)}
        belongs = torch.zeros(len(edges), len(labels))
        for label_number, path in enumerate(of_labels):
            belongs[path, label_number] = 1
        parts = {
            "nodes": torch.tensor(nodes, dtype=torch.long),
            "depth": depth,
            "sees": sees,
            "asked": torch.tensor(list(asked), dtype=torch.long),
            "edge_from": torch.tensor([number[state] for state, _ in edges], dtype=torch.long),
            "edge_token": torch.tensor([token for _, token in edges], dtype=torch.long),
            "belongs": belongs,
            "_before": torch.tensor(self.before, dtype=torch.long),
        }
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)  # they follow from the names of labels

    @property
    def size(self) -> int:
        """How many tokens there are beside those of a text."""
        return len(self.before) + len(self.nodes)

    @staticmethod
    def ends(kept: Tensor) -> Tensor:
        """The length of each text [batch], of which tokens count [batch, time]."""
        return torch.arange(1, kept.shape[1] + 1, device=kept.device).where(kept, 0).amax(1)

    def behind(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, places and who sees whom, of texts x [batch, time] with the prompt and this tree.

        Returns:
            int64 [batch, tokens], int64 [batch, tokens], and bool [batch, tokens, tokens], the seeing one first.
        """
        batch, lead = len(x), len(self._before)
        inputs = torch.cat([self._before.expand(batch, -1), x, self.nodes.expand(batch, -1)], dim=1)
        first = torch.arange(lead + x.shape[1], device=x.device)
        places = torch.cat([first.expand(batch, -1), lead + self.ends(kept)[:, None] + self.depth], dim=1)
        total = inputs.shape[1]
        seen = torch.zeros(batch, total, total, dtype=torch.bool, device=x.device)
        seen[:, : len(first), : len(first)] = first[:, None] >= first
        seen[:, len(first) :, :lead] = True
        seen[:, len(first) :, lead : len(first)] = kept[:, None]
        seen[:, len(first) :, len(first) :] = self.sees
        return inputs, places, seen

    def members(self, mean: bool, like: Tensor) -> Tensor:
        """What each edge counts in each label [edges, labels]: 1, or in the mean one over the label's length."""
        found = self.belongs.to(like.dtype)
        return found / found.sum(0) if mean else found
