# Thin calls into scripts/: what they do is written there.
.PHONY: demo test check docs clean

demo:  ## start a network on this machine and stream an answer; ONCE=1 asks one question and leaves
	@scripts/demo.sh

test:  ## install what the tests need and run the whole suite; ARGS="-k name" passes arguments to pytest
	@scripts/test.sh $(ARGS)

check:  ## formatting, lint and types, without the tests
	@scripts/check.sh

docs:  ## write docs/cli.md anew from the commands themselves
	@scripts/docs.sh

clean:  ## remove the virtual environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
