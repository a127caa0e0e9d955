"""Reads how a folder wants its model to embed, from files in the format of sentence-transformers.

Reads files only: knows nothing of torch. What this project does not do exactly as sentence-transformers does is refused
here, so that nothing is dropped in silence. Format: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from p2pnet.errors import UsageError

MODULES_FILE = "modules.json"

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""What stands for each mode in folders saved before sentence-transformers 5, in the order in which they are joined."""

ACTIVATIONS = ("GELU", "Identity", "ReLU", "SiLU", "Sigmoid", "Tanh")
"""Classes of torch.nn, made without arguments."""

_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where the settings of the Transformer module may be; the first one counts."""

_HARMLESS_SETTINGS = frozenset({"max_seq_length", "do_lower_case", "unpad_inputs"})
"""The first two are heeded; unpadding changes nothing but speed."""
_PLAIN_SETTINGS = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "tokenizer_name_or_path": (None,),
}
"""Settings with the values that a text encoder has."""

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Pooling:
    """Makes one vector of the vectors of a text's tokens. Several modes are joined into a longer vector."""

    modes: tuple[str, ...] = ("mean",)


@dataclass(frozen=True)
class Dense:
    """A linear layer and what follows it. `weights` is a safetensors file."""

    weights: Path
    in_features: int
    out_features: int
    has_bias: bool
    activation: str


@dataclass(frozen=True)
class Normalize:
    """Scales a vector to length one."""


Step = Dense | Normalize


@dataclass(frozen=True)
class EmbeddingRecipe:
    """How to embed with the model in `model_folder`. `max_tokens` is how much of a text is read, or None if the folder
    does not say.

    `prompt` goes before each text. `dimensions` cuts every vector short. `files` are all that this was read from, and
    the weights of dense layers.
    """

    model_folder: Path
    pooling: Pooling = Pooling()
    steps: tuple[Step, ...] = ()
    max_tokens: int | None = None
    is_lower_case: bool = False
    prompt: str = ""
    dimensions: int | None = None
    files: tuple[Path, ...] = ()


def has_recipe(folder: Path) -> bool:
    """Whether the folder is in the sentence-transformers format."""
    return (folder / MODULES_FILE).is_file()


def read_recipe(folder: Path) -> EmbeddingRecipe:
    """The folder's own recipe, or for a plain encoder the mean without normalizing, as sentence-transformers does it.

    Raises UsageError when the folder asks for anything that is not done here, or is damaged.
    """
    if not has_recipe(folder):
        return EmbeddingRecipe(folder)
    modules = [_Module.read(item, folder) for item in _list(folder / MODULES_FILE)]
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise _unsupported(folder / MODULES_FILE, f"the modules {', '.join(kinds) or 'none'}")
    transformer, pooling, *following = modules
    settings_file, settings = _transformer_settings(transformer.folder)
    steps = tuple(
        _dense(module.folder) if module.kind == "Dense" else _normalize(module.folder) for module in following
    )
    prompt, dimensions = _sentence_settings(folder)
    return EmbeddingRecipe(
        model_folder=transformer.folder,
        pooling=_pooling(pooling.folder / "config.json", has_prompt=bool(prompt)),
        steps=steps,
        max_tokens=_optional_count(settings.get("max_seq_length"), settings_file),
        is_lower_case=settings.get("do_lower_case") is True,
        prompt=prompt,
        dimensions=dimensions,
        files=tuple(
            path
            for path in (
                folder / MODULES_FILE,
                folder / "config_sentence_transformers.json",
                settings_file,
                *(module.folder / "config.json" for module in modules[1:]),
                *(step.weights for step in steps if isinstance(step, Dense)),
            )
            if path.is_file()
        ),
    )


@dataclass(frozen=True)
class _Module:
    kind: str
    folder: Path

    @classmethod
    def read(cls, item: Any, folder: Path) -> _Module:
        """One entry of modules.json. Its class is looked at, never imported."""
        source = folder / MODULES_FILE
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("type", "path")):
            raise _damaged(source)
        path = PurePosixPath(item["path"])
        if path.is_absolute() or ".." in path.parts or "\\" in item["path"]:
            raise _damaged(source)
        package, _, kind = item["type"].rpartition(".")
        if package.split(".")[0] != "sentence_transformers":
            raise _unsupported(source, f"code of its own, {item['type']!r}, which is never run")
        if item.get("kwargs"):
            raise _unsupported(source, f"arguments for {kind}")
        return cls(kind, folder / path)


def _transformer_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    for path in (folder / name for name in _TRANSFORMER_FILES):
        if path.is_file() and (settings := _dict(path)):
            _check_transformer_settings(settings, path)
            return path, settings
    return folder / _TRANSFORMER_FILES[0], {}


def _check_transformer_settings(settings: Mapping[str, Any], path: Path) -> None:
    for name, value in settings.items():
        if name in _HARMLESS_SETTINGS or value in (None, {}) or value in _PLAIN_SETTINGS.get(name, ()):
            continue
        if name == "modality_config" and _is_text_only(value):
            continue
        raise _unsupported(path, name)


def _is_text_only(modalities: Any) -> bool:
    """Whether texts go into the model as they are, not rendered as a chat, and the last layer's vectors come out."""
    plain = {"method": "forward", "method_output_name": "last_hidden_state"}
    return isinstance(modalities, dict) and modalities.get("text") == plain and "message" not in modalities


def _pooling(path: Path, has_prompt: bool) -> Pooling:
    config = _dict(path)
    if config.get("include_prompt", True) is not True and has_prompt:
        raise _unsupported(path, "leaving the prompt out of the mean")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise _damaged(path)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown:
        raise _unsupported(path, f"the pooling mode {unknown[0]!r}")
    return Pooling(tuple(modes))


def _dense(folder: Path) -> Dense:
    path = folder / "config.json"
    config = _dict(path)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    package, _, name = str(activation).rpartition(".")
    if not package.startswith("torch.nn") or name not in ACTIVATIONS:
        raise _unsupported(path, f"the activation function {activation!r}")
    if config.get("use_residual") or not _is_of_sentences(config):
        raise _unsupported(path, "a dense layer elsewhere than after the pooling")
    if not (folder / _WEIGHTS).is_file():
        raise UsageError(
            f"There is no {_WEIGHTS} in {folder}.",
            "Save the model again with sentence-transformers; other formats can run code and are not loaded.",
        )
    sizes = [_optional_count(config.get(key), path) for key in ("in_features", "out_features")]
    if sizes[0] is None or sizes[1] is None:
        raise _damaged(path)
    return Dense(folder / _WEIGHTS, sizes[0], sizes[1], config.get("bias", True) is True, name)


def _normalize(folder: Path) -> Normalize:
    """The step that normalizes. Older folders name a folder for it that is not there."""
    path = folder / "config.json"
    if path.is_file() and not _is_of_sentences(_dict(path)):
        raise _unsupported(path, "normalizing elsewhere than after the pooling")
    return Normalize()


def _is_of_sentences(config: Mapping[str, Any]) -> bool:
    names = (config.get("module_input_name"), config.get("module_output_name"))
    return all(name in (None, "sentence_embedding") for name in names)


def _sentence_settings(folder: Path) -> tuple[str, int | None]:
    """The prompt that goes before every text unless a caller chooses another, and where vectors are cut."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return "", None
    config = _dict(path)
    if config.get("model_type") not in (None, "SentenceTransformer"):
        raise _unsupported(path, f"the model type {config['model_type']!r}")
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise _damaged(path)
    prompt = "" if name is None else prompts.get(name)
    if name in ("query", "document") and prompt is None:
        prompt = ""  # these two exist in every folder, and are empty unless it says otherwise
    if not isinstance(prompt, str):
        raise _damaged(path)
    return prompt, _optional_count(config.get("truncate_dim"), path)


def _optional_count(value: Any, path: Path) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _damaged(path)
    return value


def _dict(path: Path) -> dict[str, Any]:
    content = _json(path)
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _list(path: Path) -> Iterator[Any]:
    content = _json(path)
    if not isinstance(content, list):
        raise _damaged(path)
    yield from content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"There is no {path.name} in {path.parent}.", "Download or save the model again.") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged.", "Download or save the model again.")


def _unsupported(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} asks for {what}, which is not supported.",
        "Use a model of a transformer, pooling, dense layers and normalizing.",
    )
