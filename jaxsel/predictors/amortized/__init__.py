"""The predictor of GPS: networks that are trained online predict every prompt from its embedding."""
