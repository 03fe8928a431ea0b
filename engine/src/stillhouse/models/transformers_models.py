"""Hugging Face's vision models, by class: from a config in the recipe, from a local folder or from the hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillhouse.config.home import find_path
from stillhouse.config.model import ModelSpec
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults
from stillhouse.models.family import ModelFamily, ModelRequest, Published

__all__ = ["TRANSFORMERS", "build_transformers", "describe_transformers"]


def build_transformers(name: str, request: ModelRequest) -> Any:
    """Build the class ``name`` of transformers, such as ``SegformerForSemanticSegmentation``.

    Args:
        name: a class, or an ``AutoModelFor...``, which needs ``source`` or ``model_type`` in ``args``.
        request: what it is built for. ``args`` are keys of the model's config; ``source`` is a folder (from the recipe's
            on) or a name on the hub, whose config is taken, and with ``pretrained = true`` its weights too. The number of
            labels, the channels and the image's size come from data and task where the config has them.

    Raises:
        StillhouseError: transformers is missing, no such class, a key that the config lacks, a source that cannot be read.
    """
    spec, where, base = request.spec, request.where, request.base
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise StillhouseError(
            f"{spec.model!r} needs transformers: {error}",
            where=f"{where}.model",
            hint="pip install stillhouse[huggingface]",
        ) from None
    known = [n for n in dir(transformers) if n.endswith("Model") or "For" in n]
    if name not in known:
        raise StillhouseError(
            f"transformers has no model {name!r}", where=f"{where}.model", hint=did_you_mean(name, known)
        )
    try:
        kind = getattr(transformers, name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a model's file that needs some further package
        raise StillhouseError(f"{spec.model!r} cannot be imported: {error}", where=f"{where}.model") from None
    if not hasattr(kind, "from_config") and not _is_model(kind, transformers):
        raise StillhouseError(
            f"transformers' {name!r} is no model", where=f"{where}.model", hint="ViTForImageClassification, ..."
        )
    config = _build_config(transformers, kind, request)
    try:
        if spec.pretrained:
            source = _find_source(spec.args["source"], base)
            return _read_cached_first(kind.from_pretrained, source, config=config, ignore_mismatched_sizes=True)
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    except OSError as error:
        raise _make_source_error(spec, where, error) from error
    except Exception as error:
        raise StillhouseError(f"{name} cannot be built: {_join_lines(error)}", where=f"{where}.args") from error


def describe_transformers(_name: str, request: ModelRequest) -> Published | None:
    """What the source's own configuration and that of its image processor say of its weights."""
    source = request.spec.args.get("source")
    try:
        transformers: Any = importlib.import_module("transformers")
        if source is None:
            return None
        place = _find_source(str(source), request.base)
        config = _read_cached_first(transformers.AutoConfig.from_pretrained, place)
    except (ImportError, OSError, ValueError):  # building it says so
        return None
    labels = {int(i): str(name) for i, name in (getattr(config, "id2label", None) or {}).items()}
    named = any(name != f"LABEL_{i}" for i, name in labels.items())
    return Published(
        source="its own configuration",
        channels=getattr(config, "num_channels", None),
        outputs=len(labels) or None,
        class_names=tuple(labels[i] for i in sorted(labels)) if named else (),
        **{"size": _pair(getattr(config, "image_size", None)), **_read_processor(place)},
    )


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width by the forms that configurations have them in."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        size = [size.get("height"), size.get("width")]
    fits = isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return (size[0], size[1]) if fits else None


def _read_processor(place: str) -> dict[str, Any]:
    """Normalisation and size by the image processor's file; read as data, since a processor's class may be anybody's."""
    cached_file = importlib.import_module("transformers.utils").cached_file
    try:
        found = _read_cached_first(lambda path, **keys: cached_file(path, "preprocessor_config.json", **keys), place)
        told = json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # TypeError: no such file, which is None
        return {}
    made: dict[str, Any] = {}
    if told.get("do_normalize", True) and told.get("image_mean") and told.get("image_std"):
        made = {"mean": tuple(map(float, told["image_mean"])), "std": tuple(map(float, told["image_std"]))}
    elif told.get("do_normalize") is False:
        made = {"mean": (), "std": ()}
    size = told.get("crop_size") if told.get("do_center_crop") else told.get("size")
    return {**made, "size": _pair(size)} if _pair(size) else made


TRANSFORMERS = ModelFamily(build_transformers, describe_transformers)


def _is_model(kind: Any, transformers: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)


def _build_config(transformers: Any, kind: Any, request: ModelRequest) -> Any:
    """Build the model's config: ``args``, then values of the data, then the defaults of source or class."""
    spec, where, base = request.spec, request.where, request.base
    args = {key: value for key, value in spec.args.items() if key not in ("source", "model_type", "num_classes")}
    source, model_type = spec.args.get("source"), spec.args.get("model_type")
    own = getattr(kind, "config_class", None)
    known = transformers.CONFIG_MAPPING.keys()
    fault = None
    if spec.pretrained and source is None:
        hint = "a folder that save_pretrained wrote, or a name on the hub"
        fault = Fault(f"{where}.args.source", "pretrained = true needs a source", hint)
    elif source is None and own is None and model_type is None:
        hint = 'model_type = "vit", or source = "FOLDER"'
        fault = Fault(f"{where}.args", f"{kind.__name__} needs model_type or source", hint)
    elif model_type is not None and model_type not in known:
        fault = Fault(f"{where}.args.model_type", f"unknown model type {model_type!r}", did_you_mean(model_type, known))
    raise_faults([fault] if fault else [])

    def make(**keys: Any) -> Any:
        try:
            if source is not None:
                return _read_cached_first(transformers.AutoConfig.from_pretrained, _find_source(source, base), **keys)
            return own(**keys) if own is not None else transformers.AutoConfig.for_model(model_type, **keys)
        except OSError as error:
            raise _make_source_error(spec, where, error) from error
        except Exception as error:
            raise StillhouseError(_join_lines(error), where=f"{where}.args") from error

    plain = make()
    fields = [key for key in vars(plain) if not key.startswith("_")] + ["num_labels"]
    # A config takes any key and keeps it without effect.
    raise_faults(
        Fault(f"{where}.args.{key}", f"{type(plain).__name__} has no {key!r}", did_you_mean(key, fields))
        for key in args
        if key not in fields
    )
    shape = request.info.input_shape
    if len(shape) == 3:
        size = shape[1] if shape[1] == shape[2] else list(shape[1:])
        args = {**{k: v for k, v in (("num_channels", shape[0]), ("image_size", size)) if k in fields}, **args}
    args.setdefault("num_labels", spec.args.get("num_classes", request.info.classes))
    return make(**args)


def _read_cached_first(read: Callable[..., Any], source: str, **keys: Any) -> Any:
    """Read from a folder or the cache, else from the hub, which takes half a minute to fail without a connection.

    Code that lies there is not run, nor does transformers ask whether it may.
    """
    try:
        return read(source, local_files_only=True, trust_remote_code=False, **keys)
    except OSError:
        return read(source, trust_remote_code=False, **keys)


def _find_source(given: str, base: Path | None) -> str:
    """Return the folder beside the recipe of that name, where there is one; else the name, for the hub."""
    folder = find_path(given, base)
    return str(folder) if folder.is_dir() else given


def _make_source_error(spec: ModelSpec, where: str, error: OSError) -> StillhouseError:
    return StillhouseError(
        f"{spec.args.get('source')!r} cannot be read: {_join_lines(error)}",
        where=f"{where}.args.source",
        hint="a folder that save_pretrained wrote, or a name on the hub and a connection to it; "
        "HF_HUB_OFFLINE=1 reads the cache alone, without waiting",
    )


def _join_lines(error: Exception) -> str:
    """Join an error's lines to one of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
