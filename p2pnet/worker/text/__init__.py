"""Between requests and token ids: prompts in, text out, and the forms that an answer may have to take."""
