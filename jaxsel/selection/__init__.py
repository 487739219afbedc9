"""From predictions to a batch: acquisitions score prompts, rules choose prompts, and `make_selector` composes both."""
