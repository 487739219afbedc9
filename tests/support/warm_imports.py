"""The imports of the process that `tests.support.warm_processes` forks."""

from experiments.running.command import quick_imports

with quick_imports():
    import hydra  # noqa: F401

    import experiments.running.runs  # noqa: F401
    import tests.support.fake_server
    import tests.support.runs  # noqa: F401
