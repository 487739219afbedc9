"""Conversion between torch and JAX, with all known ways in which shared memory goes wrong."""

import gc
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

import jaxsel
from rl._device_memory import share_device_memory
from rl.handoff import _passed_on, _passing, observe_rewards, to_jax, to_torch

ROOT = Path(__file__).parents[2]
DTYPES = ["bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "bfloat16", "float32"]
MOPPS, DPS = jaxsel.mopps(), jaxsel.dps()  # shared by the tests, because a method keeps its compiled functions
VARIABLE = "XLA_PYTHON_CLIENT_PREALLOCATE"
gpu_only = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def same_memory(array: jax.Array, tensor: torch.Tensor) -> bool:
    return array.unsafe_buffer_pointer() == tensor.data_ptr()


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_values_survive_both_ways(dtype, copy):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    array = to_jax(tensor, copy=copy)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())
    back = to_torch(array, copy=copy)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_empty_and_scalar(shape, copy, dtype):
    array = to_jax(torch.ones(shape, dtype=dtype), copy=copy)
    assert array.shape == shape
    assert to_torch(array, copy=copy).shape == shape
    assert (np.asarray(array) == 1).all()


def test_a_copy_sees_no_later_write():
    tensor = torch.zeros(1000)
    array = to_jax(tensor)
    tensor.fill_(1)
    assert not array.any()
    back = to_torch(array)
    back.fill_(2)
    assert not array.any()


def test_shared_memory_sees_every_write():
    tensor = torch.zeros(1000)
    array = to_jax(tensor, copy=False)
    assert same_memory(array, tensor)
    tensor.fill_(1)
    assert np.asarray(array).all()
    back = to_torch(array, copy=False)
    back.fill_(2)
    assert (tensor == 2).all()


@pytest.fixture
def few_objects():
    """Let the garbage collector leave out the millions of objects of earlier tests, which take it a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("copy", [False, True])
def test_the_taker_keeps_the_memory_alive(copy, few_objects):
    tensor = torch.arange(10**6, dtype=torch.int32)
    array = to_jax(tensor, copy=copy)
    del tensor
    gc.collect()
    others = [torch.full((10**6,), -1, dtype=torch.int32) for _ in range(3)]
    assert len(others) == 3
    back = to_torch(array, copy=copy)
    del array
    gc.collect()
    assert torch.equal(back, torch.arange(10**6, dtype=torch.int32))


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize(
    "view",
    [lambda t: t[1:], lambda t: t[::2], lambda t: t[:1].expand(5), lambda t: t.view(-1, 4).t(), lambda t: t[16:0]],
    ids=["unaligned", "strided", "expanded", "transposed", "empty"],
)
def test_views_are_copied_before_the_call_returns(view, copy):
    tensor = torch.arange(2**20, dtype=torch.int32)
    given = view(tensor)
    expected = given.numpy().copy()
    array = to_jax(given, copy=copy)
    tensor.fill_(-1)
    np.testing.assert_array_equal(array, expected)


def test_a_lazily_negated_tensor_keeps_its_values():
    tensor = torch._neg_view(torch.ones(100))  # type: ignore[attr-defined]  # DLPack alone hands over +1
    assert (np.asarray(to_jax(tensor, copy=False)) == -1).all()


def test_int64_that_fits_becomes_int32():
    values = [-(2**31), 2**31 - 1]
    array = to_jax(torch.tensor(values), copy=False)
    assert array.dtype == np.int32
    assert array.tolist() == values


@pytest.mark.parametrize("value", [2**31 + 5, -(2**31) - 1])
def test_int64_that_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match=f"ids holds {value}.*give integers from -2147483648 to 2147483647"):
        to_jax(torch.tensor([0, value]), name="ids")


def test_wide_types_are_kept_with_x64():
    with jax.enable_x64(True):
        for tensor in (torch.tensor([2**40]), torch.tensor([1 / 3], dtype=torch.float64)):
            array = to_jax(tensor)
            assert array.dtype == str(tensor.dtype).removeprefix("torch.")
            assert torch.equal(to_torch(array), tensor)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, dtype=torch.float64), r"tensor has type float64.*give tensor.float\(\)"),
        (torch.zeros(2, dtype=torch.complex64), "tensor has type complex64; give one of"),
        (torch.zeros(2, dtype=torch.uint64), "tensor has type uint64; give one of"),
        (torch.zeros(2, requires_grad=True), r"requires a gradient.*give tensor.detach\(\)"),
        (torch.zeros(2, device="meta"), r"tensor lies on meta; give tensor.cpu\(\)"),
        (torch.zeros(2).to_sparse(), r"give tensor.to_dense\(\)"),
        (np.zeros(2), "tensor is a ndarray; give a torch tensor"),
    ],
)
@pytest.mark.parametrize("copy", [False, True])
def test_tensors_that_cannot_be_handed_over_are_refused(tensor, message, copy):
    with pytest.raises(ValueError, match=message):
        to_jax(tensor, copy=copy)


def test_a_gpu_tensor_is_refused_where_jax_sees_no_gpu(monkeypatch):
    from rl.handoff import _on_shared_device

    def no_gpu(platform):
        raise RuntimeError(f"Unknown backend {platform}")

    monkeypatch.setattr(jax, "devices", no_gpu)
    with pytest.raises(ValueError, match=r"rewards lies on cuda:0, which JAX does not see.*rewards.cpu\(\)"):
        _on_shared_device("rewards", torch.device("cuda:0"))


@pytest.mark.parametrize("copy", [False, True])
def test_a_hand_off_while_jax_traces_is_refused(copy):
    tensor = torch.zeros(3)
    with pytest.raises(ValueError, match=r"tensor was given while JAX traces.*convert it before"):
        jax.jit(lambda x: x + to_jax(tensor, copy=copy))(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"array is traced.*give the function's result"):
        jax.jit(lambda x: to_torch(x, copy=copy))(jnp.zeros(3))
    assert to_jax(tensor, copy=copy).shape == (3,), "the failed trace has left something behind"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(2), "array is a ndarray; give a JAX array"),
        (jax.random.key(0), "array has type key<fry>; give one of"),
        (jnp.zeros(2, jnp.int4), "array has type int4; give one of"),
    ],
)
def test_arrays_that_cannot_be_handed_over_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        to_torch(array)


def test_an_array_on_several_devices_is_refused():
    mesh = jaxsel.prompts_mesh()
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    with pytest.raises(ValueError, match="array lies on 8 devices; put it on one"):
        to_torch(jax.device_put(jnp.zeros(16), sharding))


@pytest.mark.parametrize("copy", [False, True])
def test_the_array_is_computed_before_torch_reads_it(copy):
    ones = jnp.ones((600, 600))
    product = jax.jit(lambda x: x @ x @ x)(ones)
    assert (to_torch(product, copy=copy) == 600**2).all()


def test_a_copy_survives_donation_and_a_donated_array_is_refused():
    add = jax.jit(lambda x: x.at[0].add(1), donate_argnums=0)
    array = jnp.arange(1000) + 0
    copied = to_torch(array)
    after = add(array)
    assert (int(after[0]), int(copied[0])) == (1, 0)
    assert array.is_deleted()
    with pytest.raises(ValueError, match="array was deleted, or donated"):
        to_torch(array)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tests the CPU")
def test_on_the_cpu_shared_memory_is_not_donated():
    add = jax.jit(lambda x: x.at[0].add(1), donate_argnums=0)
    array = jnp.arange(1000) + 0
    shared = to_torch(array, copy=False)
    assert not same_memory(add(array), shared)
    tensor = torch.arange(1000, dtype=torch.int32)
    assert not same_memory(add(to_jax(tensor, copy=False)), tensor)
    assert int(shared[0]) == int(tensor[0]) == 0


def test_the_state_of_a_selector_survives_its_next_update():
    selector = jaxsel.PromptSelector(MOPPS, num_prompts=32)
    leaves = [leaf for leaf in jax.tree.leaves(selector._belief.state) if leaf.ndim]
    before = [to_torch(leaf) for leaf in leaves]
    expected = [tensor.clone() for tensor in before]
    selector.observe(np.arange(32), np.full(32, 3), 8)
    selector.wait()
    assert all(map(torch.equal, before, expected))


# observe_rewards

NAN = float("nan")
REWARDS = torch.tensor([[1.0, 0.0, 1.0, NAN], [0.0, 0.0, 0.0, 0.0], [NAN, NAN, NAN, NAN], [1.0, 1.0, 0.9, NAN]])
IDS = np.array([5, 2, 7, 0])
SUCCESSES, GROUP_SIZE = [2, 0, 0, 3], [3, 4, 0, 3]


class Seen:
    """A selector that records its observations and also passes them to a real selector."""

    def __init__(self):
        self.selector = jaxsel.PromptSelector(MOPPS, num_prompts=8)

    def observe(self, *given):
        self.given = given
        self.selector.observe(*given)

    def observe_on_device(self, *given):
        self.given = given
        self.selector.observe_on_device(*given)


@pytest.fixture(params=["host", "device"])
def way(request, monkeypatch):
    """Make `observe_rewards` count on the host, or on the device as it does on a GPU."""
    monkeypatch.setattr("rl.handoff._stay_on_device", lambda counts: request.param == "device")
    return request.param


@pytest.mark.parametrize("ids", [IDS, IDS.tolist(), torch.tensor(IDS), torch.tensor(IDS, dtype=torch.int32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rewards_are_counted(ids, dtype, way):
    seen = Seen()
    observe_rewards(seen, ids, REWARDS.to(dtype))  # type: ignore[arg-type]
    ids, successes, group_size = (column.tolist() for column in seen.given)
    assert (ids, successes, group_size) == (IDS.tolist(), SUCCESSES, GROUP_SIZE)
    assert seen.selector.visits.tolist() == [1, 0, 1, 0, 0, 1, 0, 0]


def test_flat_rewards_teach_the_same_as_grouped_rewards(way):
    flat, grouped = (jaxsel.PromptSelector(DPS, num_prompts=8) for _ in range(2))
    order = torch.randperm(REWARDS.numel(), generator=torch.Generator().manual_seed(0))
    observe_rewards(grouped, IDS, REWARDS)
    observe_rewards(flat, np.repeat(IDS, 4)[order], REWARDS.flatten()[order])
    np.testing.assert_array_equal(flat.visits, grouped.visits)
    for ours, theirs in zip(flat.predict(), grouped.predict(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("threshold", "expected"), [(0.1, 2), (0.5, 1), (1.0, 0)])
def test_the_threshold_itself_is_no_success(threshold, expected):
    seen, rewards = Seen(), torch.tensor([[1.0, 0.5, 0.1, NAN]])
    for same in (rewards, rewards.double()):
        observe_rewards(seen, [3], same, threshold=threshold)  # type: ignore[arg-type]
        assert [column.tolist() for column in seen.given] == [[3], [expected], [3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.float64])
def test_a_threshold_is_not_rounded_to_the_type_of_the_rewards(dtype):
    seen = Seen()
    rewards = torch.tensor([[1.0, 1.0, 0.5, NAN]]).to(dtype)
    observe_rewards(seen, [3], rewards, threshold=0.9999)  # type: ignore[arg-type]
    assert [column.tolist() for column in seen.given] == [[3], [2], [3]]


def test_infinite_rewards_were_not_judged(way):
    seen = Seen()
    observe_rewards(seen, [3, 4], torch.tensor([[1.0, math.inf, -math.inf, NAN], [math.inf] * 4]))  # type: ignore[arg-type]
    assert [column.tolist() for column in seen.given] == [[3, 4], [1, 0], [1, 0]]
    assert seen.selector.visits.sum() == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_rewards_without_nan(dtype, way):
    seen = Seen()
    observe_rewards(seen, [3, 4], torch.tensor([[1, 0], [1, 1]], dtype=dtype))  # type: ignore[arg-type]
    assert [column.tolist() for column in seen.given] == [[3, 4], [1, 2], [2, 2]]


@pytest.mark.parametrize("shape", [(0,), (0, 4)])
def test_empty_rewards_count_as_a_step(shape, way):
    selector = jaxsel.PromptSelector(MOPPS, num_prompts=8)
    observe_rewards(selector, [], torch.zeros(shape))
    assert selector.metrics()["selector/observes"] == 1


def test_rewards_with_gradient_are_counted():
    seen = Seen()
    observe_rewards(seen, IDS, REWARDS.clone().requires_grad_())  # type: ignore[arg-type]
    assert seen.given[1].tolist() == SUCCESSES


@pytest.mark.parametrize(
    ("ids", "rewards", "threshold", "message"),
    [
        (IDS, REWARDS.numpy(), 0.5, "rewards is a ndarray; give a torch tensor"),
        (IDS, REWARDS[None], 0.5, r"rewards has shape \(1, 4, 4\).*\[b, n\] or flat"),
        (IDS, REWARDS.to(torch.complex64), 0.5, "give real numbers"),
        (IDS[:3], REWARDS, 0.5, r"prompt_ids has shape \(3,\) for rewards \(4, 4\); give one id per row"),
        (IDS, REWARDS.flatten(), 0.5, r"prompt_ids has shape \(4,\) for rewards \(16,\); give one id per row"),
        (IDS + 0.5, REWARDS, 0.5, "prompt_ids has type float64; give integers"),
        (torch.ones(4), REWARDS, 0.5, "prompt_ids has type float32; give integers"),
        (torch.ones(4).bfloat16(), REWARDS, 0.5, "prompt_ids has type torch.bfloat16; give integers"),
        (["a", "b", "c", "d"], REWARDS, 0.5, "prompt_ids has type <U1; give integers"),
        (IDS + 4, REWARDS, 0.5, r"prompt_ids\[0\] is 9; give integers from 0 to 7"),
        (IDS - 1, REWARDS, 0.5, r"prompt_ids\[3\] is -1; give integers"),
        (IDS, REWARDS, NAN, "threshold is nan; give a number"),
        (IDS, REWARDS, None, "threshold is None; give a number"),
        (IDS, REWARDS, "0.5", "threshold is '0.5'; give a number"),
        (IDS, REWARDS.to_sparse(), 0.5, r"layout torch.sparse_coo; give rewards.to_dense\(\)"),
    ],
)
def test_wrong_rewards_change_nothing(ids, rewards, threshold, message, way):
    selector = jaxsel.PromptSelector(MOPPS, num_prompts=8)
    with pytest.raises(ValueError, match=message):
        observe_rewards(selector, ids, rewards, threshold=threshold)
    assert selector.metrics()["selector/observes"] == 0


def test_counts_on_the_device_and_on_the_host_teach_the_same(monkeypatch):
    selectors = [jaxsel.PromptSelector(DPS, num_prompts=8) for _ in range(2)]
    for selector, stays in zip(selectors, (True, False), strict=True):
        monkeypatch.setattr("rl.handoff._stay_on_device", lambda counts, stays=stays: stays)
        for step in range(5):
            observe_rewards(selector, selector.select(4), REWARDS.roll(step))
    there, here = (selector.state_dict() for selector in selectors)
    jax.tree.map(np.testing.assert_array_equal, there, here)


def test_counts_are_kept_until_jax_has_copied_them():
    counts = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    passed = _passed_on(counts)
    assert any(tensor is counts for _, tensor in _passing)
    passed.block_until_ready()
    counts.fill_(0)
    assert passed.tolist() == [[1, 2], [3, 4]]
    _passed_on(counts.clone())
    assert not any(tensor is counts for _, tensor in _passing)


# The memory of a GPU that torch and JAX share

PROGRAM = f"""
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            print("when jax is imported:", os.environ.get("{VARIABLE}"))
sys.meta_path.insert(0, Watch())
import {{module}}
print("in the end:", os.environ["{VARIABLE}"], "jax" in sys.modules, "torch" in sys.modules)
"""


def run(module: str, monkeypatch: pytest.MonkeyPatch, value: str | None) -> list[str]:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    command = [sys.executable, "-W", "error", "-c", PROGRAM.format(module=module)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("value", "expected"), [(None, "false"), ("true", "true")])
def test_jax_is_set_up_before_it_is_imported(monkeypatch, value, expected):
    lines = run("rl.handoff", monkeypatch, value)
    assert lines == [f"when jax is imported: {expected}", f"in the end: {expected} True True"]


@pytest.mark.slow
def test_experiments_set_jax_up_before_it_looks_at_its_devices(monkeypatch):
    assert run("experiments.running.runs", monkeypatch, None)[-1] == "in the end: false True True"


def test_setting_jax_up_imports_neither_jax_nor_torch(monkeypatch):
    assert run("rl", monkeypatch, None) == ["in the end: false False False"]


@pytest.mark.parametrize("started", [False, True])
def test_setting_jax_up_too_late_on_a_gpu_warns(monkeypatch, recwarn, started):
    jnp.zeros(1).block_until_ready()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(sys.modules["jax._src.xla_bridge"], "backends_are_initialized", lambda: started)
    if started:
        with pytest.warns(RuntimeWarning, match=f"import rl before JAX is first used.*{VARIABLE}=false"):
            share_device_memory()
    else:
        share_device_memory()
    share_device_memory()  # now it is set
    assert not recwarn


def test_setting_jax_up_late_on_a_cpu_does_not_warn(monkeypatch):
    jnp.zeros(1).block_until_ready()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    share_device_memory()


class TestOnAGpu:
    pytestmark = gpu_only

    @pytest.fixture(autouse=True)
    def jax_sees_it_too(self):
        if jax.default_backend() != "gpu":
            pytest.skip("JAX sees no GPU")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_conversions_stay_on_the_device(self, dtype):
        tensor = torch.arange(2**16, device="cuda").to(getattr(torch, dtype))
        shared = to_jax(tensor, copy=False)
        assert same_memory(shared, tensor)
        assert shared.devices() == {jax.devices("gpu")[0]}
        back = to_torch(to_jax(tensor))
        assert back.device == tensor.device
        assert torch.equal(back, tensor)

    @pytest.mark.parametrize("copy", [False, True])
    def test_jax_waits_for_the_current_stream(self, copy):
        with torch.cuda.stream(torch.cuda.Stream()):
            product = torch.ones(4096, 4096, device="cuda")
            for _ in range(20):
                product = product @ torch.ones(4096, 4096, device="cuda") / 4096
            product.fill_(7)
            array = to_jax(product, copy=copy)
        assert (np.asarray(array) == 7).all()

    @pytest.mark.parametrize("copy", [False, True])
    def test_torch_waits_for_jax(self, copy):
        ones = jnp.ones((4096, 4096))
        product = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x / 4096, x) * 0 + 7)(ones)
        with torch.cuda.stream(torch.cuda.Stream()):
            assert (to_torch(product, copy=copy) == 7).all()

    def test_a_copy_sees_no_later_write(self):
        tensor = torch.zeros(2**24, device="cuda")
        array = to_jax(tensor)
        tensor.fill_(1)
        assert not np.asarray(array).any()
        back = to_torch(array)
        donated = jax.jit(lambda x: x + 1, donate_argnums=0)(array)
        assert np.asarray(donated).all()
        assert not back.any()

    @pytest.mark.parametrize("copy", [False, True])
    def test_unaligned_views(self, copy):
        array = to_jax(torch.arange(2**20, dtype=torch.int32, device="cuda")[1:], copy=copy)
        np.testing.assert_array_equal(np.asarray(array + 1), np.arange(2, 2**20 + 1))

    @pytest.mark.parametrize("flat", [False, True])
    def test_rewards_are_counted(self, flat):
        seen = Seen()
        rewards, ids = REWARDS.cuda(), IDS
        if flat:
            rewards, ids = rewards.flatten(), torch.tensor(np.repeat(IDS, 4)).cuda()
        observe_rewards(seen, ids, rewards)  # type: ignore[arg-type]
        assert all(isinstance(column, jax.Array) for column in seen.given[1:])
        host = jaxsel.PromptSelector(MOPPS, num_prompts=8)
        host.observe(IDS, SUCCESSES, GROUP_SIZE)
        jax.tree.map(np.testing.assert_array_equal, seen.selector.state_dict(), host.state_dict())

    def test_counts_are_right_while_the_gpu_is_busy(self):
        """Convert thousands of tensors while the GPU is busy. Memory reused too early would give wrong counts."""
        there, here = (jaxsel.PromptSelector(MOPPS, num_prompts=64) for _ in range(2))
        busy = torch.ones(4096, 4096, device="cuda")
        for step in range(200):
            successes = (np.arange(64) + step) % 9
            busy = busy @ busy / 4096
            rewards = (torch.arange(8, device="cuda")[None] < torch.tensor(successes, device="cuda")[:, None]).float()
            observe_rewards(there, np.arange(64), rewards * busy[0, 0])
            here.observe(np.arange(64), successes, 8)
        jax.tree.map(np.testing.assert_array_equal, there.state_dict(), here.state_dict())
