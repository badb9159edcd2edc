"""A data set explained on several devices and hosts: nothing lost, nothing doubled.

`run` explains every example of a source and stores the results as it goes; killed, it goes on where
it was. `open` reads them, `retry` puts failed or broken ones back to what is to do.
"""

from jaxplain.stream.provenance import Refused as Refused
from jaxplain.stream.results import Stream as Stream
from jaxplain.stream.results import open as open
from jaxplain.stream.running import retry as retry
from jaxplain.stream.running import run as run
from jaxplain.stream.status import NAMES as _NAMES

STATUS = {name: numbers[0] for name, numbers in _NAMES.items() if len(numbers) == 1}
