"""Settings on the command line of `experiments.train`, and those in the documentation."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize
from omegaconf import OmegaConf

from experiments import train  # noqa: F401  (registers the configuration)
from experiments.evaluate import parsed
from experiments.running.command import module_parser
from experiments.running.config import RunConfig, flat_settings
from experiments.running.overrides import hydra_override, readable, swept_in
from rl.tasks.data_config import DataConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize(version_base="1.3", config_path=None):
        yield


@pytest.mark.parametrize(
    "text",
    [
        "{prompt}",
        "{prompt} Write the answer between <answer> and </answer>.",
        "runs/string_ops-mopps-3,train.learning_rate=0.001/policy",
        r"It's \n, 'a\\', b\\\' = {prompt} \\",
        "[open",
        "Solve {prompt}.\n\nWrite #### before the answer.\n",
        "1e5",
        "007",
        "true",
        "${prompt}$",
        r"It's ${prompt}, \${prompt} and \\${prompt}\\",
    ],
)
def test_every_text_reaches_the_run_and_an_evaluation_as_it_was_given(text):
    config = compose("train", readable([f"data.template={text}"]))
    assert config.data.template == text
    assert parsed(["policy=p", "task=t", f"template={text}"]).template == text


@pytest.mark.parametrize("value", ["'Solve\n\n{prompt} #1'", '"a {prompt}\n"', r"'It\'s {prompt}'"])
def test_a_run_and_an_evaluation_read_quoted_texts_and_lists_of_texts_alike(value):
    config = compose("train", readable([f"data.template={value}", f"data.stop=[{value}]"]))
    command = parsed(["policy=p", "task=t", f"template={value}", f"stop=[{value}]"])
    assert config.data.template == command.template == config.data.stop[0] == command.stop[0]
    assert "\\" not in command.template
    assert command.template in value.replace("\\", "")


def test_quotes_around_a_template_with_a_placeholder_after_a_dollar_sign_are_left_out():
    assert compose("train", readable(["data.template='${prompt}$'"])).data.template == "${prompt}$"
    assert parsed(["policy=p", "task=t", "template='${prompt}$'"]).template == "${prompt}$"


def test_an_escaped_line_break_is_no_stop_text():
    given = r'["\n\n"]'
    for settings in (
        compose("train", readable([f"data.stop={given}"])).data,
        parsed(["policy=p", "task=t", f"stop={given}"]),
    ):
        with pytest.raises(
            ValueError, match=r"stop holds the text \\n\\n, .* no line break; give the line break itself"
        ):
            DataConfig(stop=list(settings.stop))
    with pytest.raises(ValueError, match=r"stop holds the text \\nQuestion"):
        DataConfig(stop=[r"\nQuestion"])
    assert DataConfig(stop=["\n\n", r"\neq"]).stop[1] == r"\neq"


def test_arguments_that_hydra_reads_or_refuses_itself_stay_as_they_are():
    arguments = [
        "-m",
        "--cfg",
        "method.name=uniform,mopps",
        "policy='a,b'",
        "data.template='${prompt}','{prompt}'",
        "seed=range(0,3)",
        "train.steps=(",
        "hydra/launcher=submitit_local",
        "+x=[1,2",
        "method={name:dps}",
        "eval=[a.parquet,b.json]",
        "resume=true",
        "data.stop=[",
    ]
    assert readable(arguments) == arguments


def test_folders_of_runs_are_local_and_a_tilde_is_the_home_folder(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["hydra.run.dir=~/a=b", "hydra.sweep.dir=~/c", "hydra.run.dir=runs/${run_folder:}"]
    assert readable(given) == ["hydra.run.dir='/home/me/a=b'", "hydra.sweep.dir=/home/me/c", given[2]]
    for name in ("r1,seed=0", "qx[1]", "r (2)", "it's", "a#b", "a\\", "12"):
        (read,) = readable([f"hydra.run.dir=/{name}"])
        assert hydra_override(read).value() == f"/{name}"  # type: ignore[union-attr]
    assert readable(["hydra.run.dir='/tmp/r1,seed=0'"]) == ["hydra.run.dir='/tmp/r1,seed=0'"]
    with pytest.raises(ValueError, match=r"^hydra\.run\.dir is s3://b/c, which is not on this machine; give"):
        readable(["hydra.run.dir=s3://b/c"])
    parser = module_parser("experiments.demo", None)
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out", "~/d"]).out == Path("/home/me/d")
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", "s3://b/c"])
    assert "argument --out: path is s3://b/c, which is not on this machine" in capsys.readouterr().err


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ValueError, match=r"^train.step is no setting; the nearest name is train.steps, and --help"):
        readable(["train.step=3"])


def test_settings_with_several_values_are_swept():
    arguments = [
        "-m",
        "method.name=uniform,mopps",
        "seed=range(0,3)",
        "pool_size=40",
        "hydra/launcher=a,b",
        "x=[1,2]",
        "a=(",
        "+policy=a,b",
    ]
    assert swept_in(arguments) == ["method.name", "seed", "policy"]


def pages() -> list[Path]:
    """Return the pages of the documentation, and the modules whose docstrings and help texts name settings."""
    found = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "experiments/README.md"]
    found += [*(ROOT / "rl").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    return [page for page in found if "_build" not in page.parts]


def commands() -> list[tuple[str, list[str]]]:
    """Return the arguments of every `experiments.train` command in the guides, the docstrings and the help text."""
    found = []
    for page in pages():
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"^ {2,}(?:python|torchrun --nproc_per_node 2) -m experiments\.train (.*)", text, re.M)
        lines += re.findall(r"`(?:data\.\w+|policy|task)=[^`\n]*`", text) if page.suffix == ".md" else []
        found += [(page.name, shlex.split(line.strip("`"), comments=True)) for line in lines]
    return found


@pytest.mark.slow
def test_commands_of_the_documentation_are_read():
    found = commands()
    assert len(found) > 10
    for page, arguments in found:
        given = [argument for argument in readable(arguments) if "=" in argument and not argument.startswith("hydra")]
        swept = swept_in(given)
        config = compose("train", [one for one in given if one.partition("=")[0] not in swept])
        assert all(OmegaConf.select(config, one.partition("=")[0]) is not None for one in given), (page, given)


def test_settings_that_the_documentation_names_exist():
    settings = flat_settings(RunConfig())
    groups = "|".join(sorted({name.partition(".")[0] for name in settings if "." in name}))
    named = [
        (page.name, name)
        for page in [*pages(), *(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "jaxsel/report").glob("*.py")]
        for name in re.findall(rf"[`(]((?:{groups})\.[a-z_]+)(?=[=` ])", page.read_text())
        if page.name != "verl.md"  # verl has settings of the same names
    ]
    assert len(named) > 100
    assert not [(page, name) for page, name in named if name not in settings]
