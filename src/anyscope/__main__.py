"""`python -m anyscope`: a census of Python source files, which shows the library at work."""

import sys

from ._census.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
