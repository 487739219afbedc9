"""Predictors of success rates: one model per file or package."""
