"""The C program that lays structures out, and a stage for each test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.protocol.sources.stage import Stage

Foreign = Callable[[str], bytes]
Tell = Callable[[str, bytes], dict[str, int]]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """foreign.c, built against the public headers."""
    built = tmp_path_factory.mktemp("sources") / "foreign"
    source = Path(__file__).with_name("foreign.c")
    subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", source, "-o", built], check=True)
    return built


@pytest.fixture(scope="session")
def foreign(program: Path) -> Foreign:
    """The bytes of a structure, by name."""
    return lambda name: subprocess.run([program, name], check=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def tell(program: Path) -> Tell:
    """The fields that an answer of a kind has, as C sees them."""

    def read(kind: str, body: bytes) -> dict[str, int]:
        out = subprocess.run(
            [program, f"-{kind}"], input=body, check=True, capture_output=True
        ).stdout.decode()
        return {name: int(value, 16) for name, value in (line.split() for line in out.splitlines())}

    return read


@pytest.fixture
def on_stage() -> Iterator[Callable[..., Stage]]:
    """Makes stages, and clears them away."""
    made: list[Stage] = []

    def make(name: str, **options: object) -> Stage:
        made.append(Stage(name, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for stage in made:
        stage.close()
