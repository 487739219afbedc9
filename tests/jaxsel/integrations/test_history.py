import numpy as np
import pytest

import jaxsel

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from jaxsel.integrations.history import HistoryLog, read_history, read_parts
from jaxsel.integrations.parquet_parts import part_files
from tests.support.damaged import damage_pages

pytestmark = pytest.mark.slow  # 4 s

N = 10


@pytest.fixture
def selector():
    return jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0)


def record(log, selector, steps, *, flush_every=2):
    """Run a selector and record its batches and predictions. At even steps, record rollouts of the whole pool too."""
    for step in steps:
        ids = selector.select(3)
        successes = np.array([0, step % 9, 8])
        if step % 2 == 0:
            everything = np.arange(N)
            log.probed(step, (everything, everything % 5, np.full(N, 4)), selector.predict())
        log.observed(step, (ids, successes, np.full(3, 8)), selector.predict(ids))
        selector.observe(ids, successes, 8)
        if (step + 1) % flush_every == 0:
            log.flush()


def make(folder, **options):
    return HistoryLog(folder, num_prompts=N, spec={"method": "mopps"}, **options)


def test_a_written_history_is_read_back(tmp_path, selector):
    log = make(tmp_path)
    record(log, selector, range(4))
    found = read_history(tmp_path)
    assert (found.num_prompts, found.spec) == (N, {"method": "mopps"})
    assert found.history.num_steps == 4
    assert len(found.rollouts["step"]) == 12
    assert found.probes["step"].tolist() == [0] * N + [2] * N
    assert found.probes["successes"][:N].tolist() == (np.arange(N) % 5).tolist()
    again = jaxsel.replay(found.history, jaxsel.mopps(), num_prompts=N, seed=0, probe_steps=[0, 2])
    order = np.lexsort([found.rollouts["prompt_id"], found.rollouts["clock"]])
    np.testing.assert_array_equal(again.prediction.success_rate, found.rollouts["success_rate"][order])
    np.testing.assert_array_equal(again.probes[2].mixed, found.probes["mixed"][N:])


def test_a_late_file_of_a_long_run_is_read_alone(tmp_path, selector):
    record(make(tmp_path, first_clock=200_000), selector, range(4))
    assert np.unique(read_parts(part_files(tmp_path)[1:]).history.step).tolist() == [200_002, 200_003]


def test_only_flushed_steps_are_read(tmp_path, selector):
    log = make(tmp_path)
    record(log, selector, range(5))
    assert read_history(tmp_path).history.num_steps == 4
    (tmp_path / "part-000002.partial").write_bytes(b"cut short")
    assert read_history(tmp_path).history.num_steps == 4
    log.flush()
    assert read_history(tmp_path).history.num_steps == 5


@pytest.mark.parametrize("first_step", [0, 2, 3, 4])
def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path, first_step):
    def run(folder, cut):
        fresh = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0)
        log = make(folder)
        record(log, fresh, range(cut))
        log.flush()
        return fresh

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, 6)
    run(cut, 5)  # files hold steps 0-1, 2-3 and 4, so first_step=3 cuts a file
    resumed = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0)
    for step in range(first_step):
        resumed.observe(resumed.select(3), [0, step % 9, 8], 8)
    log = make(cut, first_step=first_step)
    record(log, resumed, range(first_step, 6))
    log.flush()
    for name in ("rollouts", "probes"):
        for key, column in getattr(read_history(whole), name).items():
            np.testing.assert_array_equal(column, getattr(read_history(cut), name)[key], err_msg=f"{name}.{key}")


def test_a_folder_without_a_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no history"):
        read_history(tmp_path)


def test_no_file_is_replaced_where_another_was_deleted(tmp_path, selector):
    record(make(tmp_path), selector, range(6))
    (tmp_path / "part-000001.parquet").unlink()
    log = make(tmp_path, first_step=6)
    record(log, selector, range(6, 8))
    assert sorted(set(read_history(tmp_path).rollouts["step"])) == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize("name", ["part-000000.parquet", "part-000001.parquet"])
def test_a_file_of_another_kind_is_named(tmp_path, selector, name):
    record(make(tmp_path), selector, range(4))
    pq.write_table(pa.table({"question": ["1 + 1"]}), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is not a file of a history, but .* columns question; give"):
        read_history(tmp_path)


def test_files_of_two_runs_are_refused(tmp_path, selector):
    record(make(tmp_path / "a"), selector, range(2))
    record(HistoryLog(tmp_path / "b", num_prompts=N, spec={"method": "dps"}), selector, range(2))
    (tmp_path / "b" / "part-000000.parquet").rename(tmp_path / "a" / "part-000001.parquet")
    with pytest.raises(ValueError, match="different pools or methods"):
        read_history(tmp_path / "a")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "history").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "history")


def test_texts_and_embeddings_have_one_entry_per_prompt(tmp_path):
    for options in ({"texts": ["a"]}, {"embeddings": np.zeros((2, 3))}):
        with pytest.raises(ValueError, match=f"entries for {N} prompts"):
            make(tmp_path, **options)


def test_prompts_and_the_truth_of_a_simulation_are_read_again(tmp_path, selector):
    texts, embeddings = [f"prompt {i}" for i in range(N)], np.arange(3.0 * N).reshape(N, 3)
    log = make(tmp_path, texts=texts, embeddings=embeddings)
    ids, truth = np.array([1, 4]), np.array([0.25, 0.5])
    log.observed(0, (ids, ids, ids), selector.predict(ids), truth)
    log.probed(1, (ids, ids, ids), selector.predict(ids))
    log.flush()
    found = read_history(tmp_path)
    assert found.texts == texts
    np.testing.assert_array_equal(found.embeddings, embeddings)
    np.testing.assert_array_equal(found.rollouts["truth"], truth)
    assert np.isnan(found.probes["truth"]).all()


def test_the_history_of_another_pool_or_method_is_refused(tmp_path, selector):
    log = make(tmp_path, texts=["a"] * N)
    record(log, selector, range(1))
    log.flush()
    with pytest.raises(ValueError, match="holds the history of another pool or method; give another folder"):
        HistoryLog(tmp_path, num_prompts=N + 1, spec={"method": "mopps"}, texts=["b"] * (N + 1))
    with pytest.raises(ValueError, match="another pool or method"):
        HistoryLog(tmp_path, num_prompts=N, spec={"method": "dps"})
    with pytest.raises(
        ValueError, match=r"other texts: texts\[1\] is 'b', and was 'a'; give the texts in the same order"
    ):
        make(tmp_path, texts=["a", "b"] + ["a"] * (N - 2), first_step=1)
    assert read_history(tmp_path).texts == ["a"] * N


@pytest.mark.parametrize("table", [{"prompt": ["a"] * N}, {"text": ["a"] * N}, {}])
def test_a_file_of_the_user_is_not_replaced(tmp_path, table):
    """The user's prompts may be in a file of the same name."""
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table(table), path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"pool.parquet exists and is not of a history; give another folder, or rename"
    ):
        make(tmp_path, texts=["b"] * N)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_the_texts_of_an_earlier_version_are_continued(tmp_path, selector):
    log, unmarked = make(tmp_path, texts=["a"] * N), pa.table({"text": ["a"] * N})
    pq.write_table(unmarked, tmp_path / "pool.parquet")
    make(tmp_path, texts=["a"] * N)  # a crash came before the first batch
    record(log, selector, range(2))
    pq.write_table(unmarked, tmp_path / "pool.parquet")
    make(tmp_path, texts=["b"] * N)  # a run that begins anew
    record(make(tmp_path), selector, range(2))
    assert read_history(tmp_path).texts == ["b"] * N


@pytest.mark.usefixtures("unchecked_types")
def test_the_size_of_the_pool_may_be_a_number_of_numpy(tmp_path, selector):
    log = HistoryLog(tmp_path, num_prompts=np.int64(N), spec={"method": "mopps"})  # type: ignore[arg-type]
    record(log, selector, range(2))
    make(tmp_path, first_step=1)
    with pytest.raises(ValueError, match="num_prompts is 0; give an integer of at least 1"):
        HistoryLog(tmp_path / "new", num_prompts=0, spec={})
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_rows_and_prompts_are_refused_before_they_are_written(tmp_path, selector):
    log, ids = make(str(tmp_path)), np.array([0, 1])
    prediction = selector.predict(ids)
    for visits, message in (
        ((ids, np.array([9, 1]), np.full(2, 8)), r"successes\[0\] is 9 of 8 rollouts"),
        ((ids + N - 1, np.ones(2, int), np.full(2, 8)), r"prompt_ids\[1\] is 10; give integers from 0 to 9"),
    ):
        for add in (log.observed, log.probed):
            with pytest.raises(ValueError, match=message):
                add(0, visits, prediction)
    log.observed(0, (ids, np.array([8, 1]), np.full(2, 8)), prediction)
    log.flush()
    assert read_history(tmp_path).history.successes.tolist() == [8, 1]
    with pytest.raises(ValueError, match=r"embeddings has shape \(10,\); give a matrix"):
        make(tmp_path, embeddings=np.ones(N))
    with pytest.raises(ValueError, match="texts does not hold strings"):
        make(tmp_path, texts=[1] * N)


def test_a_history_without_prompts_is_read(tmp_path, selector):
    log = make(tmp_path)
    record(log, selector, range(1))
    log.flush()
    assert read_history(tmp_path)[-2:] == (None, None)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_file_is_named(tmp_path, selector, share):
    log = make(tmp_path)
    record(log, selector, range(2))
    (part,) = tmp_path.glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[: int(share * part.stat().st_size)])
    for use in (read_history, make):
        with pytest.raises(ValueError, match=r"part-000000.parquet is damaged .*; put back a copy of it, or delete"):
            use(tmp_path)


def test_a_damaged_page_is_named(tmp_path, selector):
    record(make(tmp_path), selector, range(2))
    (part,) = tmp_path.glob("part-*.parquet")
    damage_pages(part)
    for use in (read_history, make):
        with pytest.raises(ValueError, match=r"part-000000.parquet is damaged .*; put back a copy of it, or delete"):
            use(tmp_path)
