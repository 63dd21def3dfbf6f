"""One bench for all ops: a case in ``cases.py`` (arguments, loop, torch) gets every check of ``test_bench.py``."""
