"""The cost of passing int32 arrays between torch and JAX: shared, copied on the device, or copied through the host.

    python -m experiments.benchmarks.handoff [--sizes 1000 10000000] [--repeats 30]

The measurement uses the GPU if both torch and JAX see one, and the CPU otherwise, where the copy through the host stays
in the same memory. A time ends when the result can be read. The command writes handoff.json.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmarks.clock import milliseconds
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.tables import text_table
from experiments.running.command import module_parser, quiet_pipe
from rl.handoff import to_jax, to_torch

WAYS = ("shared", "copied", "through the host")


def main(arguments: list[str] | None = None) -> None:
    """Measure every size, print a table and write the result."""
    parser = module_parser("experiments.benchmarks.handoff", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6, 10**7], help="elements")
    parser.add_argument("--repeats", type=int, default=30, help="repeats of each way; the ways take turns")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    config = vars(parser.parse_args(arguments))
    output = config.pop("output")
    rows = [row for size in config["sizes"] for row in measure(size, config["repeats"], device_of_both())]
    write_result(output / "handoff.json", provenance(config, 0) | {"unit": "us, medians", "rows": rows})
    lines = [[row["direction"], f"{row['elements']:,}", *(f"{row[way]:,.0f}" for way in WAYS)] for row in rows]
    print(text_table("hand-off of int32, medians in us", ["direction", "elements", *WAYS], lines))


def device_of_both() -> str:
    """Return torch's name of the device that torch and JAX share."""
    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"


def measure(size: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """Return two rows, one per direction, with the median microseconds of every way."""
    tensor = torch.arange(size, dtype=torch.int32, device=device)
    array = jnp.arange(size, dtype=jnp.int32)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    array.block_until_ready()

    def to_torch_and_wait(call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            result = call()
            wait()
            return result

        return run

    torch_to_jax = (
        lambda: to_jax(tensor, copy=False).block_until_ready(),
        lambda: to_jax(tensor),
        lambda: jnp.array(tensor.cpu().numpy()).block_until_ready(),
    )
    jax_to_torch = (
        lambda: to_torch(array, copy=False),
        lambda: to_torch(array),
        lambda: torch.from_numpy(np.array(array)).to(device),
    )
    return [
        {"direction": "torch to JAX", "elements": size, **_medians(torch_to_jax, repeats)},
        {
            "direction": "JAX to torch",
            "elements": size,
            **_medians(tuple(map(to_torch_and_wait, jax_to_torch)), repeats),
        },
    ]


def _medians(calls: tuple[Callable[[], Any], ...], repeats: int) -> dict[str, float]:
    """Return the median microseconds of the calls, which take turns; the first turn does not count."""
    taken = [[1000 * milliseconds(call) for call in calls] for _ in range(repeats + 1)]
    return dict(zip(WAYS, np.median(taken[1:], axis=0).tolist(), strict=True))


if __name__ == "__main__":
    with quiet_pipe():
        main()
