"""The examples, where what they need is installed."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/python"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    # As Python does for a program.
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_lerobots_evaluation_takes_the_policy(monkeypatch, capsys):
    pytest.importorskip("lerobot")
    run(monkeypatch, "lerobot_policy.py", "--device", "flex")
    assert "pc_success" in capsys.readouterr().out


def test_the_embedded_policy_opens_a_drawer(monkeypatch, capsys):
    pytest.importorskip("metaworld")
    run(monkeypatch, "metaworld.py", "--device", "flex", "--tasks", "drawer-open-v3")
    assert "drawer-open-v3: 1/1" in capsys.readouterr().out
