"""Templates around the prompts of a data set."""

from rl.prompts import Prompt

PLACEHOLDER = "{prompt}"


def check_template(template: str) -> None:
    """Refuse a template without a place for the prompt.

    Raises:
        ValueError: The template is not empty and has no placeholder.
    """
    if template and PLACEHOLDER not in template:
        raise ValueError(f"template is {template!r}; write {PLACEHOLDER} where the prompt belongs")


def filled(template: str, prompt: Prompt) -> Prompt:
    """Return the prompt inside the template; of chat messages, the last one of role user is put inside.

    Raises:
        ValueError: The last message of role user has no plain text, or there is none.
    """
    if not template:
        return prompt
    if isinstance(prompt, str):
        return template.replace(PLACEHOLDER, prompt)
    last = max((at for at, message in enumerate(prompt) if message["role"] == "user"), default=-1)
    if last < 0 or not isinstance(prompt[last]["content"], str):
        raise ValueError(
            f"template is {template!r}, and the last message of role user of a prompt is missing or no plain text; "
            "give template=''"
        )
    inside = {**prompt[last], "content": template.replace(PLACEHOLDER, prompt[last]["content"])}
    return [*prompt[:last], inside, *prompt[last + 1 :]]
