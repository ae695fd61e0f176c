"""How long a worker that stops waits for those that it cuts off."""

import time
from typing import Any

from gevent import GreenletExit, sleep

from chatport.entrypoints.gevent_worker import KILL_SECONDS, Worker


class Late(Worker):
    """Heeds a stop late, with one request under way, whose outcome takes a moment to write."""

    alive = False
    sockets = (None,)
    worker_connections = 1
    told = False

    def __init__(self) -> None:
        self._kill_at = time.monotonic() - KILL_SECONDS

    def notify(self) -> None:
        """Have no master."""

    def _serve(self, _listener: object, pool: Any) -> Any:
        pool.spawn(self._answer)
        sleep(0)  # it begins
        return self

    def close(self) -> None:
        """Have no socket."""

    def _answer(self) -> None:
        try:
            sleep(KILL_SECONDS)
        except GreenletExit:
            sleep(0.01)
            self.told = True


def test_a_stop_that_is_heeded_late_leaves_all_the_time_to_tell_those_who_are_cut_off() -> None:
    worker = Late()
    worker.run()
    assert worker.told
