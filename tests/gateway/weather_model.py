"""A scripted model that clients' stories are told with: it knows one tool, one schema, and how to say something."""

from __future__ import annotations

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.messages import ChatPrompt, GenerateRequest
from p2pnet.worker.backends.synthetic.scripted import Call, Said

TEXT = "The sky is blue «because» of Rayleigh\u2028scattering. \N{SLIGHTLY SMILING FACE}"
FORECAST = "It rains in Bern, and in Genève."
WEATHER_JSON = '{"city": "Bern", "days": 2}'
CALLS = (Call("weather", WEATHER_JSON), Call("weather", '{"city": "Genève", "days": 1}'))


def weather_script(request: GenerateRequest) -> Said:
    """JSON where it is asked for; calls where there are tools, and a forecast after their results; else a text."""
    prompt = request.prompt
    if isinstance(request.response_format, JsonFormat | JsonSchemaFormat):
        return Said(WEATHER_JSON)
    if isinstance(prompt, ChatPrompt) and prompt.messages[-1].role == "tool":
        return Said(FORECAST)
    if isinstance(prompt, ChatPrompt) and prompt.tools:
        return Said(calls=tuple(Call(prompt.tools[0].name, call.arguments) for call in CALLS))
    return Said(TEXT)
