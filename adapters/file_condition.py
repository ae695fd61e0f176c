"""What the processes of one server tell each other about the file that they share."""

import mmap

FAULTS = ("", "SQLITE_CORRUPT", "FILE_LOST")
"""What can make a file unusable for good; its place here is what stands in the memory."""

FAULT, LENGTH, IN_DOUBT, DEVICE, INODE = range(5)


class FileCondition:
    """Notes in memory that is shared with the processes that are forked later.

    Each is one number, which is stored at once, so that nobody needs a lock. They last as long
    as the processes do; a process that is alone has them to itself.

    To be made before the processes are forked.
    """

    def __init__(self) -> None:
        self._notes = memoryview(mmap.mmap(-1, 5 * 8)).cast("Q")

    @property
    def fault(self) -> str:
        """What makes the file unusable, by the name that `sqlite_faults` knows; mostly nothing."""
        return FAULTS[self._notes[FAULT]]

    def condemn(self, fault: str) -> None:
        """Let no process write any more. SQLite would, and make it worse."""
        self._notes[FAULT] = FAULTS.index(fault)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file; zeros until a process has opened it."""
        return self._notes[DEVICE], self._notes[INODE]

    @identity.setter
    def identity(self, identity: tuple[int, int]) -> None:
        self._notes[DEVICE], self._notes[INODE] = identity

    @property
    def length(self) -> int:
        """How many bytes of the file must be there; 0 until a process has looked."""
        return self._notes[LENGTH]

    @length.setter
    def length(self, length: int) -> None:
        self._notes[LENGTH] = length

    @property
    def in_doubt(self) -> bool:
        """Whether a write has failed, and none was tried since to see if it works again."""
        return bool(self._notes[IN_DOUBT])

    @in_doubt.setter
    def in_doubt(self, doubt: bool) -> None:
        self._notes[IN_DOUBT] = doubt
