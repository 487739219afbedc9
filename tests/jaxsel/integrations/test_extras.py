"""A missing package gives an error that names the pip extra with it. Earlier names of modules still work."""

import importlib
import sys

import pytest


def without(monkeypatch, package, *modules):
    """Make the package look uninstalled, and make the next import of the modules run again."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_histories_name_the_extra_that_they_need(monkeypatch):
    without(monkeypatch, "pyarrow", "jaxsel.integrations.history")
    with pytest.raises(ImportError, match=r'pyarrow is not installed; pip install "jaxsel\[history\]"') as error:
        importlib.import_module("jaxsel.integrations.history")
    assert error.value.name == "pyarrow"


def test_a_trainer_of_trl_names_the_extra_that_it_needs(monkeypatch):
    without(monkeypatch, "trl", "jaxsel.integrations.trl")
    module = importlib.import_module("jaxsel.integrations.trl")
    with pytest.raises(ImportError, match=r'trl.* is not installed; pip install "jaxsel\[trl\]"'):
        type("Trainer", (module.SelectsPrompts,), {})(selector=None)


@pytest.mark.parametrize("name", ["serve", "connect"])
def test_a_server_names_the_extra_that_it_needs(monkeypatch, tmp_path, name):
    without(monkeypatch, "ray", "jaxsel.integrations.ray")
    module = importlib.import_module("jaxsel.integrations.ray")
    arguments = {"selector": lambda: None, "folder": tmp_path} if name == "serve" else {}
    with pytest.raises(ImportError, match=r'ray.* is not installed; pip install "jaxsel\[ray\]"'):
        getattr(module, name)("selector", **arguments)


@pytest.mark.parametrize("ask", [lambda module: module.replay_buffer(), lambda module: module.SelectedPrompts])
def test_the_adapter_for_verl_names_the_extra_that_it_needs(monkeypatch, ask):
    parts = [f"jaxsel.integrations.{name}" for name in ("verl", "_verl_buffer", "_verl_dataset")]
    without(monkeypatch, "verl", *parts)
    monkeypatch.setitem(sys.modules, "transfer_queue", None)
    module = importlib.import_module("jaxsel.integrations.verl")
    with pytest.raises(ImportError, match=r'is not installed; pip install "jaxsel\[verl\]"'):
        ask(module)
    with pytest.raises(AttributeError, match="has no attribute 'Selected'"):
        _ = module.Selected


def test_a_recorded_edge_names_the_extra_that_it_needs(monkeypatch, tmp_path):
    import jaxsel
    from jaxsel.integrations.edge import TrainerEdge

    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=4, track_in_flight=True)
    without(monkeypatch, "pyarrow", "jaxsel.integrations.history", "jaxsel.integrations._recorder")
    TrainerEdge(selector).next_batch(2)
    with pytest.raises(ImportError, match=r'pyarrow is not installed; pip install "jaxsel\[history\]"'):
        TrainerEdge(selector, history=tmp_path)


def test_parquet_logs_name_the_extra_that_they_need(monkeypatch, tmp_path):
    from jaxsel.integrations.trainer_logs import read_logs

    (tmp_path / "log.parquet").write_text("step,prompt,reward\n1,a,1\n")
    without(monkeypatch, "pyarrow")
    with pytest.raises(ImportError, match=r'pyarrow.* is not installed; pip install "jaxsel\[history\]"'):
        read_logs(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [("jsonl", '{"step": 1, "prompt": "a", "reward": 1}\n'), ("csv", "step,prompt,reward\n1,a,1\n")],
)
def test_json_lines_and_csv_need_no_extra(monkeypatch, tmp_path, suffix, content):
    without(monkeypatch, "pyarrow", "jaxsel.integrations.trainer_logs")
    from jaxsel.integrations.trainer_logs import read_logs

    (tmp_path / f"log.{suffix}").write_text(content)
    assert read_logs(tmp_path).prompts == ["a"]


def test_a_progress_bar_names_the_extra_that_it_needs(monkeypatch):
    import numpy as np

    from jaxsel.integrations.embeddings import embed

    def ones(texts):
        return np.ones((len(texts), 2), np.float32)

    without(monkeypatch, "tqdm")
    assert embed(["a"], embedder=ones, progress=False).shape == (1, 2)
    with pytest.raises(ImportError, match=r'tqdm is not installed; pip install "jaxsel\[embeddings\]"'):
        embed(["a"], embedder=ones)


def test_a_custom_progress_bar_gets_the_batch_starts():
    import numpy as np

    from jaxsel.integrations.embeddings import embed

    seen = []

    def bar(starts, **options):
        seen.append((list(starts), options))
        return starts

    embed(["a", "b", "c"], embedder=lambda texts: np.ones((len(texts), 2)), batch_size=2, progress=bar)
    assert seen == [([0, 2], {"desc": "embeddings", "unit": "batch"})]


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("rl.history", "history", ["HistoryLog", "Recorded", "Unwritten", "Visits", "read_history"]),
        ("rl.logs", "trainer_logs", ["Imported", "read_logs", "read_trl", "read_verl"]),
        ("rl.embeddings", "embeddings", ["Embedder", "embed", "sentence_transformers", "wordllama"]),
    ],
)
def test_earlier_module_names_still_work(old, new, names):
    pytest.importorskip("pyarrow")
    moved = importlib.import_module(f"jaxsel.integrations.{new}")
    for name in names:
        assert getattr(importlib.import_module(old), name) is getattr(moved, name)
