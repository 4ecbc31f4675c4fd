"""The first that every process of ours imports: what it logs of others is readable."""

from rowcast.tasks.installed import InstalledFirst

with InstalledFirst():
    import logging

    from rowcast.tasks.text import Readable

logging.getLogger("rowcast").addFilter(Readable())
