import numpy as np
import pytest
import torch

from jaxsel.integrations.embeddings import concatenated, embed
from rl.hidden_states import hidden_states
from rl.policy import Policy, build_policy
from tests.support.tiny_models import ARCHITECTURES, tiny_model

TEXTS = ["12=", "3=", "4567890=", "3=", "98=", "1234567890123=", "5"]


@pytest.fixture
def small() -> Policy:
    return build_policy("0123456789=", hidden_size=32, num_layers=2, feed_forward_size=32, seed=1)


def alone(policy: Policy, text: str, layer: int) -> np.ndarray:
    """Return the hidden state of the last token by a forward pass of one prompt, without padding."""
    tokens = torch.tensor([policy.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return policy.model(tokens, output_hidden_states=True).hidden_states[layer][0, -1].numpy()


@pytest.mark.parametrize("layer", [-1, 0, 1, 2, -3])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_prompts_vector_is_the_state_of_its_last_token_in_any_batch(small, layer, batch_size):
    found = hidden_states(small, layer=layer, batch_size=batch_size)(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [alone(small, text, layer) for text in TEXTS], atol=2e-6)


def test_the_order_of_the_texts_is_kept_and_the_vectors_differ(small):
    found = hidden_states(small)(TEXTS)
    np.testing.assert_allclose(hidden_states(small, batch_size=2)(TEXTS[::-1]), found[::-1], atol=2e-6)
    different = [0, 1, 2, 4, 5, 6]
    apart = np.linalg.norm(found[different, None] - found[None, different], axis=-1)
    assert apart[~np.eye(6, dtype=bool)].min() > 0.1


def test_the_policy_predicts_the_next_token_from_the_last_layer(small):
    tokens = torch.tensor([small.tokenizer("12=")["input_ids"]])
    logits = small.model.lm_head(torch.as_tensor(hidden_states(small)(["7=", "12="])[1]))
    torch.testing.assert_close(logits, small.model(tokens).logits[0, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_padding_is_invisible_to_every_architecture(kind):
    """Vectors from padded batches equal those of single prompts. Models that read padding get prompts of one length."""
    policy = tiny_model(kind)
    found = hidden_states(policy, batch_size=4)(TEXTS)
    single = np.concatenate([hidden_states(policy)([text]) for text in TEXTS])
    np.testing.assert_allclose(found, single, atol=1e-4 * np.abs(single).max())


def test_embed_computes_equal_texts_once_and_never_caches_the_vectors(small, tmp_path):
    read: list[int] = []
    handle = small.model.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    vectors = embed(TEXTS, embedder=hidden_states(small), cache=tmp_path, progress=False)
    handle.remove()
    assert sum(read) == 6  # "3=" occurs twice
    np.testing.assert_array_equal(vectors[1], vectors[3])
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        small.model.model.norm.weight.mul_(2)  # as a step of training does
    again = embed(TEXTS, embedder=hidden_states(small), cache=tmp_path, progress=False)
    np.testing.assert_allclose(again, 2 * vectors, rtol=1e-6)


def test_concatenated_with_another_embedder_nothing_is_cached(small, tmp_path):
    def lengths(texts):
        return np.array([[float(len(text))] for text in texts])

    vectors = embed(TEXTS, embedder=concatenated(lengths, hidden_states(small)), cache=tmp_path, progress=False)
    np.testing.assert_array_equal(vectors[:, 0], [len(text) for text in TEXTS])
    np.testing.assert_allclose(vectors[:, 1:], hidden_states(small)(TEXTS), atol=2e-6)
    assert list(tmp_path.iterdir()) == []


def test_the_precision_of_the_policy_holds_and_no_gradient_is_kept(small):
    exact = hidden_states(small)(TEXTS)
    rounded = hidden_states(Policy(small.model, small.tokenizer, "bfloat16"))(TEXTS)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.2
    assert all(weight.grad is None for weight in small.model.parameters())
    small.model(torch.tensor([[1, 2]])).logits.sum().backward()  # the weights can still be trained


def test_a_chat_template_is_applied_as_in_rollouts(small):
    small.tokenizer.chat_template = "{% for message in messages %}{{ '0' + message['content'] + '=' }}{% endfor %}"
    templated = hidden_states(small)(["12"])
    small.tokenizer.chat_template = None
    np.testing.assert_allclose(templated, hidden_states(small)(["012="]), atol=2e-6)


@pytest.mark.parametrize(
    ("options", "texts", "message"),
    [
        ({"layer": 3}, ["1="], "layer is 3; give an integer from -3 to 2 for this model"),
        ({"layer": -4}, ["1="], "layer is -4; give an integer from -3 to 2"),
        ({"layer": 1.0}, ["1="], "layer is 1.0; give an integer"),
        ({"layer": True}, ["1="], "layer is True; give an integer"),
        ({"batch_size": 0}, ["1="], "batch_size is 0; give an integer of at least 1"),
        ({}, ["1=", ""], "prompts has an empty text in row 1"),
        ({}, ["1=", "1" * 257], "prompts has 257 tokens in row 1.* exceeds the limit of 256; give shorter prompts"),
    ],
)
def test_bad_arguments_are_refused(small, options, texts, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        hidden_states(small, **options)(texts)
