"""``python -m pymoe`` is the command ``pymoe``."""

import sys

from pymoe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
