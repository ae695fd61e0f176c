"""The README's section "Put it on a network", word for word but for the port."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
SECTION = README.split("## Put it on a network\n")[1].split("### Keys")[0]
CREATE, SERVE = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)[0].splitlines()
[EXAMPLE] = re.findall(r"```py\n(.*?)```", SECTION, re.DOTALL)
LOOK = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)[1].splitlines()
FOURTH = r"The caller limit of 3 requests per minute is reached; try again in \d+ s\."


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return what runs a line of the README in the folder in which the service runs too."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "chatport"
    program.write_text(f"#!{sys.executable}\nfrom chatport.entrypoints.cli import main\nmain()\n")
    program.chmod(0o700)
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("CHATPORT_")
    }
    variables["PATH"] = f"{program.parent}:{variables['PATH']}"

    def run_line(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-ec", line],
            cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run_line


def test_a_key_a_service_a_limit_and_the_usage(
    serve_anew: Callable[..., Any],
    run: Callable[[str], subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert SERVE == "chatport serve --host 0.0.0.0"
    created = run(f'{CREATE}; printf %s "$SHOP_KEY"')
    assert re.fullmatch(r"cp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", created.stdout), created.stderr

    service = serve_anew("--offline", "--host", "0.0.0.0", OPENAI_API_KEY="")
    monkeypatch.setenv("SHOP_KEY", created.stdout)
    exec(EXAMPLE.replace(":8000/", f":{service.port}/"), {})
    *answers, refusal = capsys.readouterr().out.splitlines()
    assert answers == ["You said: Hello"] * 3
    assert re.fullmatch(FOURTH, refusal)
    assert re.search(FOURTH.replace(r"\d+", "60"), SECTION)

    by_caller, by_user, shown = (run(line) for line in LOOK)
    assert (by_caller.returncode, by_user.returncode, shown.returncode) == (0, 0, 0)
    assert re.search(r"^shop +3 ", by_caller.stdout, re.MULTILINE)
    assert "caller 3 requests per minute" in by_caller.stdout
    assert re.search(r"^shop/ada +3 ", by_user.stdout, re.MULTILINE)
    assert "5 USD per day; 100 USD per month" in shown.stdout
    assert created.stdout not in by_caller.stdout + by_user.stdout + shown.stdout
    rows = [json.loads(line) for line in run("chatport usage --json").stdout.splitlines()]
    assert rows[0]["calls"] == 3
