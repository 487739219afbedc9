"""How good predictions are: metrics, replays of recorded histories, fitted parameters, reference posteriors, plots."""
