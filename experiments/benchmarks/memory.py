"""The memory that selection takes in a training step, measured in a process of its own.

    python -m experiments.benchmarks.memory mopps 10000000

The result is the peak of resident memory, less the resident memory before the pool is made (Python, JAX, its compiler).
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.benchmarks.jaxsel_calls import SELECTORS
from experiments.benchmarks.peers.common import GROUP_SIZE
from experiments.running.command import module_parser, quiet_pipe

STEPS = 3
_ROOT = Path(__file__).parents[2]


def measure(method: str, num_prompts: int, *, select_size: int, observe_size: int) -> dict[str, Any]:
    """Run this file for one method and pool, and return its result in bytes."""
    command = [sys.executable, "-m", "experiments.benchmarks.memory", method, str(num_prompts)]
    sizes = ["--select", str(select_size), "--observe", str(observe_size)]
    done = subprocess.run([*command, *sizes], cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure one method and pool in this process, and print the result as JSON."""
    parser = module_parser("experiments.benchmarks.memory", __doc__)
    parser.add_argument("method", choices=SELECTORS)
    parser.add_argument("num_prompts", type=int)
    parser.add_argument("--select", type=int, default=8192)
    parser.add_argument("--observe", type=int, default=1024)
    config = parser.parse_args()
    jax.block_until_ready(jnp.zeros(8) + 1)
    before = resident_bytes("VmRSS")
    selector = jaxsel.PromptSelector(SELECTORS[config.method](), num_prompts=config.num_prompts)
    for step in range(STEPS):
        ids = selector.select(config.select)[: config.observe]
        selector.observe(ids, np.random.default_rng(step).integers(0, GROUP_SIZE, len(ids)), GROUP_SIZE)
        selector.wait()
    peak = resident_bytes("VmHWM") - before
    state = sum(len(array["data"]) for array in selector.state_dict()["arrays"].values())
    labels = {"method": config.method, "num_prompts": config.num_prompts}
    print(json.dumps({**labels, "peak_bytes": peak, "state_bytes": state, "before_bytes": before}))


def resident_bytes(name: str) -> int:
    """Return the resident memory in bytes: now ("VmRSS") or at its peak ("VmHWM").

    Linux has both in /proc. Elsewhere getrusage gives the peak alone; on Linux its peak includes the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        kibibytes = dict(line.split(":", 1) for line in status.read_text().splitlines())[name]
        return 1024 * int(kibibytes.split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    with quiet_pipe():
        main()
