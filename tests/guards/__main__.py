"""`python -m guards`, in the folder `tests`: take out each guard, and say which nobody missed."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .removal import Copy
from .table import GUARDS


def say(line: str) -> None:
    """Write a line at once: the whole takes half a minute."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Return the exit code: 1 if a guard is not missed, or the tests fail with it."""
    with TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        tests = dict.fromkeys(test for guard in GUARDS for test in guard.caught_by)
        failed = not copy.run(*tests).passed
        say(f"{'FAILED  ' if failed else 'passed  '} the tests with all guards")
        for guard in GUARDS:
            with copy.without(guard):
                caught = copy.run(*guard.caught_by).caught
            say(f"{'caught  ' if caught else 'SURVIVES'} {guard.name} ({guard.file})")
            failed |= not caught
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
