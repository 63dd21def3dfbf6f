"""Mutants that survive with good reason: the key of the mutant, and why it is not a fault.

A key that no longer survives must go (``run.py`` says so).
"""

ACCEPTED: dict[str, str] = {}
