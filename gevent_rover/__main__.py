"""``python -m gevent_rover``: the same as ``gevent-rover``."""

import sys

from gevent_rover.cli import main

sys.exit(main())
