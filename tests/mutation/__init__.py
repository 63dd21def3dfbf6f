"""Mutation tests: ``python tests/mutation/run.py`` breaks the source line by line and lists what the tests let pass."""
