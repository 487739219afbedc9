"""Histories and replays.

A history records the visits of a run: which prompts each step rolled out, and how many rollouts were correct. A replay
predicts each step of a history with any method.
"""

from jaxsel.evaluation.replay import History as History
from jaxsel.evaluation.replay import Replay as Replay
from jaxsel.evaluation.replay import check_steps as check_steps
from jaxsel.evaluation.replay import make_history as make_history
from jaxsel.evaluation.replay import replay as replay
