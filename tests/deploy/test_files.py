"""Dockerfile and docker-compose.yml, as far as they can be checked without Docker: they parse, and name what exists."""

import fnmatch
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.broker import socket_path
from app.queue import QUEUES
from app.settings import Settings
from tests.architecture.repo import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TEXT = (ROOT / "docker-compose.yml").read_text()
VARIABLES = {f"TEMPER_{name.upper()}" for name in Settings.model_fields}


def stages() -> dict[str, list[str]]:
    """Stage → its instructions, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    name = ""
    for line in joined.splitlines():
        if match := re.match(r"FROM \S+ AS (\S+)", line):
            name = match.group(1)
        if name and line and not line.startswith("#"):
            found.setdefault(name, []).append(line)
    return found


STAGES = stages()


def command_of(service: dict[str, Any]) -> list[str]:
    """What runs in one of our containers."""
    if "command" in service:
        return [str(word) for word in service["command"]]
    (line,) = [line for line in STAGES[service["build"]["target"]] if line.startswith("CMD")]
    words: list[str] = json.loads(line.removeprefix("CMD "))
    return words


OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_both_targets_are_deployed() -> None:
    assert {service["build"]["target"] for service in OURS.values()} == {"gateway", "worker"} <= set(STAGES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_or_a_reason(name: str) -> None:
    service = SERVICES[name]
    target = service.get("build", {}).get("target", "")
    in_image = any(line.startswith("HEALTHCHECK") for line in STAGES.get(target, []))
    assert [bool(service.get("healthcheck")), in_image, bool(service.get("x-no-healthcheck"))].count(True) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_is_there(name: str) -> None:
    service = SERVICES[name]
    for other, wanted in service.get("depends_on", {}).items():
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert SERVICES[other]["x-no-healthcheck"] == "runs once"
    assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
    assert {config["source"] for config in service.get("configs", [])} <= set(COMPOSE["configs"])


def test_every_volume_and_config_is_used() -> None:
    used = {word for service in SERVICES.values() for word in str(service.get("volumes")).split("'")}
    assert all(any(word.startswith(f"{name}:") for word in used) for name in COMPOSE["volumes"])
    assert set(COMPOSE["configs"]) == {c["source"] for s in SERVICES.values() for c in s.get("configs", [])}


def test_images_are_named_without_a_registry_and_with_a_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    for image in images:
        first, _, rest = image.partition("/")
        assert ":" in (rest or first), image
        assert not (rest and re.search(r"[.:]", first)), image


@pytest.mark.parametrize("name", OURS)
def test_settings_are_real_ones(name: str) -> None:
    environment = OURS[name]["environment"]
    assert {key for key in environment if key.startswith("TEMPER_")} <= VARIABLES
    filled = {key: re.sub(r"\$\{[^}]*\}", "x" * 16, value) for key, value in environment.items()}
    values = {k.removeprefix("TEMPER_").lower(): v for k, v in filled.items() if k.startswith("TEMPER_")}
    settings = Settings(home=Path("/var/lib/temper"), **values)
    embedded = Settings(home=settings.home)
    for place in ("database_url", "broker_url", "storage_url"):
        assert getattr(settings, place) != getattr(embedded, place), f"{name} would use its own {place}"
        host = re.search(r"//(?:[^@/]*@)?([a-z0-9]+)", getattr(settings, place))
        assert host is not None
        assert host.group(1) in {*SERVICES, "temper"}  # the bucket has the product's name
    assert settings.broker_url != f"redis+socket://{socket_path(settings.home)}"


def test_variables_of_the_images_are_real_ones() -> None:
    named = set(re.findall(r"TEMPER_[A-Z_]+", (ROOT / "Dockerfile").read_text()))
    assert named <= VARIABLES


def test_every_secret_is_asked_for_and_stands_in_the_example() -> None:
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", TEXT))
    assert required == {"TEMPER_API_KEY", "POSTGRES_PASSWORD", "S3_SECRET_KEY"}
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^([A-Z0-9_]+)=$", example, flags=re.MULTILINE)) == required
    for line in TEXT.splitlines():
        if re.search(r"(?i)(password|secret_?key|api_key)\W*:\s*\S", line):
            assert "${" in line, f"a secret is written out: {line}"


@pytest.mark.parametrize("name", OURS)
def test_commands_name_what_exists(name: str) -> None:
    words = command_of(OURS[name])
    if words[0] == "uvicorn":
        module, _, attribute = words[2].partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
        assert OURS[name]["ports"][0].endswith(f":{words[words.index('--port') + 1]}")
    else:
        assert words[:2] == ["python", "-m"]
        assert importlib.util.find_spec(f"{words[2]}.__main__") is not None
    if "--queues" in words:
        assert set(words[words.index("--queues") + 1].split(",")) <= set(QUEUES.values())


def copied() -> list[str]:
    """Paths of the checkout that the build stage copies."""
    lines = [shlex.split(line) for line in STAGES["build"] if line.startswith("COPY")]
    return [word for line in lines for word in line[1:-1]]


def test_what_is_copied_exists_and_is_sent() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(sent) == sorted(copied())
    assert all((ROOT / path).exists() for path in copied())


def test_the_packages_alone_migrate_and_serve(tmp_path: Path) -> None:
    """The wheel that the image installs holds the migrations and the shipped weights; the checkout is not needed."""
    source, wheel, site = tmp_path / "src", tmp_path / "wheel", tmp_path / "site"
    source.mkdir()
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-w", str(wheel), str(source)], check=True)
    (built,) = wheel.iterdir()
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    assert not fnmatch.filter((str(p.relative_to(site)) for p in site.rglob("*")), "tests*")
    code = """
import app.main, pathlib
from app.db import make_engine
from app.settings import Settings
from sqlalchemy import inspect
from tsfm.backbones.weights import load_backbone
from tsfm import catalog
assert pathlib.Path(app.main.__file__).is_relative_to(SITE), app.main.__file__
assert "jobs" in inspect(make_engine(Settings().database_url)).get_table_names()
load_backbone(catalog.backbone("temper-tiny"))
print("fine")
""".replace("SITE", repr(str(site)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
    environment = {**kept, "PYTHONPATH": str(site), "TEMPER_HOME": str(tmp_path / "home"), "PYTHONSAFEPATH": "1"}
    for arguments in (["-m", "migrations"], ["-c", code]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"
