"""Exports of a run: the ordered subset for other trainers, and the policy."""
