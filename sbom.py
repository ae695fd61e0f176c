"""Print what chatport is made of, as CycloneDX 1.6: python sbom.py > sbom.json."""

import hashlib
import json
import re
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).parent
PINNED = re.compile(
    r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==(\S+)(?: ; ([^\\\n]*?))? *\\?\n((?:    .*\n)*)",
    re.MULTILINE,
)
HASH = re.compile("--hash=sha256:([0-9a-f]{64})")


def components(lock: str) -> list[dict[str, object]]:
    """Return the packages that a lock file pins, for whatever platform.

    A package has one hash for each of its files, of which one is installed; so they stand among
    its properties, and not as the hash of the component.
    """
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "properties": [
                *([{"name": "chatport:marker", "value": marker}] if marker else []),
                *({"name": "chatport:sha256", "value": each} for each in HASH.findall(rest)),
            ],
        }
        for name, version, marker, rest in PINNED.findall(lock)
    ]


def bill(lock: str, version: str) -> dict[str, object]:
    """Return the bill of materials; the same lock file makes the same bill."""
    digest = hashlib.sha256(f"{version}\n{lock}".encode()).hexdigest()
    us = {"type": "application", "bom-ref": "chatport", "name": "chatport", "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"chatport:{digest}").urn,
        "version": 1,
        "metadata": {"component": us},
        "components": components(lock),
    }


def main() -> None:
    """Print the bill of what `requirements.lock` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text()
    print(json.dumps(bill(lock, project["version"]), indent=2))  # noqa: T201  # it is a program


if __name__ == "__main__":
    main()
