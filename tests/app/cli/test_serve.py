"""The broker under `temper serve`: started, reused, started again, never the end of the service."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import broker
from app.broker import BrokerUnavailable
from app.cli import serve
from app.cli.supervisor import Supervisor
from app.settings import Settings


class Service:
    """A supervisor that tends one home's broker."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self.said: list[str] = []
        self.supervisor = Supervisor(say=self.said.append)
        self.settings = Settings(home=home)
        self.settings.make_directories()
        serve._embedded_broker(self.settings, self.supervisor, stack, self.said.append)

    def answers(self) -> bool:
        return broker.answers(broker.socket_path(self.settings.home))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TEMPER_BROKER_URL", raising=False)
    return tmp_path / "a home"


def test_a_broker_found_running_is_replaced_when_its_owner_goes(home: Path, stack: contextlib.ExitStack) -> None:
    home.mkdir()
    other = broker.start_broker(home)
    service = Service(home, stack)
    other.close()
    assert not service.answers()
    service.supervisor.tend()
    assert service.answers()
    assert service.said == []


def test_a_broker_that_does_not_come_back_ends_nothing(
    home: Path, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(home, stack)
    with monkeypatch.context() as without:
        without.setattr(serve, "start_broker", _no_broker)
        without.setattr(broker.Broker, "is_up", lambda self: False)
        service.supervisor.tend()
        service.supervisor.tend()
    assert len(service.said) == 1
    assert "no room" in service.said[0]


def _no_broker(home: Path) -> broker.Broker:
    raise BrokerUnavailable("there is no room")
