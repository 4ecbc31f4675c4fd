"""The first that every process of ours imports: what it logs of others is readable."""

import logging

from rowcast.tasks.text import Readable

logging.getLogger("rowcast").addFilter(Readable())
