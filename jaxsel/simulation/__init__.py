"""A simulated learner, and whole runs of a selector on it; `jaxsel.simulate` lists the public names."""
