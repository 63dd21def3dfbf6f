"""The sparse layer before the judge: loops, complex step, autograd, invariants, shipped bugs, bad input."""
