"""Losses of policies and of value heads, as pure functions that return `(loss, metrics)`."""

from rl.loss_options import AGGREGATIONS as AGGREGATIONS
from rl.loss_options import check_clips as check_clips
from rl.loss_options import check_dual_clip as check_dual_clip
from rl.losses.policy import POLICY_LOSSES as POLICY_LOSSES
from rl.losses.policy import cispo_loss as cispo_loss
from rl.losses.policy import clipped_policy_loss as clipped_policy_loss
from rl.losses.policy import gspo_loss as gspo_loss
from rl.losses.terms import MAX_LOG_RATIO as MAX_LOG_RATIO
from rl.losses.terms import Terms as Terms
from rl.losses.terms import log_prob_gap as log_prob_gap
from rl.losses.value import clipped_value_loss as clipped_value_loss
