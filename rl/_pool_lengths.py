"""A check of the lengths of all prompts of a run before its first step."""

from rl.policy import Policy
from rl.prompts import PromptPool
from rl.prompts.messages import Prompt, media_kinds, plain_text


def check_all_lengths(policy: Policy, pool: PromptPool, what: str, max_new_tokens: int, limit: int | None) -> None:
    """Refuse a pool with a prompt that is too long.

    A prompt has at most as many tokens as bytes, beside those of the chat template. So only prompts with many bytes are
    read. Prompts with images are checked when they are completed.

    Args:
        policy: The policy, whose tokenizer and chat template count.
        pool: The prompts.
        what: Name of the pool in the error.
        max_new_tokens: Length of the longest completion, in tokens.
        limit: The largest number of tokens in prompt and completion together. None: no limit.

    Raises:
        ValueError: A prompt is too long; the message names its row and its key.
    """
    if limit is None:
        return
    template = None  # tokens of the first prompt, and thus at least those of the template
    for row, prompt in enumerate(pool.texts):
        if media_kinds(prompt):
            continue
        template = template or _tokens(policy, prompt)
        messages = 1 if isinstance(prompt, str) else len(prompt)
        if len(plain_text(prompt).encode(errors="surrogatepass")) + messages * template + max_new_tokens <= limit:
            continue
        if (length := _tokens(policy, prompt)) + max_new_tokens > limit:
            raise ValueError(
                f"{what} has a prompt of {length} tokens in row {row}, with the key {pool.keys[row]!r:.60}, which with "
                f"max_new_tokens={max_new_tokens} exceeds the limit of {limit}; leave it out of the data, or give a "
                "smaller max_new_tokens or a model with more positions"
            )


def _tokens(policy: Policy, prompt: Prompt) -> int:
    return int(policy.read([prompt]).mask.sum())
