"""Independent versions of splitting and fusing, written from the papers as plain loops; none imports pymoe."""
