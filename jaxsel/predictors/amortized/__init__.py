"""The predictor of GPS: one network, trained online, predicts every prompt from its embedding."""
