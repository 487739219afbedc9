"""Files of a run's folder: the lock, the metrics, the checkpoints and the identity of the run at a tracker."""
