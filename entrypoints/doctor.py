"""All checks of an installation, and what runs them."""

from collections.abc import Iterator
from contextlib import closing, suppress

from chatport.domain.errors import StorageBusy, StorageUnavailable

from . import doctor_limits, doctor_machine, doctor_network, doctor_settings, doctor_storage
from .doctor_findings import Check, Finding, Level, Skip, error
from .doctor_installation import Installation, Surroundings

CHECKS: tuple[Check, ...] = (
    *doctor_machine.CHECKS,
    *doctor_settings.CHECKS,
    *doctor_storage.CHECKS,
    *doctor_limits.CHECKS,
    *doctor_network.CHECKS,
)


def examine(around: Surroundings) -> Iterator[tuple[Check, Finding]]:
    """Yield each check with what it found, in the order of `CHECKS`; nothing is changed."""
    with closing(Installation(around)) as installation:
        for check in CHECKS:
            yield check, _found(check, installation)


def _found(check: Check, installation: Installation) -> Finding:
    try:
        with suppress(StorageBusy):  # others began to use the file: then it is looked at again
            return check.look(installation)
        return check.look(installation)
    except Skip as reason:
        return Finding(Level.SKIPPED, str(reason))
    except StorageBusy:
        return Finding(Level.SKIPPED, "others began to use the database meanwhile: run this again")
    except StorageUnavailable:
        return Finding(Level.SKIPPED, "the database cannot be read: see storage.integrity")
    except Exception as fault:  # noqa: BLE001  # one broken check must not hide the others
        kind = type(fault).__name__  # and not its text, which may hold a secret
        return error(f"could not be checked: {kind}", "Report this as a defect of chatport.")
