"""Where the benchmarks of one run take place."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A temporary folder and a fake provider.

    Attributes:
        quick: Less work where the full amount takes minutes.
        long: Load for minutes where seconds of it show nearly as much.
    """

    root: Path
    upstream_port: int
    quick: bool
    long: bool = False
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def folder(self) -> Path:
        """Return a new, empty folder."""
        path = self.root / str(next(self._numbers))
        path.mkdir()
        return path

    def provider(self, milliseconds: int = 0) -> str:
        """Return the base URL of a provider that takes so long to answer."""
        return f"http://127.0.0.1:{self.upstream_port}/latency-{milliseconds}/v1"
