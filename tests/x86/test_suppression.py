"""What a mask leaves out cannot fault, where it cannot on this CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.x86.forms import BY_NAME
from tests.x86.layout import WINDOW
from tests.x86.oracle import execute
from tests.x86.suppression import cases

ROOT = Path(__file__).parents[2]


@pytest.mark.needs("avx512")
def test_masked_elements_are_reached_exactly_where_this_cpu_reaches_them() -> None:
    """An operand that ends beyond memory faults only if mmiod accesses what is there, and the reverse."""
    command = [sys.executable, "-m", "tests.x86.suppression"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 250
    assert {True, False} == {faults for _, _, faults in found}
    for form, selected, faults in found:
        case = dict(cases(BY_NAME[form]))[selected]
        beyond = any(effect.address + effect.size > WINDOW.stop for effect in execute(case).trace)
        assert faults == beyond, (form, selected)
