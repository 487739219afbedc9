"""How far the predicted probabilities agree with recorded outcomes."""
