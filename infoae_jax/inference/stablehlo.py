"""A trained model as a folder of programs that need nothing but JAX: functions by `jax.export`, parameters inside.

The programs take any batch size and run on CPU, CUDA and TPU; `jax.export.deserialize` reads them.
"""

import functools
from pathlib import Path

import jax
from jax import export as jax_export

from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.inference.description import DESCRIPTION_FILE, Bundle, describe, to_json

PLATFORMS = ("cpu", "cuda", "tpu")
FUNCTIONS = {  # the arguments and the result of each
    "encode": (("images",), "latents"),
    "decode": (("latents", "labels"), "images"),
    "transfer": (("style_images", "labels"), "images"),
    "classify": (("images",), "logits"),
}


def write_stablehlo(out: Path, bundle: Bundle) -> None:
    """Writes a folder with `encode.stablehlo` and the others of `FUNCTIONS`, and a description.

    Raises:
      UserError: if the folder holds anything but an earlier export, which is replaced.
    """
    module = bundle.model.module
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *module.image_shape), "float32")
    latents = jax.ShapeDtypeStruct((batch, module.bottleneck), "float32")
    labels = jax.ShapeDtypeStruct((batch,), "int32")
    logits = jax.ShapeDtypeStruct((batch, module.num_classes), "float32")
    specs = {"images": images, "style_images": images, "latents": latents, "labels": labels, "logits": logits}
    signatures = {name: {"dtype": str(s.dtype), "shape": ["batch", *s.shape[1:]]} for name, s in specs.items()}
    files, functions = {}, {}
    for name, (takes, gives) in FUNCTIONS.items():
        call = jax.jit(functools.partial(module.apply, bundle.model.variables, method=name))
        exported = jax_export.export(call, platforms=PLATFORMS)(*(specs[argument] for argument in takes))
        files[f"{name}.stablehlo"] = bytes(exported.serialize())
        functions[name] = {
            "file": f"{name}.stablehlo",
            "takes": {argument: signatures[argument] for argument in takes},
            "gives": {gives: signatures[gives]},
        }
    usage = "functions by jax.export, parameters inside; jax.export.deserialize(bytes).call(...)"
    description = describe(bundle, usage) | {"platforms": PLATFORMS, "functions": functions}
    description["images"]["dtype"] = "float32"
    description["labels"] = f"int32, 0 to {module.num_classes - 1}: index into classes"
    files[DESCRIPTION_FILE] = to_json(description)
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= files.keys()):
        raise UserError(f"{str(out)!r} holds more than an earlier export. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(out / name, data)
