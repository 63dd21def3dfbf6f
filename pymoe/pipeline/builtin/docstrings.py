"""Docstrings of Python's standard library; the label is the topic of their module.  The sources are read, not run."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator

TOPICS = {
    "network": "email ftplib http imaplib mailbox poplib smtplib socket socketserver ssl urllib wsgiref xmlrpc "
    "ipaddress nntplib telnetlib",
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading",
    "code": "ast bdb code codeop compileall dis doctest importlib inspect lib2to3 modulefinder pdb pkgutil pyclbr "
    "pydoc runpy symtable timeit token tokenize trace tracemalloc typing unittest zipimport",
    "numbers and time": "calendar datetime _pydatetime decimal _pydecimal fractions numbers random statistics colorsys "
    "_strptime zoneinfo",
    "files and formats": "configparser csv dbm filecmp fileinput glob gzip json lzma bz2 pathlib pickle plistlib "
    "shelve shutil sqlite3 tarfile tempfile tomllib xml zipfile html base64 os io _pyio",
    "text": "argparse cmd codecs difflib encodings gettext getopt locale optparse pprint re reprlib shlex string "
    "stringprep textwrap",
    "windows": "tkinter turtle turtledemo idlelib curses",
}
SHORTEST = 30  # characters


def rows() -> list[tuple[str, str, str]]:
    """(docstring, topic, module), in the order of the modules' names."""
    folder = os.path.dirname(os.__file__)
    found: dict[str, tuple[str, str]] = {}
    for topic, modules in TOPICS.items():
        for module in modules.split():
            for path in _sources(os.path.join(folder, module)):
                for text in _docstrings(path):
                    if len(text) >= SHORTEST:
                        found.setdefault(text, (topic, module))
    enough = Counter(topic for topic, _ in found.values())
    return [(text, topic, module) for text, (topic, module) in found.items() if enough[topic] >= 10]


def _sources(place: str) -> Iterator[str]:
    if os.path.isfile(place + ".py"):
        yield place + ".py"
    for folder, inside, names in sorted(os.walk(place)):
        if {"test", "tests", "__pycache__", "site-packages"} & {*os.path.relpath(folder, place).split(os.sep)}:
            inside.clear()
            continue
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))


def _docstrings(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):  # lib2to3 has examples of other syntax
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text
