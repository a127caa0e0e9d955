# Thin calls into scripts/: what they do is written there.
.PHONY: demo test test-deep check docs wheel release clean

demo:  ## start a network on this machine and stream an answer; ONCE=1 asks one question and leaves
	@scripts/demo.sh

test:  ## install what the tests need and run the suite; ARGS="-k name" passes arguments to pytest
	@scripts/test.sh $(ARGS)

test-deep:  ## the same with many more examples, and the storms and long stories at full length: before a release
	@scripts/test_deep.sh $(ARGS)

check:  ## formatting, lint and types, without the tests
	@scripts/check.sh

docs:  ## write what is generated anew: docs/cli.md, docs/modules.md, the tree in README
	@scripts/docs.sh

wheel:  ## build what people install, into dist/: wheel, source distribution, hashes
	@scripts/release.sh

release:  ## the same for everybody: refused unless version, tag and changelog say the same
	@scripts/release.sh --tagged

clean:  ## remove the virtual environment and caches
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
