"""Independent versions of the pruning methods, written from the papers as plain loops; none imports pymoe."""
