"""From predictions to a batch: acquisitions score prompts, rules choose them, and `make_selector` composes both."""
