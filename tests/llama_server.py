"""A real llama.cpp server on loopback, in a process of its own. Run as a script it is that process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

TEMPLATE = """
{%- if tools -%}
<start_of_turn>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Call one within <tool_call></tool_call> tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><end_of_turn>
{% endif -%}
{%- for message in messages -%}
<start_of_turn>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}<start_of_turn>assistant
{% endif -%}
"""
"""A chat template of the model's own turns, which knows tools."""

Does = Literal["generate", "embed", "rank"]
POOLING = {"embed": "LLAMA_POOLING_TYPE_LAST", "rank": "LLAMA_POOLING_TYPE_RANK"}
"""What `--embedding` and `--reranking` come to."""

SLOT_TOKENS = 512
"""Context of each slot."""


@contextmanager
def llama_server(model: Path, slots: int = 2, template: str = "", does: Does = "generate") -> Iterator[str]:
    """Start a server of one model, and give its URL. It ends when its standard input does."""
    with subprocess.Popen(
        [sys.executable, __file__, str(model), str(slots), template, does],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            url = child.stdout.readline().strip()
            assert url.startswith("http://"), f"llama.cpp did not start: it ended with {child.wait()}"
            yield url
        finally:
            child.stdin.close()


def _serve(model: str, slots: int, template: str, does: str) -> None:
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path, asked.port, asked.warmup = model, 0, False
    asked.n_parallel, asked.n_ctx = slots, slots * SLOT_TOKENS
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
    asked.endpoint_slots = asked.use_jinja = True
    asked.chat_template, asked.embedding = template, does != "generate"
    if does in POOLING:
        asked.pooling_type = getattr(xllamacpp.llama_pooling_type, POOLING[does])
    server = xllamacpp.Server(asked)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
