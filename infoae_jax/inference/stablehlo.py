"""A trained model as StableHLO programs."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from infoae_jax.errors import UserError
from infoae_jax.inference.description import DESCRIPTION, FORMAT, check_format, describe_images, to_json, without_paths
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.provenance import environment

PLATFORMS = ("cpu", "cuda", "tpu")
FUNCTIONS = ("encode", "decode", "transfer", "classify")
_HARMLESS_CALLS = ("shape_assertion",)  # what symbolic batches need; any other could call into the process


def write_stablehlo(
    out: Path, model: InfoAutoencoder, variables: Mapping[str, Any], run: Mapping[str, Any], force: bool = False
) -> None:
    """Writes a folder with `encode.stablehlo` and the others of `FUNCTIONS`, and a description.

    Raises:
      UserError: if the folder exists (unless `force`, and it holds such an export), or cannot be written.
    """
    image = jnp.float32, model.image_shape
    label, latent, logits = (jnp.int32, ()), (jnp.float32, (model.bottleneck,)), (jnp.float32, (model.num_classes,))
    signatures: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "encode": ({"images": image}, {"latents": latent}),
        "decode": ({"latents": latent, "labels": label}, {"images": image}),
        "transfer": ({"style_images": image, "labels": label}, {"images": image}),
        "classify": ({"images": image}, {"logits": logits}),
    }
    (batch,) = jax_export.symbolic_shape("batch")
    files, functions = {}, {}
    for name in FUNCTIONS:
        takes, gives = signatures[name]
        arguments = [jax.ShapeDtypeStruct((batch, *shape), dtype) for dtype, shape in takes.values()]
        call = jax.jit(lambda *rows, name=name: model.apply(variables, *rows, method=name))
        files[name] = bytes(jax_export.export(call, platforms=PLATFORMS)(*arguments).serialize())
        functions[name] = {
            "file": f"{name}.stablehlo",
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "takes": {k: _signature(*v) for k, v in takes.items()},
            "gives": {k: _signature(*v) for k, v in gives.items()},
        }
    description = {
        "format": FORMAT,
        "what": "infoae_jax: functions by jax.export, parameters inside; jax.export.deserialize(bytes).call(...)",
        "platforms": PLATFORMS,
        "images": {**describe_images(model), "dtype": "float32"},
        "labels": f"int32, 0 .. {model.num_classes - 1}: index into classes",
        "classes": list(run["data"]["class_names"]),
        "latent": {"size": model.bottleneck, "kind": model.latent},
        "functions": functions,
        "run": without_paths(run),
        "exported_by": environment(),
    }
    contents = {f"{name}.stablehlo": data for name, data in files.items()} | {DESCRIPTION: to_json(description)}
    _write_folder(out, contents, force)


def read_stablehlo(folder: str | Path) -> dict[str, Callable[..., jax.Array]]:
    """The functions of such a folder by name, jitted. Shapes and ranges are in its description.json.

    Raises:
      UserError: if it is no such folder, is damaged, or a program in it calls anything but XLA's own operations.
    """
    folder = Path(folder)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        check_format(description, folder)
        contents = {name: (folder / f"{name}.stablehlo").read_bytes() for name in FUNCTIONS}
        for name, data in contents.items():
            if hashlib.sha256(data).hexdigest() != description["functions"][name]["sha256"]:
                raise ValueError(f"{name}.stablehlo has another checksum")
        programs = {name: jax_export.deserialize(bytearray(data)) for name, data in contents.items()}
        texts = {name: program.mlir_module() for name, program in programs.items()}
    except UserError:
        raise
    except Exception as error:  # what flatbuffers and MLIR find wrong comes in many kinds
        raise UserError(
            f"{str(folder)!r} is damaged, or not a folder of `infoae export --to stablehlo` ({error}). Export it again."
        ) from error
    for name, text in texts.items():
        harmless = re.findall(rf"custom_call @({'|'.join(_HARMLESS_CALLS)})\(", text)
        if text.count("custom_call") != len(harmless):
            raise UserError(
                f"{name}.stablehlo in {str(folder)!r} calls functions outside of its program, which no export of this "
                f"package does. It is not run."
            )
    return {name: jax.jit(program.call) for name, program in programs.items()}


def _signature(dtype: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dtype": str(jnp.dtype(dtype)), "shape": ["batch", *shape]}


def _write_folder(out: Path, contents: Mapping[str, bytes], force: bool) -> None:
    """All of it under a temporary name, then renamed."""
    if out.exists():
        ours = out.is_dir() and {path.name for path in out.iterdir()} <= contents.keys()
        if not (force and ours):
            more = ", or replace it with --force" if ours else ", as it holds more than an export does"
            raise UserError(f"{str(out)!r} exists. Choose another --out{more}.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
        try:
            for name, data in contents.items():
                (temporary / name).write_bytes(data)
            temporary.chmod(0o755)
            if out.exists():
                old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-old-"))
                os.replace(out, old)
                os.replace(temporary, out)
                shutil.rmtree(old)
            else:
                os.replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error}). Choose another --out.") from error
