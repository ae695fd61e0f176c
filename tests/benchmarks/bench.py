"""`make bench`: each figure of the performance budget, against its bound.

Starts a fake provider, chatport with everything on, and for comparison a bare Flask application
around the `openai` SDK; ends them all before it ends. What counts are ratios within one run:
absolute figures move by a third from one run to the next. Needs Linux, for its /proc.

    python tests/benchmarks/bench.py                   all figures, about six minutes
    python tests/benchmarks/bench.py --quick           a shorter log of exchanges
    python tests/benchmarks/bench.py --long            load for minutes, as before a release
    python tests/benchmarks/bench.py --only start,growth
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import alone
import overload
import processes
import slow
import table
import traffic
from place import Place
from table import Row

FIGURES: dict[str, Callable[[Place], list[Row]]] = {
    "throughput": traffic.throughput,
    "v1throughput": traffic.v1throughput,
    "latency": traffic.latency,
    "flight1000": traffic.flight1000,
    "flight2000": traffic.flight2000,
    "streams": traffic.streams,
    "v1streams": traffic.v1streams,
    "overload": overload.overload,
    "slow": slow.slow,
    "conversation": alone.conversation,
    "history": alone.history,
    "imports": alone.imports,
    "start": alone.start,
    "growth": traffic.growth,
}


def main() -> int:
    """Measure, print the table, and return 1 if a budget is missed."""
    chosen = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end too
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        with processes.upstream(root) as upstream:
            place = Place(
                root=root, upstream_port=upstream.port, quick=chosen.quick, long=chosen.long
            )
            for name in chosen.only:
                before = processes.Busy.now(upstream.pid)
                rows += FIGURES[name](place)
                others = processes.Busy.now(upstream.pid).others_since(before)
                sys.stderr.write(f"{name}: {others:.0%} of the cores were used by others\n")
    sys.stdout.write(table.text(rows) + "\n")
    return 0 if all(row.kept for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure chatport against its budget.")
    parser.add_argument("--quick", action="store_true", help="a log of 100,000 rows, not 1,000,000")
    parser.add_argument("--long", action="store_true", help="minutes of overload and slow clients")
    parser.add_argument(
        "--only",
        type=_names,
        default=list(FIGURES),
        metavar="NAME[,NAME]",
        help=f"of {', '.join(FIGURES)}",
    )
    return parser.parse_args()


def _names(value: str) -> list[str]:
    names = value.split(",")
    if unknown := set(names) - set(FIGURES):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
