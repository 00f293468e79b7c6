"""A trained model as a folder of programs that need nothing but JAX: functions by `jax.export`, parameters inside.

The programs take any batch size and run on CPU, CUDA and TPU. Their checksums find damage; they are not signatures.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jax import export as jax_export

from infoae_jax.errors import UserError
from infoae_jax.files import read_regular, user_path, write_atomically
from infoae_jax.inference.description import DESCRIPTION_FILE, Bundle, describe, from_json, naming_damage, to_json

PLATFORMS = ("cpu", "cuda", "tpu")
FUNCTIONS = {  # the arguments and the result of each
    "encode": (("images",), "latents"),
    "decode": (("latents", "labels"), "images"),
    "transfer": (("style_images", "labels"), "images"),
    "classify": (("images",), "logits"),
}
_HARMLESS_CALL = "custom_call @shape_assertion("  # needed for any batch size; other calls could reach into the process


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
        files[f"{name}.stablehlo"] = program = bytes(exported.serialize())
        functions[name] = {
            "file": f"{name}.stablehlo",
            "sha256": hashlib.sha256(program).hexdigest(),
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


def read_stablehlo(folder: str | Path) -> dict[str, Callable[..., jax.Array]]:
    """The functions of such a folder by name, jitted. Shapes and ranges are in its description.json.

    Raises:
      UserError: if it is no such folder, is damaged, or holds a program that calls anything but XLA's own operations.
    """
    folder = user_path(folder, "folder")
    with naming_damage(folder, "a folder of `infoae export --to stablehlo`"):
        description = from_json(read_regular(folder / DESCRIPTION_FILE))
        theirs, programs = description["exported_by"]["jax"], {}
        for name in FUNCTIONS:
            data = read_regular(folder / f"{name}.stablehlo")
            if hashlib.sha256(data).hexdigest() != description["functions"][name]["sha256"]:
                raise ValueError(f"the checksum of {name}.stablehlo does not match")
            with _naming_versions(folder, theirs):
                programs[name] = program = jax_export.deserialize(bytearray(data))
                text = program.mlir_module()
                if text.count("custom_call") != text.count(_HARMLESS_CALL):
                    raise UserError(f"'{folder / name}.stablehlo' calls functions outside its program. It was not run.")
                if theirs != jax.__version__:  # what can be read may still not compile
                    jax.jit(program.call).lower(*map(_of_one_image, program.in_avals)).compile()
    return {name: jax.jit(program.call) for name, program in programs.items()}


@contextlib.contextmanager
def _naming_versions(folder: Path, theirs: str) -> Iterator[None]:
    """Explains errors in the block by the version of JAX that made the export, if it is another one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if theirs == jax.__version__:
            raise
        raise UserError(
            f"{str(folder)!r} was exported by jax {theirs}, which this jax {jax.__version__} cannot use. Use that "
            f"version, or export again from the run or an .npz file, which is the format for keeping."
        ) from error


def _of_one_image(argument: jax.core.ShapedArray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *argument.shape[1:]), argument.dtype)
