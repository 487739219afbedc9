"""For which kind of device a function is compiled. Few functions have a form for a CPU and another one for a GPU."""

import jax


def for_a_cpu() -> bool:
    """Return whether JAX's default backend is a CPU.

    A form for a GPU has few operations that wait for each other. Loops and branches whose conditions are data make the
    host wait for the device at every turn, and a sort takes as long as two passes over the array. On a CPU a sort takes
    a hundred times as long, and a loop costs nothing. Both forms return the same values.
    """
    return jax.default_backend() == "cpu"
