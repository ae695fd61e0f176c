"""The shape of the code: what importing costs, and what may import what."""

import subprocess
import sys

FOREIGN = (
    "click dotenv filelock flask gevent gunicorn h11 httpx2 injector limits openai peewee pydantic"
)


def test_the_domain_imports_without_any_third_party_package() -> None:
    script = (
        "import sys\n"
        f"for name in {FOREIGN.split()!r}: sys.modules[name] = None\n"
        "import chatport.domain\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
