"""Which of several artifacts nobody has to take, since another is no worse in anything and better in something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIKE = 0.01  # of a latency: what two timings of the same artifact may differ by


@dataclass(frozen=True)
class Costs:
    """What is to be small. ``latency`` in milliseconds, None where nothing was timed; ``loss`` in any unit."""

    bytes: int
    latency: float | None
    loss: float

    def dominates(self, other: Costs) -> bool:
        """Whether this one is no worse in anything and better in something.

        Latencies that lie nearer to each other than timing can tell apart count as alike.
        """
        pairs = [(float(self.bytes), float(other.bytes)), (self.loss, other.loss)]
        if self.latency is not None and other.latency is not None:
            apart = abs(self.latency - other.latency) > ALIKE * max(self.latency, other.latency)
            pairs.append((self.latency, other.latency) if apart else (0.0, 0.0))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(points: Sequence[Costs]) -> list[bool]:
    """Whether each point is on the Pareto front: no other dominates it."""
    return [not any(other.dominates(point) for other in points) for point in points]
