"""General array functions: random draws, the k-th largest, positions in masks, Beta-Binomial, weighted sums."""
