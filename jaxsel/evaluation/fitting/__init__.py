"""Parameters of a predictor, fitted to a recorded history by the one-step-ahead log score."""
