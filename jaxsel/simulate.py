"""Simulated training runs: a selector with a simulated learner in place of a language model.

In a `Learner`, every prompt depends on a few skills and has its own difficulty. Training on a prompt raises its own
success rate and the success rates of prompts that share its skills. `simulate` computes a whole run in one
`jax.lax.scan`.
"""

from jaxsel.simulation.learner import TRAINING_LIKE as TRAINING_LIKE
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
