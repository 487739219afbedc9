"""A prompt pool that is split over a mesh of devices has the same choices, updates and checkpoints as on one device."""

import functools
import inspect
import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from jaxsel.runtime.checkpoint.arrays import decoded
from jaxsel.runtime.placement import to_host
from tests.support.playing import mesh_of

pytestmark = [pytest.mark.usefixtures("on_cpu"), pytest.mark.slow]
KEY = jax.random.key(0)
MAPP = {"acquisition": jaxsel.mixed_probability(log=True), "rule": jaxsel.gumbel_top_k()}
MOSTLY_NAN = jaxsel.Acquisition({"acquisition": "nan"}, lambda p: jnp.where(p.mixed > 0.4, p.mixed, jnp.nan))
METHODS = {
    "mopps": jaxsel.mopps(ageing="step"),
    "mopps, gumbel": jaxsel.mopps(**MAPP),
    "dps": jaxsel.dps(entropy_weight=0.3),
    "dps, NaN": jaxsel.make_selector(jaxsel.hidden_markov(), MOSTLY_NAN, jaxsel.top_k()),
    "threshold": jaxsel.threshold(),
    "uniform": jaxsel.uniform(),
    "stratified": jaxsel.dps(rule=jaxsel.stratified(jaxsel.gumbel_top_k(0.3), np.arange(1001) ** 2 % 7)),
    "exploring": jaxsel.exploring(jaxsel.dps(entropy_weight=0.3), share=0.2, after=2),
}
DPS = METHODS["dps"]
PRIOR = jaxsel.mopps(prior_alpha=np.linspace(1, 3, 101), acquisition=jaxsel.target_success_rate())


def played(selector: jaxsel.Selector, num_prompts: int, batch_size: int, among: tuple | None) -> dict[str, Any]:
    """Return the selections of four rounds, and the state after them. `among` slices the pool into candidates."""
    candidates = None if among is None else jnp.arange(num_prompts)[slice(*among)]

    @jax.jit
    def play(state):
        def step(state, key):
            ids, scores, _ = selector.select(key, state, batch_size, candidates)
            outside = jnp.array([-1, -num_prompts, num_prompts, 2 * num_prompts])
            visited = jnp.concatenate([ids, outside])
            rollouts = jaxsel.Rollouts(visited, visited % 9, jnp.full(batch_size + 4, 8))
            return selector.update(key, state, rollouts), (ids, scores)

        return jax.lax.scan(step, state, jax.random.split(KEY, 4))

    state, selections = play(selector.init(KEY, num_prompts))
    return {"selections": selections, "state": jax.tree.map(lambda leaf: to_host(leaf, num_prompts), state)}


@functools.cache
def on_one_device(method: str, num_prompts: int, batch_size: int, among: tuple | None) -> dict[str, Any]:
    return played(METHODS[method], num_prompts, batch_size, among)


def assert_same(first: Any, second: Any) -> None:
    """Compare integers, such as all choices, exactly, and floats up to rounding."""
    assert jax.tree.structure(first) == jax.tree.structure(second)

    def compare(a, b):
        assert a.dtype == b.dtype
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, first, second)


EVERY_SECOND = (None, None, -2)


@pytest.mark.parametrize(
    ("method", "num_prompts", "batch_size", "devices", "among"),
    [
        *((method, 1001, 40, 8, None) for method in METHODS if method != "uniform"),
        *((method, 1001, 40, devices, None) for method in ("dps", "exploring") for devices in (1, 2, 4)),
        ("stratified", 1001, 40, 3, None),
        ("stratified", 1001, 5, 8, EVERY_SECOND),
        ("mopps", 40_000, 1000, 2, None),  # more Beta draws are rejected than one further round draws
        ("uniform", 1000, 40, 8, None),
        ("mopps, gumbel", 13, 5, 8, None),  # at most two rows per device, none on the last
        ("dps", 101, 5, 8, EVERY_SECOND),
        ("exploring", 101, 5, 8, EVERY_SECOND),
    ],
)
def test_a_mesh_chooses_like_one_device(method, num_prompts, batch_size, devices, among):
    sharded = jaxsel.shard(METHODS[method], mesh_of(devices), num_prompts)
    assert sharded.spec == METHODS[method].spec
    here = played(sharded, num_prompts, batch_size, among)
    assert_same(here, on_one_device(method, num_prompts, batch_size, among))


def compiled_texts(method: str, num_prompts: int, batch_size: int) -> dict[str, str]:
    """Return, for each function of the sharded selector, the text of the program that each device executes."""
    selector = jaxsel.shard(METHODS[method], mesh_of(8), num_prompts)
    state = selector.init(KEY, num_prompts)
    rollouts = jaxsel.Rollouts(*(jnp.ones(16, jnp.int32) for _ in range(3)))
    lowered = {
        "init": jax.jit(selector.init, static_argnums=1).lower(KEY, num_prompts),
        "select": jax.jit(selector.select, static_argnums=2).lower(KEY, state, batch_size),
        "update": jax.jit(selector.update).lower(KEY, state, rollouts),
    }
    return {name: function.compile().as_text() or "" for name, function in lowered.items()}


@pytest.mark.parametrize("method", ["mopps", "dps"])
def test_only_batches_travel_between_devices(method):
    num_prompts, batch_size = 80_008, 7
    texts = compiled_texts(method, num_prompts, batch_size)
    moved = {}
    for name, text in texts.items():
        assert re.search(r"\[[\d,]*\b10001\b", text)
        assert not re.search(rf"\[[\d,]*\b{num_prompts}\b", text), f"{name}: an array is as long as the pool"
        shapes = re.findall(r" = (.*) (?:all|collective|reduce-scatter|send|recv)[a-z-]*\(", text)
        sizes = [
            np.prod([int(n) for n in dims.split(",") if n]) for s in shapes for dims in re.findall(r"\[([\d,]*)\]", s)
        ]
        moved[name] = max(sizes, default=0)
    assert moved == {"init": 0, "select": 8 * batch_size, "update": 0}


def play(selector: PromptSelector, rounds: int = 2) -> list[list[int]]:
    chosen = []
    for _ in range(rounds):
        ids = selector.select(5)
        chosen.append(ids.tolist())
        selector.observe(ids, (ids + len(chosen)) % 9, 8)
    return chosen


@pytest.mark.parametrize("method", [DPS, METHODS["exploring"]], ids=["dps", "exploring"])
def test_checkpoints_go_from_mesh_to_mesh(method, tmp_path):
    plain = PromptSelector(method, num_prompts=1001, seed=2)
    selector = PromptSelector(method, num_prompts=1001, seed=2, mesh=mesh_of(8))
    for mesh in (mesh_of(2), None, mesh_of(4)):
        assert play(selector, 1) == play(plain, 1)
        selector.save(tmp_path)
        selector = PromptSelector.load(tmp_path, method, num_prompts=1001, mesh=mesh)
    assert play(selector) == play(plain)
    assert selector.metrics() == pytest.approx(plain.metrics(), rel=1e-5)


def test_states_are_the_same_on_all_meshes():
    plain, sharded = (
        PromptSelector(PRIOR, num_prompts=101, candidate_ratio=3, mesh=mesh) for mesh in (None, mesh_of(8))
    )
    assert play(plain) == play(sharded)
    first, second = plain.state_dict(), sharded.state_dict()
    assert first["metadata"] == second["metadata"]
    arrays, others = (
        {name: decoded(name, array) for name, array in state["arrays"].items()} for state in (first, second)
    )
    assert_same(arrays, others)
    assert_same(plain.predict(), sharded.predict())
    assert all(field.shape == (101,) for field in sharded.predict())
    plain.load_state_dict(second)
    sharded.load_state_dict(first)
    assert play(plain) == play(sharded)
    np.testing.assert_array_equal(
        arrays["visits"] > 0, arrays["state.last_step"] > 0
    )  # holds if both arrays were copied at the same moment


def test_other_pools_are_refused_on_any_mesh(tmp_path):
    selector = PromptSelector(DPS, num_prompts=15, mesh=mesh_of(8))
    selector.save(tmp_path)
    for mesh in (None, mesh_of(8)):  # on 8 devices, both pools are padded to 16 rows
        with pytest.raises(ValueError, match=r"another pool .15 prompts without keys, here 16 prompts"):
            PromptSelector.load(tmp_path, DPS, num_prompts=16, mesh=mesh)
    state = selector.state_dict()
    state["arrays"]["state.filtered"] = np.zeros((3, 16), np.float32)
    with pytest.raises(ValueError, match=r"arrays of shapes .*\(3, 16\)"):
        selector.load_state_dict(state)
    state = selector.state_dict()
    state["metadata"]["shapes"]["state.filtered"] = [4, 15]
    with pytest.raises(ValueError, match=r"arrays of other shapes .state.filtered: saved \[4, 15\], here \[3, 15\]"):
        selector.load_state_dict(state)


def test_equal_selectors_are_compiled_once():
    method = METHODS["uniform"]
    first, second = (jaxsel.shard(method, mesh_of(2), 10) for _ in range(2))
    assert first.select is second.select
    assert jaxsel.shard(method, mesh_of(2), 11).select is not first.select


def on_mesh(devices: int, selector: jaxsel.Selector = DPS) -> jaxsel.Selector:
    return jaxsel.shard(selector, mesh_of(devices), 10)


BAD_CALLS = [
    (
        lambda: on_mesh(2, DPS._replace(rule=None)),
        "'dps' cannot be spread over a mesh: it has no acquisition and rule; leave out mesh, or give a",
    ),
    (
        lambda: on_mesh(2, on_mesh(2)),
        "has no acquisition and rule; leave out mesh, or give a selector of make_selector that is not sharded yet",
    ),
    (
        lambda: on_mesh(2, DPS._replace(init=lambda key, num_prompts: {})),
        r"dict has no partition_specs\(\), so it cannot be spread over a mesh; leave out mesh, or write",
    ),
    (
        lambda: on_mesh(2, on_mesh(2, METHODS["exploring"])),
        "has no acquisition and rule; leave out mesh, or give a selector of make_selector that is not sharded yet",
    ),
    (lambda: on_mesh(2, METHODS["stratified"]), "num_prompts is 10 with a rule for 1001 prompts"),
    (lambda: on_mesh(2, PRIOR), "prior_alpha has 101 entries for 10 prompts; give one entry per prompt"),
    (lambda: on_mesh(2).init(KEY, 11), "num_prompts is 11 of a pool sharded as 10 prompts; give 10"),
    (
        lambda: jaxsel.shard(DPS, jax.make_mesh((2,), ("x",)), 10),
        r"mesh has the axes \('x',\); give one of prompts_mesh",
    ),
    (lambda: PromptSelector(DPS, num_prompts=9, mesh="gpu"), "mesh is 'gpu'; give one of prompts_mesh"),  # type: ignore[arg-type]
    (lambda: jaxsel.prompts_mesh(["cpu"]), r"devices is \['cpu'\]; give a list of JAX devices"),
    (lambda: jaxsel.prompts_mesh([]), r"devices is \[\]; give a list of JAX devices"),
    (lambda: jaxsel.prompts_mesh(5), "devices is 5; give a list of JAX devices"),  # type: ignore[arg-type]
    (lambda: PromptSelector(on_mesh(2), num_prompts=9, mesh=mesh_of(2)), "has no acquisition and rule"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
DETECTED = {"num_processes": None, "process_id": None}
COORDINATOR = {"JAX_COORDINATOR_ADDRESS": "n1:1234"}


@pytest.mark.parametrize(
    ("variables", "calls"),
    [
        ({}, []),
        ({"SLURM_NTASKS": "2"}, []),  # Slurm's batch script, which is none of the 2 tasks
        (SLURM | {"SLURM_NTASKS": "1"}, []),
        (SLURM, [DETECTED]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [DETECTED]),
        (COORDINATOR, [DETECTED]),
        (
            COORDINATOR | {"JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0"},
            [{"num_processes": 3, "process_id": 0}],
        ),
    ],
)
def test_processes_are_joined_where_there_are_several(variables, calls, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: called.append(arguments))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: bool(called))
    for _ in range(2):
        jaxsel.initialize_distributed()
    assert called == calls


PROCESS = f"""
import json, sys
import jax

jax.config.update("jax_num_cpu_devices", 2)
import jaxsel
from jaxsel import PromptSelector

{inspect.getsource(play)}

jaxsel.initialize_distributed()
jaxsel.initialize_distributed()
mesh = jaxsel.prompts_mesh()
assert (jax.process_count(), mesh.size) == (2, 4)
method, arguments = jaxsel.dps(entropy_weight=0.3), dict(num_prompts=101, mesh=mesh)
selector = PromptSelector(method, **arguments)
chosen = play(selector)
for _ in range(2):
    selector.save(sys.argv[1])
state = selector.state_dict()
chosen += play(PromptSelector.load(sys.argv[1], method, **arguments))
selector.load_state_dict(state)
chosen += play(selector)
selector.wait()
rates = selector.predict().success_rate.tolist()
seen = dict(chosen=chosen, metrics=selector.metrics(), success_rate=rates)
print("\\n" + json.dumps(seen))
"""


@pytest.mark.slow
def test_several_processes_share_a_pool(tmp_path, no_shared_programs):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PLATFORMS": "cpu", "PYTHONPATH": "."}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", script, tmp_path / "checkpoint"],
            env=os.environ | common | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1] + outputs[1][1]
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    assert first == second

    plain = PromptSelector(DPS, num_prompts=101)
    begin, end = play(plain), play(plain)
    assert first["chosen"] == begin + end + end
    assert first["metrics"] == pytest.approx(plain.metrics(), rel=1e-5)
    np.testing.assert_allclose(first["success_rate"], plain.predict().success_rate, rtol=1e-5)
    restored = PromptSelector.load(tmp_path / "checkpoint", DPS, num_prompts=101, mesh=mesh_of(8))
    assert play(restored) == end
