"""Which server runs where."""

import sys

import pytest
from pytest_mock import MockerFixture

from chatport.entrypoints import server
from chatport.entrypoints.settings import Settings

SERVING = server.Serving(host="127.0.0.1", port=0, workers=1, offline=True, insecure_open=False)


@pytest.mark.parametrize(
    ("platform", "runs"),
    [
        ("win32", "_serve_with_waitress"),
        ("linux", "_serve_with_gunicorn"),
        ("darwin", "_serve_with_gunicorn"),
    ],
)
def test_waitress_serves_on_windows_and_gunicorn_elsewhere(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, platform: str, runs: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    chosen = {
        name: mocker.patch.object(server, name)
        for name in ("_serve_with_waitress", "_serve_with_gunicorn")
    }
    server.serve(Settings.from_mapping({}), SERVING)
    assert [name for name, called in chosen.items() if called.called] == [runs]


def test_on_windows_the_application_is_handed_to_waitress(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    waitress = mocker.MagicMock()
    monkeypatch.setitem(sys.modules, "waitress", waitress)
    settings = Settings.from_mapping({"CHATPORT_DATABASE": "memory:"})
    server._serve_with_waitress(settings, SERVING)
    application = waitress.serve.call_args.args[0]
    assert application.test_client().get("/readyz").status_code == 200
    assert waitress.serve.call_args.kwargs["host"] == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_an_address_that_strangers_reach_is_refused(host: str) -> None:
    serving = server.Serving(host=host, port=0, workers=1, offline=True, insecure_open=False)
    with pytest.raises(server.CannotServe, match="--insecure-open"):
        server.check_address(serving)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_addresses_are_served(host: str) -> None:
    serving = server.Serving(host=host, port=0, workers=1, offline=True, insecure_open=False)
    server.check_address(serving)
