"""The tests are one package, so that tables of cases can be shared: ``from ..ops.cases import CASES``."""
