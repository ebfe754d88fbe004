"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
"""Real interactions and the figures of the paper's authors; tests skip where it is absent."""
