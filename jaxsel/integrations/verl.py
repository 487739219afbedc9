"""Prompt selection in verl's V1 trainer (verl 0.9), by configuration alone.

This module needs `pip install "jaxsel[verl]"`. It does not import verl before verl asks for one of its two parts:

    data.custom_cls.path=pkg://jaxsel.integrations.verl
    data.custom_cls.name=SelectedPrompts
    data.dataloader_num_workers=0
    trainer.v1.sampler.custom_sampler.path=pkg://jaxsel.integrations.verl
    trainer.v1.sampler.custom_sampler.name=replay_buffer
    +data.jaxsel.method=mopps

`SelectedPrompts` is verl's data set of prompts. It answers each request of verl's data loader with the prompt that the
selector chooses next. `replay_buffer` makes verl's replay buffer, which also lets the selector observe each finished
group before any filter. Both run in the process of the trainer and share the selector. The guide on verl lists all
entries of `data.jaxsel`.

Importing this module makes JAX allocate GPU memory on demand, unless the environment says otherwise.
"""

import os
from typing import Any

from jaxsel.integrations._extras import extra

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX reads it when it first looks at its devices


def replay_buffer(**arguments: Any) -> Any:
    """Return verl's own replay buffer, extended so that the selector observes every finished group.

    The buffer is the one that verl would make without a custom sampler, sync or async. DAPO's filter
    (`algorithm.filter_groups`) and `sync_refill_failed_groups` work as they do there.

    Args:
        **arguments: What verl gives to a custom sampler.

    Raises:
        ValueError: The data set is not `SelectedPrompts`, or rewards are computed only after verl samples.
        RuntimeError: This version of verl has other methods than the tested version.
        ImportError: verl is not installed.
    """
    with extra("verl"):
        from jaxsel.integrations import _verl_buffer

    return _verl_buffer.make_buffer(**arguments)


def __getattr__(name: str) -> Any:
    """Return the class `SelectedPrompts`, whose base class is in verl."""
    if name != "SelectedPrompts":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extra("verl"):
        from jaxsel.integrations import _verl_dataset

    return _verl_dataset.SelectedPrompts
