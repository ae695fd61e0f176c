"""The installation that is looked at: the machine around it, its settings, its database."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from chatport.domain.callers import Caller
from chatport.domain.errors import ChatportError
from chatport.domain.keys import PAGE, ApiKey
from chatport.domain.ports import LLMGateway

from .database_name import GONE
from .doctor_findings import Skip
from .environment import load_environment
from .server import Serving
from .setting_values import UpstreamSetting
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from chatport.adapters.sqlite_inspection import SqliteInspection

UNKNOWN = " is not a setting of chatport"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the machine says, so that every bad one can be made up.

    Attributes:
        environment: Of this process, without what a `.env` file says.
        folder: Where `.env` is, and what relative paths begin with; relative if it was deleted.
        network: Whether to ask anything of the network.
        euid: Of the user who runs this.
        assertions: Whether Python checks them.
        most_open_files: What the server may raise its limit to.
        core_bytes: How large a core dump may get; -1 for any size.
        mounts: The text of `/proc/mounts`; empty where there is none.
        temporary_folder: Tells where temporary files can be written; raises OSError.
        free_bytes: Tells how much can be written into a folder.
        random_bytes: The system's source of randomness.
        resolve: Looks up a host; raises OSError.
        gateway: Opens the way to a provider.
    """

    environment: Mapping[str, str]
    folder: Path
    serving: Serving
    network: bool
    now: datetime
    euid: int
    python: tuple[int, int, int]
    bits: int
    has_gil: bool
    assertions: bool
    sqlite_version: tuple[int, ...]
    sqlite_options: frozenset[str]
    has_word_index: bool
    pragmas: Mapping[str, str]
    temporary_folder: Callable[[], str]
    most_open_files: int
    core_bytes: int
    mounts: str
    free_bytes: Callable[[Path], int]
    random_bytes: Callable[[int], bytes]
    resolve: Callable[[str], object]
    gateway: Callable[[UpstreamSetting], AbstractContextManager[LLMGateway]]


class Installation:
    """Reads each part of the installation once, when a check first asks for it.

    What is not there raises `Skip`: the check that is about its absence reports that. Whoever
    made it closes it.
    """

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self._closing = ExitStack()
        self._models: dict[str, list[str] | ChatportError] = {}

    def close(self) -> None:
        """Close what was opened."""
        self._closing.close()

    @property
    def dotenv(self) -> Path:
        """Return the file whose settings are read beside the environment."""
        return self.around.folder / ".env"

    @cached_property
    def _loaded(self) -> tuple[Mapping[str, str], list[str]]:
        return load_environment(self.around.environment, self.dotenv)

    @property
    def environment(self) -> Mapping[str, str]:
        """Return all variables that settings are read from."""
        return self._loaded[0]

    @cached_property
    def problems(self) -> list[str]:
        """Return what is wrong with the settings."""
        try:
            Settings.from_mapping(*self._loaded)
        except SettingsError as error:
            return error.problems
        return []

    @cached_property
    def settings(self) -> Settings:
        """Return the settings, without the names that are unknown."""
        bad = {problem.split(UNKNOWN)[0] for problem in self.problems if UNKNOWN in problem}
        environment, problems = self._loaded
        try:
            return Settings.from_mapping(
                {name: value for name, value in environment.items() if name not in bad}, problems
            )
        except SettingsError:
            raise Skip("the settings cannot be used") from None

    @cached_property
    def named(self) -> Path:
        """Return the path of the database, which may be a link."""
        if self.settings.database is None:
            raise Skip("everything is kept in memory")
        named = self.around.folder / self.settings.database
        if not named.is_absolute():
            raise Skip(GONE)
        return named

    @cached_property
    def database(self) -> Path:
        """Return where the database is, or will be: what SQLite makes stands beside that."""
        try:
            return self.named.resolve()
        except (OSError, RuntimeError):  # a link that leads to itself
            return self.named

    @property
    def file(self) -> Path:
        """Return the database's file, which exists."""
        try:
            found = self.database.is_file()
        except OSError:
            raise Skip("there can be no such file: see storage.regular") from None
        if not found:
            raise Skip("there is no database file yet")
        return self.database

    @cached_property
    def files(self) -> list[Path]:
        """Return the database's file, and those that SQLite has put beside it."""
        beside = [self.file.with_name(self.file.name + end) for end in ("-wal", "-shm")]
        return [self.file, *(path for path in beside if path.exists())]

    @property
    def lock(self) -> Path:
        """Return what whoever opens the database locks meanwhile; it need not exist."""
        return self.file.with_name(f"{self.file.name}.lock")

    @cached_property
    def inspection(self) -> "SqliteInspection":
        """Return the database, opened so that nothing can change."""
        from chatport.adapters.sqlite_inspection import SqliteInspection, WalWithoutIndex  # noqa: PLC0415  # `--help` needs none

        try:
            opened = SqliteInspection(self.file, self.named)
        except WalWithoutIndex:
            raise Skip("its -wal has no -shm beside it; start chatport once first") from None
        self._closing.callback(opened.close)
        return opened

    def models(self, upstream: UpstreamSetting) -> list[str] | ChatportError:
        """Return the models that a provider lists, or how it failed."""
        if upstream.url not in self._models:
            with self.around.gateway(upstream) as gateway:
                try:
                    found: list[str] | ChatportError = [card.id for card in gateway.models()]
                except ChatportError as error:
                    found = error
            self._models[upstream.url] = found
        return self._models[upstream.url]

    @cached_property
    def callers(self) -> list[tuple[Caller, list[ApiKey]]]:
        """Return all callers with their keys; none while there is no database."""
        try:
            keys = self.inspection.keys() if self._has_callers() else None
        except Skip:
            return []
        found: list[tuple[Caller, list[ApiKey]]] = []
        while keys and (page := keys.callers(after=found[-1][0].name if found else "", limit=PAGE)):
            found += [(caller, list(keys.keys_of(caller.name))) for caller in page]
        return found

    def _has_callers(self) -> bool:
        """Return whether the file is new enough to have a table of callers."""
        return "0003_callers" not in self.inspection.pending_migrations()

    @property
    def upstreams(self) -> tuple[UpstreamSetting, ...]:
        """Return the providers that will be asked."""
        if self.around.serving.offline:
            raise Skip("no provider is asked (--offline)")
        return self.settings.upstreams

    @property
    def reachable(self) -> tuple[UpstreamSetting, ...]:
        """Return the providers, if the network may be used."""
        if not self.around.network:
            raise Skip("the network is left alone (--no-network)")
        return self.upstreams
