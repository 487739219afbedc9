"""Array functions that know nothing about prompts: random draws, the k largest, compaction, Beta-Binomial, weights."""
