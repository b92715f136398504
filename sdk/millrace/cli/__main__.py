"""`python -m millrace.cli`, which is `millrace`."""

import sys

from millrace.cli import main

sys.exit(main())
