"""`python -m rankfold`: the same as the `rankfold` command."""

from __future__ import annotations

import sys

from rankfold.tools.supervise import main

if __name__ == "__main__":
    sys.exit(main())
