"""The nodes of a Ray cluster: how many workers each has room for, and which are no longer used."""

from collections import Counter
from collections.abc import Callable, Collection

import ray

from builder.core.errors import ConfigError, HostError

STRIKES = 3  # tasks in a row that a node failed and others did, before it is no longer used


class Nodes:
    """The nodes that are there, by their ids; ``look`` again, since they come and go.

    ``on_notice`` is told of a node that is no longer used.
    """

    def __init__(self, wanted: dict[str, float], on_notice: Callable[[str], None]) -> None:
        self._wanted = {kind: each for kind, each in wanted.items() if each}
        self._on_notice = on_notice
        self._room: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._done: set[str] = set()  # on which a task was done
        self._strikes = Counter[str]()
        self.left_out: dict[str, str] = {}
        """Nodes that are no longer used, and why."""
        self.look()

    def look(self) -> None:
        """Ask the cluster which nodes there are."""
        self._room = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = node["Resources"]
                rooms = [there.get(kind, 0) // each for kind, each in self._wanted.items()]
                self._room[node["NodeID"]] = int(min(rooms, default=there.get("CPU", 1)))

    @property
    def several(self) -> bool:
        """Whether it matters on which node something was."""
        return len(self._room) > 1

    def usable(self, but: Collection[str] = ()) -> dict[str, int]:
        """Return for how many workers there is room, by node, where that is any."""
        out = {*self.left_out, *but}
        return {node: room for node, room in self._room.items() if room and node not in out}

    def name(self, node: str, host: str | None = None) -> str:
        """Return by which name users know a node; ``host`` is the name it gave itself."""
        if host is not None:
            self._names[node] = f"{host} (Ray node {node[:12]})"
        return self._names.get(node, f"the Ray node {node[:12]}")

    def leave_out(self, node: str, why: str) -> None:
        """Use a node no longer, and say so where others are left."""
        if node not in self.left_out:
            self.left_out[node] = why
            if self.usable():  # else the run ends, and says the same
                self._on_notice(f"{self.name(node)} is no longer used: {why}")

    def did(self, node: str, others: Collection[str]) -> None:
        """Note that a node did a task, which ``others`` had failed."""
        self._done.add(node)
        self._strikes[node] = 0
        for other in others:
            self._strikes[other] += 1
            if self._strikes[other] >= STRIKES:
                times = f"{STRIKES} tasks in a row that it failed were done by others"
                self.leave_out(other, f"{times}; see what it lacks")

    def is_suspect(self, node: str, error: BaseException) -> bool:
        """Tell whether the node may be to blame for an error, rather than the task."""
        if isinstance(error, HostError | ConfigError):  # here all of that was found to be well
            self.leave_out(node, str(error))
        return node in self.left_out or node not in self._done
