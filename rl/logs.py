"""An old name of `jaxsel.integrations.trainer_logs`, which reads other trainers' logs. It is kept until version 0.2."""

from jaxsel.integrations.trainer_logs import Imported as Imported
from jaxsel.integrations.trainer_logs import read_logs as read_logs
from jaxsel.integrations.trainer_logs import read_trl as read_trl
from jaxsel.integrations.trainer_logs import read_verl as read_verl
