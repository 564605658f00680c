"""``python -m gevent_rover``: the same as ``gevent-rover``."""

import sys

from gevent_rover.command.main import main

sys.exit(main())
