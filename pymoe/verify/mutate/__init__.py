"""Mutation testing in process: break the source one small step at a time, and see whether the tests notice.

A test suite that lets a broken backward pass proves nothing about the right one.  ``run`` parses a module, makes every
mutant of it (``operators``), puts it in the place of the original (``isolate``), runs the suites (``suites``) and
lists the survivors; those that are equivalent to the original stand, with a reason, on an accepted list.
"""

from pymoe.verify.mutate.operators import Mutant, mutants
from pymoe.verify.mutate.runner import Result, SuiteError, Target, Verdict, run
from pymoe.verify.mutate.suites import from_tests, load, load_file

__all__ = ["Mutant", "Result", "SuiteError", "Target", "Verdict", "from_tests", "load", "load_file", "mutants", "run"]
