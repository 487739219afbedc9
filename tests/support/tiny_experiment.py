"""The settings of a training run of the experiments that takes a second."""

from experiments.running.config import RunConfig
from experiments.running.method_config import MethodConfig
from rl.train_config import TrainConfig
from rl.warm_start import WarmStartConfig

CONFIG = RunConfig(
    pool_size=40,
    held_out_size=4,
    method=MethodConfig(batch_size=4, candidate_ratio=2, max_batches=2),
    warm_start=WarmStartConfig(hidden_size=32, num_layers=1, feed_forward_size=32, steps=2, batch_size=8),
    train=TrainConfig(steps=2, group_size=2, probe_every=0),
)
