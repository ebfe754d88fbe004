"""MiniRec: data-efficient reinforcement learning of LLM recommenders (arXiv 2602.04278)."""

__version__ = "0.1.0"
