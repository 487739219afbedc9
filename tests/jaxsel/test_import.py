"""`import jaxsel` loads JAX and NumPy alone; other packages load at their first use. The tests measure no times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("numpyro", "flax", "optax", "orbax", "scipy", "matplotlib", "torch")
SCRIPT = f"""
import json, sys
import jax
with_jax = {{*sys.modules}}
import jaxsel
def loaded(): return [name for name in {HEAVY} if name in sys.modules and name not in with_jax]
imported = loaded()
selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=20)
selector.observe(selector.select(4), [1, 2, 3, 4], 8)
print(json.dumps([imported, loaded(), "reference_models" in dir(jaxsel), jaxsel.reference_models.__name__]))
"""


@pytest.mark.slow
def test_the_core_loads_nothing_heavy():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    imported, used, listed, module = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    assert used == []
    assert listed
    assert module == "jaxsel.reference_models"


def test_other_names_are_refused():
    import jaxsel

    with pytest.raises(AttributeError, match="module 'jaxsel' has no attribute 'nothing'"):
        jaxsel.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
