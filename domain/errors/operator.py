"""Whoever runs chatport has something to repair."""

from .chatport_error import ChatportError


class OperatorError(ChatportError):
    """Whoever runs chatport has something to repair."""


class Overloaded(OperatorError):
    """As many requests as this server takes are being answered; this one was not begun."""

    code = "overloaded"
    message = "The server is answering as many requests as it can; try again shortly."


class StorageUnavailable(OperatorError):
    """The database does not answer, so nothing may be called or acknowledged."""

    code = "storage_unavailable"
    message = "The database cannot be used at the moment; the answer was not kept."


class StorageBusy(StorageUnavailable):
    """Another process held the database's write lock for too long."""

    code = "storage_busy"
    message = "The database is busy; try again shortly."

    def __init__(self) -> None:
        super().__init__(retry_after_seconds=1.0)


class StorageFull(StorageUnavailable):
    """The disk, or the size allowed for the database, is full."""

    code = "storage_full"
    message = "The disk of the database is full; free some space and it works again."


class StorageReadOnly(StorageUnavailable):
    """The database file or its folder may not be written."""

    code = "storage_readonly"
    message = "The database cannot be written; check that its folder is there, and the permissions."


class StorageCorrupt(StorageUnavailable):
    """The database file is damaged, or is no database."""

    code = "storage_corrupt"
    message = "The database file is damaged; restore it from a backup."


class StorageLost(StorageUnavailable):
    """The database file was deleted, replaced or cut while it was open."""

    code = "storage_lost"
    message = "The database file was deleted, replaced or cut; put it back, and restart the server."


class StorageTooNew(StorageUnavailable):
    """A newer version of chatport wrote the database; it was left as it is."""

    code = "storage_too_new"
    message = "The database was written by a newer version of chatport; run that version."
