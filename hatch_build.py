"""Ship domain/, adapters/ and entrypoints/ as chatport.domain, .adapters and .entrypoints."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LAYERS = ("domain", "adapters", "entrypoints")
SHIPPED = {".py", ".typed", ".html", ".css"}
"""Nothing else is taken along that lies there, such as a database or a file with keys."""


class LayersHook(BuildHookInterface):  # type: ignore[type-arg]  # the parameter is hatchling's own
    """Map the layers into the package; an editable install gets links to them instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the layers to the wheel."""
        root = Path(self.root)
        if version != "editable":
            found = (path for layer in LAYERS for path in (root / layer).rglob("*"))
            files = (path for path in found if path.suffix in SHIPPED)
            build_data["force_include"].update(
                {str(path): f"chatport/{path.relative_to(root).as_posix()}" for path in files}
            )
            return
        links = root / ".links"
        (links / "chatport").mkdir(parents=True, exist_ok=True)
        for layer in LAYERS:
            link = links / "chatport" / layer
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", layer), target_is_directory=True)
        pth = links / "chatport.pth"
        pth.write_text(f"{links}\n")
        build_data["force_include_editable"][str(pth)] = "chatport.pth"
