"""The implementations to compare: jaxsel, and its peers (the same methods without it) whose packages are installed."""

import functools
from collections.abc import Callable

from experiments.benchmarks.jaxsel_calls import FusedKernels, Kernels, PublicClass
from experiments.benchmarks.peers import jax_peers, kalman_peers, numpy_peers, python_peers
from experiments.benchmarks.peers.common import Peer

try:
    from experiments.benchmarks.peers import torch_peers
except ImportError:
    torch_peers = None

Make = Callable[[int, int], Peer]

SLOW = {  # not measured in the largest pools
    jax_peers.JaxMopps,
    jax_peers.TfpMopps,
    jax_peers.DynamaxDps,
    python_peers.DictionaryMopps,
    python_peers.DictionaryDps,
}
LONGEST_LIST = 10_000  # a draw walks the whole list, and a batch takes thousands of draws


def peers_of(method: str, *, device: str = "cpu") -> dict[str, Make]:
    """Return the installed peers of a method by name; on a GPU, only the peers that can use it."""
    found: dict[str, dict[str, Make]] = {
        "uniform": {"numpy": numpy_peers.NumpyUniform},
        "threshold": {"numpy": numpy_peers.NumpyThreshold, "list": python_peers.ListSampler},
        "mopps": {
            "numpy": numpy_peers.NumpyMopps,
            "numpy threads": numpy_peers.ThreadedNumpyMopps,
            "trinity": numpy_peers.TrinityMopps,
            "jax": jax_peers.JaxMopps,
            "dictionary": python_peers.DictionaryMopps,
        },
        "dps": {"numpy": numpy_peers.NumpyDps, "jax": jax_peers.JaxDps, "dictionary": python_peers.DictionaryDps},
        "kalman": {"numpy": kalman_peers.NumpyKalman},
    }
    if torch_peers is not None and (device == "cpu" or torch_peers.has_gpu()):
        found["mopps"]["torch"] = functools.partial(torch_peers.TorchMopps, device=device)
        found["dps"]["torch"] = functools.partial(torch_peers.TorchDps, device=device)
    if jax_peers.tfp is not None:
        found["mopps"]["tfp"] = jax_peers.TfpMopps
    if jax_peers.hmm_filter is not None:
        found["dps"]["dynamax"] = jax_peers.DynamaxDps
    if kalman_peers.primitives is not None:
        found["kalman"]["simdkalman"] = kalman_peers.SimdKalman
    on_host = {"numpy", "numpy threads", "trinity", "simdkalman", "dictionary", "list"}
    return {name: make for name, make in found[method].items() if device == "cpu" or name not in on_host}


def make_contenders(
    method: str, num_prompts: int, seed: int, *, largest_slow: int, device: str = "cpu"
) -> dict[str, Peer]:
    """Return the method in jaxsel and its peers by name; slow peers only in pools of up to `largest_slow`."""
    contenders: dict[str, Peer] = {
        "jaxsel": PublicClass(method, num_prompts, seed),
        "kernels": Kernels(method, num_prompts, seed),
    }
    if method == "dps":
        contenders["fused kernels"] = FusedKernels(method, num_prompts, seed)
    for name, make in peers_of(method, device=device).items():
        too_slow = (make in SLOW and num_prompts > largest_slow) or (name == "list" and num_prompts > LONGEST_LIST)
        if not too_slow:
            contenders[name] = make(num_prompts, seed)
    return contenders
