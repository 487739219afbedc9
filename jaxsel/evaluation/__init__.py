"""Evaluation of predictions: metrics, replays of histories, fitted parameters, reference posteriors and plots."""
