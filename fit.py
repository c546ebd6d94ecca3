"""The entry point of a checkout: ``python fit.py --help``."""

import sys

from m2ib_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
