"""How long this process may still take for what it has open, by a clock that nobody sets."""

from time import monotonic


class OwnLeases:
    """The leases of the exchanges that this process has begun and not finished.

    The wall clock may be set, and a machine may sleep: then a lease in a database looks as if it
    had run out, while the call that it stands for is well and alive. `holds` and `lose` are safe
    for many threads; the rest is for the one that writes.
    """

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}  # the first of them ends first
        self._lost: dict[str, None] = {}

    def grant(self, exchange_id: str, seconds: float) -> None:
        """Let an exchange be open for so long."""
        self.end(exchange_id)  # so that the order is kept
        self._ends[exchange_id] = monotonic() + seconds

    def end(self, exchange_id: str) -> None:
        """Forget an exchange, which has its outcome."""
        self._ends.pop(exchange_id, None)
        self._lost.pop(exchange_id, None)

    def lose(self, exchange_id: str) -> None:
        """Note that nobody will give the exchange an outcome any more: it could not be kept."""
        self._lost[exchange_id] = None

    def holds(self, exchange_id: str) -> bool:
        """Return whether the exchange may still be open."""
        return self._ends.get(exchange_id, 0.0) > monotonic()

    def run_out(self) -> list[str]:
        """Return the exchanges that nobody will finish, until `end` is told of each."""
        found, now = list(self._lost), monotonic()
        for exchange_id, end in self._ends.items():
            if end > now:
                break
            found.append(exchange_id)
        return found
