"""Fine-tuning of a pretrained policy on demonstrations before RL, with and without a chat template."""

import itertools
from dataclasses import replace

import pytest
import torch

from rl import fine_tuning as module
from rl.fine_tuning import FineTuningConfig, fine_tune
from rl.tasks.data import no_demonstrations

CONFIG = FineTuningConfig(steps=3, batch_size=4, learning_rate=1e-2, seed=1)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}=={% endif %}"


def weights(policy):
    return policy.model.state_dict()["model.embed_tokens.weight"].clone()


@pytest.fixture(params=[None, TEMPLATE], ids=["plain", "chat"])
def either(request, policy):
    policy.tokenizer.chat_template = request.param
    return policy


def test_the_loss_is_the_mean_over_tokens_of_completions_and_their_ends(either, task):
    shown = list(itertools.islice(task.demonstrations(0), 6))
    losses = []
    for one in shown:
        prompt = f"{one.prompt}==" if either.tokenizer.chat_template else one.prompt
        first, second = (
            either.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, one.completion)
        )
        row = torch.tensor([*first, *second, either.eos_token_id])
        logits = either.model(row[None]).logits[0, len(first) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, row[len(first) :], reduction="none"))
    assert len({len(loss) for loss in losses} | {len(one.prompt) for one in shown}) > 1, "padding is tested"
    torch.testing.assert_close(module._loss(either, shown), torch.cat(losses).mean(), rtol=1e-5, atol=1e-6)


def test_it_imitates_the_demonstrations(either, task, tmp_path):
    shown = list(itertools.islice(task.demonstrations(7), 64))
    before = module._loss(either, shown).item()
    tuned = fine_tune(either, task, replace(CONFIG, steps=60, batch_size=16), cache=tmp_path, progress=False)
    assert module._loss(tuned, shown).item() < before / 2


def test_the_second_call_reads_the_cache(policy, task, tmp_path, monkeypatch):
    start = {name: value.clone() for name, value in policy.model.state_dict().items()}
    first = fine_tune(policy, task, CONFIG, cache=tmp_path, progress=False)
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    policy.model.load_state_dict(start)
    second = fine_tune(policy, task, CONFIG, cache=tmp_path, progress=False)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), start["model.embed_tokens.weight"])


def test_whatever_changes_the_result_changes_the_folder(policy, task, tmp_path):
    shifted = task._replace(demonstrations=lambda seed: task.demonstrations(seed + 5))
    found = {
        module._identity(policy, task, CONFIG),
        module._identity(policy, task, replace(CONFIG, steps=4)),
        module._identity(policy, task, replace(CONFIG, seed=2)),
        module._identity(policy, shifted, CONFIG),
        module._identity(replace(policy, precision="bfloat16"), task, CONFIG),
    }
    policy.tokenizer.chat_template = TEMPLATE
    found.add(module._identity(policy, task, CONFIG))
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[0, 0] += 1
    found.add(module._identity(policy, task, CONFIG))
    assert len(found) == 7


def test_every_demonstration_that_is_imitated_changes_the_folder_and_no_later_one(policy, task):
    """Two shares of held-out prompts may give the same first demonstrations."""
    config, shown = replace(CONFIG, steps=30), list(itertools.islice(task.demonstrations(1), 122))
    assert config.steps * config.batch_size == 120

    def identity(changed):
        others = [one._replace(completion="else") if at == changed else one for at, one in enumerate(shown)]
        return module._identity(policy, task._replace(demonstrations=lambda seed: iter(others)), config)

    assert identity(120) == identity(121) != identity(0)
    assert len({identity(at) for at in (0, 63, 64, 65, 119, 120)}) == 6


def test_a_policy_with_a_number_among_its_weights_and_one_with_other_shapes_have_folders_too(policy, task):
    found = {module._identity(policy, task, CONFIG)}
    for shape in ((), (4,), (2, 2), (0, 4), (4, 0)):
        policy.model.register_buffer("scale", torch.zeros(shape))
        found.add(module._identity(policy, task, CONFIG))
    policy.model.register_buffer("scale", torch.zeros(4, dtype=torch.int32))  # the same bytes
    found.add(module._identity(policy, task, CONFIG))
    policy.model.register_buffer("scale", None)
    policy.model.register_buffer("shift", torch.zeros(4))
    found.add(module._identity(policy, task, CONFIG))
    assert len(found) == 8


def test_no_steps_leave_the_policy_and_the_cache_alone(policy, task, tmp_path):
    assert fine_tune(policy, task, FineTuningConfig(), cache=tmp_path) is policy
    assert list(tmp_path.iterdir()) == []


def test_the_precision_is_kept(policy, task, tmp_path):
    tuned = fine_tune(replace(policy, precision="bfloat16"), task, CONFIG, cache=tmp_path, progress=False)
    assert tuned.precision == "bfloat16"
    assert weights(tuned).dtype == torch.float32


def test_a_task_without_demonstrations_is_refused(policy, task, tmp_path):
    without = task._replace(demonstrations=lambda seed: no_demonstrations("mine", seed))
    with pytest.raises(
        ValueError, match=r"fine_tuning.steps is above 0 with the task mine, .*; give fine_tuning.steps=0"
    ):
        fine_tune(policy, without, CONFIG, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_ends_it_before_anything_is_written(policy, task, tmp_path):
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(
        ValueError, match=r"gradient norm of fine-tuning step 0 is nan; lower fine_tuning.learning_rate"
    ):
        fine_tune(policy, task, CONFIG, cache=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_cached(policy, task, tmp_path):
    policy.model.register_parameter("unused", torch.nn.Parameter(torch.tensor([torch.nan])))
    with pytest.raises(ValueError, match=r"unused is NaN or infinite in places, so .* is not written"):
        fine_tune(policy, task, CONFIG, cache=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "setting", [{"steps": -1}, {"steps": 1.5}, {"batch_size": 0}, {"learning_rate": 0}, {"seed": -1}]
)
def test_settings_out_of_their_range_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} is {setting[name]}; give"):
        FineTuningConfig(**setting)
