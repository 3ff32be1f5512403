"""Exemplars of the stream within a budget, fixed or growing: reservoir, class-balanced and ring buffers."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from clarena.toolbox.together import kinds

Policy = Literal["reservoir", "class_balanced", "greedy", "ring"]

Capacity = int | Callable[[], int]
"""How many samples there is room for; a function of no argument says how many by now, and never fewer than before."""

STORED = "stored_"
"""Prefix of the registered buffers that hold the fields: field `x` lives in `stored_x` [capacity, ...]."""

ROWS = "rows"
"""The field that is converted when it is read."""

OF = ":"
"""Between `rows` and the name of one of several tensors."""

Conversion = Callable[[Any], Any]
"""What makes inputs [n, …] of rows [n, …]."""

DRAW = 2**62
"""Draws are integers below this; `draw % n` is then uniform over n values up to a bias of n / 2^62."""


class ReplayBuffer(nn.Module):
    """At most `capacity` samples of a stream, chosen by a policy; a capacity of 0 stores nothing.

    * `reservoir`: every sample seen so far is stored with the same probability (Vitter 1985, Algorithm R:
      sample n, counted from 1, replaces slot j ~ U{0, ..., n - 1} if j < capacity).
    * `class_balanced`: CBRS (Chrysakis & Moens 2020, Algorithm 1). Once the buffer is filled, a class is
      *full* from the moment it is a largest one. A sample of a class that is not full replaces a random
      sample of the largest classes; one of a full class goes through a reservoir within its class. So a class
      keeps all its samples, or at most one fewer than the largest class holds. With fewer places than
      classes, a full class may lose its last place for good.
    * `greedy`: GDumb's sampler (Prabhu et al. 2020, Algorithm 1). A sample is taken where its class has fewer
      than its share, capacity / classes seen; once the buffer is filled, in exchange for a random sample of the
      largest classes.
    * `ring`: the latest samples of each class (Chaudhry et al. 2019), `capacity // classes` each. What the
      division leaves over gives one more place each to the classes that appeared last; so with fewer places
      than classes, the classes that appeared last have one each. When a class appears, the older ones drop
      their oldest samples.

    A capacity that is a function is asked at every `add`. Where it has grown, what is stored stays in its places, and
    the next samples fill the new ones; from then on the policy goes on with the new capacity. So a reservoir that has
    grown holds late samples with a higher probability than early ones: those that it dropped are gone.

    Every choice is made on the CPU, from the generator given, so CPU and GPU runs store the same samples; how
    the stream is cut into batches does not matter. Nothing waits for the device, except that the policies
    that look at classes read them once a write.

    A field `rows` holds rows as the stream hands them out (`batch.rows`), often a quarter of the bytes of inputs;
    what is read back has the inputs in its place, as `x`.

    All that is remembered is in the state: the samples as registered buffers (allocated in full at the first
    write), the book-keeping as extra state. An empty buffer of the same capacity and policy is built for it
    (`structure`, `build`) and loads it; one that grows takes over the capacity of the state.
    """

    _device: Tensor

    def __init__(
        self, capacity: Capacity, policy: Policy = "reservoir", key: str = "y", inputs: Conversion | None = None
    ) -> None:
        """An empty buffer; `context.replay_buffer` makes one within the protocol's budget.

        Args:
            capacity: how many samples there is room for.
            policy: which samples are kept.
            key: the field that holds the classes, or whatever else the policy is to balance.
            inputs: what makes inputs of rows, `context.inputs`; for a field `rows`.

        Raises `ValueError` for a negative capacity or an unknown policy.
        """
        super().__init__()
        self._granted = capacity if callable(capacity) else None
        capacity = 0 if callable(capacity) else capacity
        if capacity < 0:
            raise ValueError(f"capacity is {capacity}; it counts samples, so give 0 or more.")
        if policy not in get_args(Policy):
            raise ValueError(f"There is no policy {policy!r}; choose from {', '.join(get_args(Policy))}.")
        self._places = capacity  # that there are by now; those of a function are made at the next write
        self.policy = policy
        self.key = key
        self.inputs = inputs
        self.register_buffer("_device", torch.empty(0), persistent=False)  # follows the module to its device
        self._seen: dict[int, int] = {}  # per class, in order of appearance
        self._slots: dict[int, list[int]] = {}  # per class; a ring's from the oldest to the newest
        self._free = list(reversed(range(capacity)))  # taken from the end
        self._full: set[int] = set()  # classes that may not grow any more

    @property
    def capacity(self) -> int:
        """The number of samples that there is room for by now."""
        return self._places if self._granted is None else max(self._places, self._granted())

    def __len__(self) -> int:
        """The number of samples stored."""
        return self._places - len(self._free)

    @property
    def seen(self) -> int:
        """The number of samples ever added, stored or not."""
        return sum(self._seen.values())

    @torch.no_grad()
    def add(self, generator: torch.Generator, /, **fields: Any) -> None:
        """Offer a batch to the buffer; what it takes is copied, bit for bit.

        `fields`: tensors [batch, ...], such as y [batch], task [batch], logits [batch, outputs]; `rows` may be a named
        tuple of them. The first call fixes the names, trailing shapes and types. `generator` is on the CPU.

        Raises `ValueError`, with nothing changed, for fields unlike those of the first call, first dimensions
        that differ, or a policy that looks at classes without integer labels [batch].
        """
        fields = self._flat(fields)
        batch = self._check(fields)
        self._grow(self.capacity)
        if not self._storages():
            for name, tensor in fields.items():
                self._allocate(STORED + name, tensor)
        draws = torch.randint(DRAW, (batch,), generator=generator).tolist() if self._places else [0] * batch
        if self.policy != "reservoir":
            rows = self._placed(fields[self.key].tolist(), draws)
        else:
            rows = self._replaced(draws) if self._full else self._placed([0] * batch, draws)
        self._write(rows, fields)

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random min(n, len) of the samples without replacement, in random order: field -> [n, ...].

        Before the first write there are no fields. `generator` is on the CPU. Raises `ValueError` for a
        negative n.
        """
        if n < 0:
            raise ValueError(f"n is {n}; ask for 0 samples or more.")
        chosen = torch.randperm(len(self), generator=generator)[:n]
        return self._read(self._taken()[chosen] if self._free else chosen)

    def everything(self, *, as_rows: bool = False) -> dict[str, Any]:
        """A copy of all that is stored: field -> [len, ...]; before the first write there are no fields.

        `as_rows` leaves rows what they are: `rows`, and no `x`.
        """
        return self._read(self._taken(), as_rows)

    def widen(self, field: str, width: int, fill: float = 0.0) -> None:
        """Make the last dimension of a field `width` wide, `fill` in the new columns: for a head that grew.

        Does nothing before the first write. Raises `ValueError` for an unknown field or a smaller width.
        """
        storages = self._storages()
        if not storages:
            return
        if field not in storages or storages[field].dim() < 2:
            raise ValueError(f"No field {field!r} [batch, ..., width]; the fields are {_names(storages)}.")
        storage = storages[field]
        missing = width - storage.shape[-1]
        if missing < 0:
            raise ValueError(f"Field {field!r} is {storage.shape[-1]} wide and cannot shrink to {width}.")
        if missing:
            self.register_buffer(STORED + field, nn.functional.pad(storage, (0, missing), value=fill))

    def _grow(self, capacity: int) -> None:
        """Make room for `capacity` samples, and disturb none."""
        if capacity <= self._places:
            return
        self._free = [*reversed(range(self._places, capacity)), *self._free]  # the oldest places are taken first
        for name, storage in self._storages().items():
            more = storage.new_zeros(capacity - self._places, *storage.shape[1:])
            self.register_buffer(STORED + name, torch.cat([storage, more]))
        self._places = capacity
        if self.policy == "reservoir":
            self._full.clear()  # its one class may grow again

    def _placed(self, labels: list[int], draws: list[int]) -> dict[int, int]:
        """Slot -> row of the batch; a later row overwrites an earlier one."""
        rows = {}
        for row, (label, draw) in enumerate(zip(labels, draws)):
            self._seen[label] = self._seen.get(label, 0) + 1
            slot = self._place(label, draw)
            if slot is not None:
                rows[slot] = row
        return rows

    def _replaced(self, draws: list[int]) -> dict[int, int]:
        """The same for a filled reservoir, which is offered samples at every step, in a fraction of the time."""
        slots, seen = self._slots[0], self._seen[0]
        self._seen[0] += len(draws)
        indices = [draw % n for n, draw in enumerate(draws, seen + 1)]
        return {slots[index]: row for row, index in enumerate(indices) if index < len(slots)}

    def _place(self, label: int, draw: int) -> int | None:
        """The slot for the next sample of a class, or None where it is not stored."""
        if self.policy == "ring":
            return self._newest_place(label)
        return self._greedy_place(label, draw) if self.policy == "greedy" else self._balanced_place(label, draw)

    def _greedy_place(self, label: int, draw: int) -> int | None:
        own = self._slots.setdefault(label, [])
        if len(own) * len(self._slots) >= self._places:
            return None
        own.append(self._free.pop() if self._free else self._taken_from_largest(draw))
        return own[-1]

    def _balanced_place(self, label: int, draw: int) -> int | None:
        """The slot for the next sample of a class, or None; a reservoir is the case of one class."""
        own = self._slots.setdefault(label, [])
        if self._free:
            own.append(self._free.pop())
            if not self._free:
                self._mark_full()
            return own[-1]
        if not self._places:
            return None
        if label in self._full:
            index = draw % self._seen[label]  # < len(own) with probability stored / seen, then uniform
            return own[index] if index < len(own) else None
        own.append(self._taken_from_largest(draw))
        self._mark_full()
        return own[-1]

    def _taken_from_largest(self, draw: int) -> int:
        """A random slot of the largest classes, which loses it."""
        size = max(map(len, self._slots.values()))
        largest = [slots for slots in self._slots.values() if len(slots) == size]
        index, position = divmod(draw % (size * len(largest)), size)
        return largest[index].pop(position)

    def _mark_full(self) -> None:
        size = max(map(len, self._slots.values()))
        self._full.update(label for label, slots in self._slots.items() if len(slots) == size)

    def _newest_place(self, label: int) -> int | None:
        """The slot for the next sample of a class of a ring, or None where the class has no quota."""
        if label not in self._slots:
            self._slots[label] = []
            for other, slots in self._slots.items():
                while len(slots) > self._quota(other):
                    self._free.append(slots.pop(0))
        own, quota = self._slots[label], self._quota(label)
        if not quota:
            return None
        own.append(self._free.pop() if len(own) < quota else own.pop(0))
        return own[-1]

    def _quota(self, label: int) -> int:
        # A quota never rises when a class appears, so what a queue dropped is never missing later.
        share, left_over = divmod(self._places, len(self._slots))
        return share + (list(self._slots).index(label) >= len(self._slots) - left_over)

    def _check(self, fields: dict[str, Tensor]) -> int:
        """The size of the batch; raises `ValueError` where the fields do not fit."""
        if not fields:
            raise ValueError("add() was given no fields; give tensors by name, such as x=x, y=y.")
        shapes = {name: list(tensor.shape) for name, tensor in fields.items()}
        batch = (next(iter(shapes.values())) or [-1])[0]
        if any(shape[:1] != [batch] for shape in shapes.values()):
            raise ValueError(f"Every field needs the same first dimension, the batch; given: {shapes}.")
        if self.policy != "reservoir":
            classes = fields.get(self.key)
            if classes is None or classes.dim() != 1 or classes.is_floating_point():
                raise ValueError(f"Policy {self.policy!r} needs integer labels {self.key} [batch]; given: {shapes}.")
        storages = self._storages()
        if storages and fields.keys() != storages.keys():
            raise ValueError(f"The buffer stores {_names(storages)}, and was given {_names(fields)}.")
        for name, storage in storages.items():
            given = fields[name]
            if given.shape[1:] != storage.shape[1:] or given.dtype != storage.dtype:
                raise ValueError(
                    f"A sample of field {name!r} is {storage.dtype} {list(storage.shape[1:])}; given was "
                    f"{given.dtype} {shapes[name][1:]}. If its last dimension grew, call widen() first."
                )
        return batch

    def _storages(self) -> dict[str, Tensor]:
        """Field -> the registered buffer [capacity, ...] that holds it."""
        named = self._buffers.items()  # asked for at every step, and named_buffers() is slow
        return {name[len(STORED) :]: cast(Tensor, buffer) for name, buffer in named if name.startswith(STORED)}

    def _allocate(self, name: str, like: Tensor) -> None:
        shape = (self._places, *like.shape[1:])
        self.register_buffer(name, torch.zeros(shape, dtype=like.dtype, device=self._device.device))

    def _write(self, rows: dict[int, int], fields: dict[str, Tensor]) -> None:
        """Copy rows of the batch into slots; `rows` is slot -> row."""
        if not rows:
            return
        slots, chosen = self._to_device(torch.tensor([list(rows), list(rows.values())]))  # each [written]
        for name, storage in self._storages().items():
            storage.index_copy_(0, slots, fields[name].to(storage.device).index_select(0, chosen))

    def _taken(self) -> Tensor:
        """The slots in use, in ascending order [len], on the CPU."""
        if not self._free:
            return torch.arange(self._places)
        taken = torch.ones(self._places, dtype=torch.bool)
        taken[self._free] = False
        return taken.nonzero().flatten()

    def _read(self, slots: Tensor, as_rows: bool = False) -> dict[str, Any]:
        index = self._to_device(slots)
        found = {name: storage.index_select(0, index) for name, storage in self._storages().items()}
        if self.inputs is None or not found:
            return found
        parts = {name.partition(OF)[2]: found.pop(name) for name in list(found) if name.partition(OF)[0] == ROWS}
        if not parts:
            return found
        rows = parts[""] if "" in parts else namedtuple("Rows", parts)(**parts)
        return {ROWS: rows} | found if as_rows else {"x": self.inputs(rows)} | found

    def _flat(self, fields: dict[str, Any]) -> dict[str, Tensor]:
        """The fields with each tensor of a named tuple for itself; raises `ValueError` for rows without a way back."""
        if ROWS not in fields:
            return fields
        rows = fields[ROWS]
        if self.inputs is None or "x" in fields:
            raise ValueError(
                "add() was given rows, which it is to give back as inputs x: give no x besides, and make the buffer "
                "with context.replay_buffer(), or with inputs=context.inputs."
            )
        if not isinstance(rows, tuple):
            return fields
        parts = {f"{ROWS}{OF}{name}": column for name, column in zip(kinds(rows), rows)}
        return parts | {name: column for name, column in fields.items() if name != ROWS}

    def _to_device(self, index: Tensor) -> Tensor:
        return index.to(self._device.device, non_blocking=True)  # else the host would wait for the device

    def structure(self) -> dict[str, Any]:
        """What kind of buffer it is, and of each field the type and the trailing shape, once it is written to."""
        fields = {
            name: {"dtype": str(storage.dtype).removeprefix("torch."), "shape": list(storage.shape[1:])}
            for name, storage in self._storages().items()
        }
        return {"capacity": self._places, "policy": self.policy, "fields": fields}

    def build(self, structure: dict[str, Any]) -> None:
        """Allocate the storages; raises `ValueError` for the structure of another kind of buffer."""
        capacity, policy = structure["capacity"], structure["policy"]
        if self._granted is not None:
            self._places = capacity
        if (capacity, policy) != (self._places, self.policy):
            raise ValueError(
                f"The state is of a {policy} buffer of {capacity} samples, "
                f"and this is a {self.policy} buffer of {self._places}."
            )
        for name in self._storages():
            delattr(self, STORED + name)
        for name, field in structure["fields"].items():
            self._allocate(STORED + name, torch.empty(0, *field["shape"], dtype=getattr(torch, field["dtype"])))

    def get_extra_state(self) -> dict[str, Any]:
        """The book-keeping: plain integers, lists and dictionaries, none shared with the buffer."""
        return {
            "seen": dict(self._seen),
            "slots": {label: list(slots) for label, slots in self._slots.items()},
            "free": list(self._free),
            "full": sorted(self._full),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the book-keeping of another buffer."""
        self._seen = dict(state["seen"])
        self._slots = {label: list(slots) for label, slots in state["slots"].items()}
        self._free = list(state["free"])
        self._full = set(state["full"])


def _names(fields: dict[str, Tensor]) -> str:
    return ", ".join(sorted(fields))
