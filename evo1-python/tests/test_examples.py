"""The examples, where what they need is installed."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/python"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    # As Python does for a program.
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


# Looked for and not imported: the simulator has to be told first how to draw.
@pytest.mark.skipif(not find_spec("lerobot"), reason="LeRobot is not installed")
def test_lerobots_evaluation_takes_the_policy(monkeypatch, capsys):
    run(monkeypatch, "lerobot_policy.py", "--device", "flex")
    assert "pc_success" in capsys.readouterr().out


@pytest.mark.skipif(not find_spec("metaworld"), reason="Meta-World is not installed")
def test_the_embedded_policy_opens_a_drawer(monkeypatch, capsys):
    run(monkeypatch, "metaworld.py", "--device", "flex", "--tasks", "drawer-open-v3")
    assert "drawer-open-v3: 1/1" in capsys.readouterr().out
