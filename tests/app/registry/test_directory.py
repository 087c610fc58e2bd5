import asyncio
from collections.abc import Callable, Coroutine

import pytest

from app.errors import NotFound
from app.registry.directory import Directory, Source, SourceKind, Target, catalogue_target
from app.registry.names import Reference, parse_reference


class Lookups:
    """Answers with a new version each time; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.missing = False

    def __call__(self, tenant_id: str, name: str) -> Target:
        self.asked.append((tenant_id, name))
        if self.missing:
            raise NotFound("model", name)
        number = len(self.asked)
        source = Source(kind=SourceKind.TUNED, name="toy", digest=f"sha256:{number}", version=number)
        return Target(
            model=name, version=number, digest=source.digest, source=source, fallback=None, tasks=("forecast",)
        )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(scenario: Callable[[Directory, Lookups, Clock], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        lookups, clock = Lookups(), Clock()
        await scenario(Directory(lookups, clock=clock), lookups, clock)

    asyncio.run(main())


async def version(directory: Directory, tenant: str = "t", name: str = "ft:a") -> int | None:
    return (await directory.target(tenant, name)).version


def test_a_young_entry_is_used_an_old_one_is_looked_up_again() -> None:
    async def scenario(directory: Directory, lookups: Lookups, clock: Clock) -> None:
        assert await version(directory) == 1
        clock.now = 0.49
        assert await version(directory) == 1
        clock.now = 1.0
        assert await version(directory) == 2
        assert len(lookups.asked) == 2

    run(scenario)


def test_in_between_the_old_answer_is_used_while_the_new_one_is_fetched() -> None:
    async def scenario(directory: Directory, lookups: Lookups, clock: Clock) -> None:
        assert await version(directory) == 1
        clock.now = 0.6
        assert await version(directory) == 1
        while len(lookups.asked) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert await version(directory) == 2

    run(scenario)


def test_callers_at_once_share_one_lookup() -> None:
    async def scenario(directory: Directory, lookups: Lookups, clock: Clock) -> None:
        assert await asyncio.gather(*(version(directory) for _ in range(20))) == [1] * 20
        assert len(lookups.asked) == 1

    run(scenario)


def test_tenants_do_not_share_names() -> None:
    async def scenario(directory: Directory, lookups: Lookups, clock: Clock) -> None:
        assert await version(directory, "t") == 1
        assert await version(directory, "u") == 2
        directory.forget("t")
        assert await version(directory, "u") == 2
        assert await version(directory, "t") == 3

    run(scenario)


def test_a_name_that_is_gone_is_404_at_once_after_its_second() -> None:
    async def scenario(directory: Directory, lookups: Lookups, clock: Clock) -> None:
        await version(directory)
        lookups.missing = True
        clock.now = 0.7
        assert await version(directory) == 1
        while len(lookups.asked) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        with pytest.raises(NotFound):
            await version(directory)

    run(scenario)


def test_backbones_and_rivals_need_no_lookup() -> None:
    async def scenario(directory: Directory, lookups: Lookups, clock: Clock) -> None:
        assert (await directory.target("t", "temper-tiny")).source.kind is SourceKind.ZERO_SHOT
        assert (await directory.target("t", "naive")).source.kind is SourceKind.RIVAL
        assert lookups.asked == []

    run(scenario)
    assert catalogue_target("ft:a", weights_dir=None) is None


@pytest.mark.parametrize(
    ("text", "name", "selector"),
    [
        ("ft:b:t:s:12345678", "ft:b:t:s:12345678", None),
        ("ft:b:t:s:12345678@production", "ft:b:t:s:12345678", "production"),
        ("ft:b:t:s:12345678@3", "ft:b:t:s:12345678", "3"),
        ("org/name@x@2", "org/name@x", "2"),
        ("name@", "name", ""),
    ],
)
def test_a_reference_is_split_at_its_last_at_sign(text: str, name: str, selector: str | None) -> None:
    assert parse_reference(text) == Reference(name=name, selector=selector)
    assert str(parse_reference(text)) == text
