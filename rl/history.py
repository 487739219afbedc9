"""An old name of `jaxsel.integrations.history`, which stores a run's counts. It is kept until version 0.2."""

from jaxsel.integrations.history import HistoryLog as HistoryLog
from jaxsel.integrations.history import Recorded as Recorded
from jaxsel.integrations.history import Unwritten as Unwritten
from jaxsel.integrations.history import Visits as Visits
from jaxsel.integrations.history import read_history as read_history
