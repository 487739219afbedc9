"""Selection without a language model: methods against a pool that learns as it is trained on.

The pool is a `Learner`: prompts lean on a few skills, have a difficulty of their own, and learn from their own groups
and those of their neighbours. A whole run is one scan.
"""

from jaxsel.simulation.learner import Learner as Learner
from jaxsel.simulation.learner import LearnerState as LearnerState
from jaxsel.simulation.learner import embed as embed
from jaxsel.simulation.learner import initial_state as initial_state
from jaxsel.simulation.learner import make_learner as make_learner
from jaxsel.simulation.learner import oracle as oracle
from jaxsel.simulation.learner import rollout as rollout
from jaxsel.simulation.learner import success_rate as success_rate
from jaxsel.simulation.learner import train as train
from jaxsel.simulation.run import Trace as Trace
from jaxsel.simulation.run import simulate as simulate
