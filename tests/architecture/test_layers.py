"""tsfm ← app ← worker, read from the imports; and importing the gateway loads no torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture.repo import ROOT, imported, imports, module_name, sources, within

ENGINE = "app.forecasts.engine"
"""The one module of the gateway that may load torch, on first use."""
HEAVY = ("torch", "peft", "transformers")
SERVICE_ONLY = ("fastapi", "starlette", "celery", "kombu", "sqlalchemy", "alembic", "pydantic_settings", "uvicorn")
CLI_MAY_USE = ("app.cli", "app.settings", "app.broker", "app.db", "app.auth", "app.allocator")
"""The command talks HTTP; `serve` alone prepares a home and its processes: settings, broker, schema, first key."""
SHELF = "app.cli.shelf"
"""`temper backbones pull|add|show` look at the weights folder of this machine, with or without a service."""


def offences(package: str, forbidden: Callable[[str, str], bool]) -> list[str]:
    found = []
    for path in sources(package):
        module = module_name(path)
        for target, line in imports(path):
            if forbidden(module, target):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    return sorted(set(found))


def heavy_after(*modules: str) -> str:
    """Which of HEAVY a fresh interpreter has loaded once it has imported these modules, as a printed list."""
    script = f"import sys, {', '.join(modules)}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_core_knows_neither_gateway_nor_worker() -> None:
    assert not offences("tsfm", lambda _, target: within(target, "app", "worker", "migrations", *SERVICE_ONLY))


def test_the_gateway_never_imports_the_worker() -> None:
    assert not offences("app", lambda _, target: within(target, "worker"))


def test_only_the_upgrade_finds_the_migrations() -> None:
    assert not offences("app", lambda module, target: within(target, "migrations") and module != "app.db")


def test_only_the_engine_names_torch() -> None:
    assert not offences("app", lambda module, target: within(target, *HEAVY) and module != ENGINE)


def test_the_gateway_uses_only_the_torch_free_core() -> None:
    """Every module of the core that `app` names outside its engine, imported in a fresh interpreter."""
    names = {module_name(path) for path in sources("tsfm")}
    used = {
        target
        for path in sources("app")
        if module_name(path) != ENGINE
        for target, _ in imports(path)
        if target in names
    }
    assert "tsfm.catalog" in used
    assert heavy_after(*sorted(used)) == "[]"


def test_the_command_talks_http() -> None:
    def forbidden(module: str, target: str) -> bool:
        own = within(target, "app") and target != "app" and not within(target, *CLI_MAY_USE)
        inside = within(module, "app.cli") and module != SHELF
        return inside and (own or within(target, "tsfm", "sqlalchemy", "celery"))

    assert not offences("app", forbidden)


def test_only_serve_touches_the_service_from_the_command() -> None:
    def forbidden(module: str, target: str) -> bool:
        inside = within(module, "app.cli") and module not in {"app.cli.serve", "app.cli.prepare", SHELF}
        return inside and within(target, "app.settings", "app.broker", "app.db", "app.auth")

    assert not offences("app", forbidden)


def test_migrations_know_only_the_tables() -> None:
    allowed = ("app.tables", "app.db", "app.settings")
    bad = offences(
        "migrations",
        lambda _, target: within(target, "app", "tsfm", "worker") and target != "app" and not within(target, *allowed),
    )
    assert not bad


def test_the_core_reads_no_environment() -> None:
    def reads(path: Path) -> bool:
        text = path.read_text(encoding="utf-8")
        return "os.environ" in text or "os.getenv" in text

    assert [str(path.relative_to(ROOT)) for path in sources("tsfm") if reads(path)] == []


@pytest.mark.parametrize("module", ["app.main", "app.cli.main", "worker.tasks", "tsfm.series.parse", "tsfm.catalog"])
def test_a_fresh_interpreter_imports_without_torch(module: str) -> None:
    assert heavy_after(module) == "[]"


def test_the_reader_of_imports_sees_every_form() -> None:
    """The tests above are only as good as this reader."""
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom ..x.y import z\ndef f():\n    import g\n"
    names = {name for name, _ in imported(source, package="app.jobs")}
    assert {"a.b", "c", "c.d", "app.jobs", "app.jobs.e", "app.x.y", "app.x.y.z", "g"} <= names
