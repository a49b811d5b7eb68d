"""``python -m builder.cli`` is the ``letterset`` command."""

import sys

from builder.cli import main

sys.exit(main())
