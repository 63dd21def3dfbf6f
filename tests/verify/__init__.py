"""The checks checked: each passes on a right backward and fails on a wrong one."""
