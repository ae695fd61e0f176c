"""Secrets and their hashes are compared in constant time: `compare_digest`, and never `==`.

Python knows no type for a secret, so it is known by its name: one that has the word `secret`,
`password` or `authorization`. In a module that names secrets at all, `hash`, `digest` and
`presented` are such words too; elsewhere they are of requests and texts, and hide nothing.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("domain", "adapters", "entrypoints")
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
SECRET = {"secret", "password", "authorization"}
NEAR_SECRETS = {"hash", "hashed", "digest", "presented"}
COMPARING = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
METHODS = {"startswith", "endswith", "__eq__", "__ne__"}


def names(node: ast.AST) -> Iterator[str]:
    """Yield every name that stands in a piece of code."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.arg):
            yield each.arg
        elif isinstance(each, ast.FunctionDef | ast.ClassDef):
            yield each.name


def words(node: ast.AST) -> set[str]:
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", " ".join(names(node)))
    return {word.lower() for word in found}


def leaks(code: str) -> list[int]:
    """Return the lines on which a secret is compared by how far it is right."""
    module = ast.parse(code)
    secret = SECRET | NEAR_SECRETS if words(module) & SECRET else SECRET
    lines = []
    for node in ast.walk(module):
        if isinstance(node, ast.Compare) and any(isinstance(op, COMPARING) for op in node.ops):
            compared: list[ast.AST] = [node]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            compared = [node.func.value, *node.args] if node.func.attr in METHODS else []
        elif isinstance(node, ast.Match):
            compared = [node.subject]
        else:
            continue
        if any(words(each) & secret for each in compared):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_secret_is_compared_by_how_far_it_is_right(path: Path) -> None:
    assert leaks(path.read_text()) == []


def test_the_door_compares_in_constant_time() -> None:
    assert "compare_digest" in set(names(ast.parse((ROOT / "domain/doorkeeper.py").read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "key.secret_hash == proof",
        "proof != key.secret_hash",
        "SECRET in secrets_of(key)",
        "hash_secret(text) == kept",
        "kept == hash_secret(text)",
        "clientSecret == kept",
        "authorization == f'Bearer {key}'",
        "authorization.startswith(key)",
        "kept.startswith(api.secret)",
        "rows.where(row.secret_hash == hole('hash'))",
        "def f(secret, kept):\n digest = sha256(secret)\n return digest == kept",
        "secret = 1\npresented not in kept",
        "match secret:\n case 'x': pass",
    ],
)
def test_a_comparison_that_tells_would_be_found(code: str) -> None:
    assert leaks(code) != []


@pytest.mark.parametrize(
    "code",
    [
        "hmac.compare_digest(secret_hash, proof)",
        "secret is None",
        "exchange.request_hash == once.request_hash",
        "row.digest == hole('digest')",
        "secrets.token_hex(8) == x",
    ],
)
def test_what_tells_nothing_is_let_pass(code: str) -> None:
    assert leaks(code) == []
