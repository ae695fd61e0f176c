"""Checks of the machine: Python, SQLite, the user, the limits of the process, the clock."""

from .doctor_findings import Check, Finding, error, ok, warning
from .doctor_installation import Installation

OLDEST_PYTHON = (3, 11)
WAL_RESET_FIXED = (3, 51, 3)
"""Before it, two connections that write and checkpoint at the same moment can, rarely, damage a
database in WAL mode: www.sqlite.org/wal.html, "The WAL-Reset Bug"."""

POINTER_BITS = 64
NAME_FOLDER = "Name a folder in TMPDIR that the user who runs chatport can write into."
NEEDED_OPEN_FILES = 1_024
FILES_PER_CALL = 2
"""One to the client, and one to the provider."""

SPARE_OPEN_FILES = 100
RANDOM_BYTES = 32
FIRST_YEAR, LAST_YEAR = 2026, 2100
DEBUGGING = ("FLASK_DEBUG", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG", "GEVENT_DEBUG")
OFF = {"", "0", "false", "no", "off"}


def python(installation: Installation) -> Finding:
    """Look at the version of Python."""
    version = ".".join(map(str, installation.around.python))
    if installation.around.python < OLDEST_PYTHON:
        return error(f"Python {version}", "Install Python 3.11 or a later one.")
    return ok(f"Python {version}")


def build(installation: Installation) -> Finding:
    """Look at how Python was built."""
    around = installation.around
    if around.bits < POINTER_BITS:
        return warning(f"{around.bits} bits", "Use a 64-bit Python: large logs need it.")
    if not around.has_gil:
        return warning("a free-threaded build", "Use the ordinary build; gevent gains nothing.")
    return ok(f"{around.bits} bits, one interpreter lock")


def assertions(installation: Installation) -> Finding:
    """Look whether assertions are left out."""
    if not installation.around.assertions:
        return warning("Python runs with -O", "Unset PYTHONOPTIMIZE: libraries check by assert.")
    return ok("Python checks assertions")


def sqlite_version(installation: Installation) -> Finding:
    """Look at the version of SQLite."""
    version = ".".join(map(str, installation.around.sqlite_version))
    if installation.around.sqlite_version < WAL_RESET_FIXED:
        return warning(
            f"SQLite {version}, whose WAL-reset bug can, rarely, damage a busy database",
            "Run a Python whose SQLite is 3.51.3 or later, and keep backups until then.",
        )
    return ok(f"SQLite {version}")


def sqlite_build(installation: Installation) -> Finding:
    """Look at how SQLite was built."""
    options = installation.around.sqlite_options
    bad = sorted(options & {"THREADSAFE=0", "OMIT_WAL", "OMIT_FOREIGN_KEY", "OMIT_TRIGGER"})
    if bad:
        return error(f"SQLite is built with {', '.join(bad)}", "Run a Python with a usual SQLite.")
    return ok("SQLite is safe with threads, and knows write-ahead logs")


def word_index(installation: Installation) -> Finding:
    """Look whether SQLite can index words."""
    if not installation.around.has_word_index:
        return error("SQLite is built without FTS5", "Run a Python whose SQLite has it.")
    return ok("SQLite has FTS5")


def temporary_folder(installation: Installation) -> Finding:
    """Look whether there is a place for the files by which the server watches its workers."""
    try:
        return ok(f"temporary files go to {installation.around.temporary_folder()}")
    except OSError:
        return error("no temporary file can be written", NAME_FOLDER)


def user(installation: Installation) -> Finding:
    """Look who runs this."""
    if installation.around.euid == 0:
        return warning("it runs as root", "Run chatport as a user of its own.")
    return ok(f"it runs as user {installation.around.euid}")


def open_files(installation: Installation) -> Finding:
    """Look whether as many calls as may be in flight have their connections."""
    most = installation.around.most_open_files
    if most < NEEDED_OPEN_FILES:
        advice = "Raise the hard limit of open files (ulimit -Hn, LimitNOFILE=) to 9000."
        return error(f"at most {most} open files", advice)
    needed = FILES_PER_CALL * installation.settings.max_in_flight + SPARE_OPEN_FILES
    if most < needed:
        return warning(
            f"at most {most} open files; CHATPORT_MAX_IN_FLIGHT may need {needed}",
            f"Raise the hard limit of open files to {needed}, or lower CHATPORT_MAX_IN_FLIGHT.",
        )
    return ok(f"up to {most} open files")


def core_dumps(installation: Installation) -> Finding:
    """Look whether a crash would write the memory, keys and prompts in it, to a file."""
    if installation.around.core_bytes:
        advice = "Turn core dumps off (ulimit -c 0, LimitCORE=0): they hold keys and prompts."
        return warning("core dumps are on", advice)
    return ok("core dumps are off")


def clock(installation: Installation) -> Finding:
    """Look whether the year can be."""
    year = installation.around.now.year
    if not FIRST_YEAR <= year <= LAST_YEAR:
        return error(f"the clock says {year}", "Set the clock: budgets and expiry go by it.")
    return ok(f"{installation.around.now:%Y-%m-%d %H:%M} UTC")


def randomness(installation: Installation) -> Finding:
    """Look whether the system has random numbers."""
    draws = {installation.around.random_bytes(RANDOM_BYTES) for _ in range(2)}
    if len(draws) == 1:
        return error("the system repeats its random numbers", "Make no keys on this machine.")
    return ok("the system has random numbers")


def debugging(installation: Installation) -> Finding:
    """Look for switches that slow the server down or show its insides."""
    found = [name for name in DEBUGGING if _is_on(installation, name)]
    if found:
        return warning(f"{', '.join(found)} is on", f"Unset {', '.join(found)} in production.")
    return ok("no debugging is on")


def provider_log(installation: Installation) -> Finding:
    """Look whether the SDK would write prompts to the log."""
    if _is_on(installation, "OPENAI_LOG"):
        return error("OPENAI_LOG is set: the SDK logs requests", "Unset OPENAI_LOG.")
    return ok("the SDK logs nothing")


def _is_on(installation: Installation, name: str) -> bool:
    return installation.around.environment.get(name, "").strip().lower() not in OFF


CHECKS = (
    Check("machine.python", "Version of Python", python),
    Check("machine.build", "Build of Python", build),
    Check("machine.assertions", "Assertions", assertions),
    Check("machine.sqlite_version", "Version of SQLite", sqlite_version),
    Check("machine.sqlite_build", "Build of SQLite", sqlite_build),
    Check("machine.word_index", "Search of words", word_index),
    Check("machine.temporary_folder", "Temporary files", temporary_folder),
    Check("machine.user", "User", user),
    Check("machine.open_files", "Open files", open_files),
    Check("machine.core_dumps", "Core dumps", core_dumps),
    Check("machine.clock", "Clock", clock),
    Check("machine.randomness", "Random numbers", randomness),
    Check("machine.debugging", "Debugging", debugging),
    Check("machine.provider_log", "The SDK's log", provider_log),
)
