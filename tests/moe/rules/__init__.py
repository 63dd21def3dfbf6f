"""The rules that do not fit score -> select -> weigh."""
