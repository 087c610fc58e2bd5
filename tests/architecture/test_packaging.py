"""What a fresh machine needs: complete constraints, a working bootstrap script, no trace of ours in the files."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.architecture.repo import ROOT, tracked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), "only exact public versions"
    return {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}


def required(extra: str) -> Iterator[tuple[str, Version]]:
    """Everything `pip install -e '.[EXTRA]'` puts into this environment, with the version that is here."""
    waiting = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            assert requirement.marker, f"{requirement} is not installed"
            continue
        yield canonicalize_name(requirement.name), Version(found.version)
        for text in found.requires or []:
            child = Requirement(text)
            extras = [{"extra": extra} for extra in ("", *requirement.extras)]
            if child.marker is None or any(child.marker.evaluate(extra) for extra in extras):
                waiting.append(child)


@pytest.mark.parametrize("extra", ["dev", "benchmarks"])
def test_every_package_is_pinned_to_the_version_that_is_tested(extra: str) -> None:
    if extra == "benchmarks":
        pytest.importorskip("sklearn", reason="the extra benchmarks is not installed")
        pytest.importorskip("statsmodels", reason="the extra benchmarks is not installed")
    pins = constraints()
    # On Linux torch's default build brings CUDA packages, which torch itself pins to the digit.
    ours = {name: version for name, version in required(extra) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert {name for name in ours if name not in pins} == set()
    assert {name: str(found) for name, found in ours.items() if found.public != pins[name]} == {}


def test_direct_requirements_admit_the_pinned_version() -> None:
    pins = constraints()
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + extras["dev"] + extras["benchmarks"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_what_is_installed_beside_an_extra_is_pinned_too() -> None:
    """TSB-AD asks for numpy<2, so that no extra can name it; `benchmarks/anomaly_metrics.py` says how to install it."""
    assert "tsb-ad" in constraints()
    assert "TSB-AD" not in {Requirement(text).name for text in PROJECT["optional-dependencies"]["benchmarks"]}


def test_no_file_names_a_machine_path_or_a_package_registry() -> None:
    traces = re.compile(
        r"/(?:root|home/[a-z]+|Users/[A-Za-z]+|opt/(?:pypi|wheels))\b|/work/(?:main|shared)\b"
        r"|(?:files\.)?python" + r"hosted\.org|pypi" + r"\.org|download\.py" + r"torch\.org|test\.py" + r"pi"
    )
    hits = []
    for path in tracked(".py", ".sh", ".md", ".toml", ".txt", ".ini", ".yml", ".yaml", ".json", "", ".mako"):
        text = path.read_text(encoding="utf-8", errors="replace")
        hits += [f"{path.relative_to(ROOT)}: {match.group()}" for match in traces.finditer(text)]
    allowed = {"tests/architecture/test_packaging.py"}
    assert [hit for hit in hits if hit.split(":")[0] not in allowed] == []


@pytest.mark.parametrize("script", ["run", ".ci/run"])
def test_shell_scripts_are_executable_posix_sh(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", str(path)], check=True)
