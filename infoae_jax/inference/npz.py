"""A trained model as an .npz file: every variable by name, and description.json as one more member of the archive.

`infoae_jax.load` reads it, and so does anything that reads NumPy's files. Variables are float32, float16, or (`int8`)
large kernels as int8 and the rest float16. Such a kernel has a scale for each output channel, of its own in each layer
of a stack and at each place of a convolution: its values are `int8 * scale[..., None, :]`.

The file holds no Python objects, and reading it makes none: no pickle, no code. Its checksum finds damage; it is not a
signature.
"""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from infoae_jax.arrays import Signature, npz_signatures, read_array
from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.inference.description import DESCRIPTION_FILE, Bundle, describe, from_json, to_json
from infoae_jax.inference.model import Model
from infoae_jax.inference.styles import MAX_LATENTS, StyleBank, checked_bank
from infoae_jax.models.autoencoder import InfoAutoencoder, build, variable_shapes
from infoae_jax.runs.folder import parse_record
from infoae_jax.types import Json, Variables

Dtype: TypeAlias = Literal["float32", "float16", "int8"]
Arrays: TypeAlias = Mapping[str, np.ndarray]
_COLLECTIONS = "params/", "constants/"
_TRAINING_ONLY = "/adversary/", "/alignment_helpers/"  # networks that are not exported
_SCALE = "/kernel/scale"
_FLOATS = "float32", "float16"
_EXTRAS = {  # arrays beside the variables, and their types
    "styles/z": _FLOATS,
    "styles/labels": ("int32",),
    "examples/images": ("uint8",),
    "examples/labels": ("int32",),
}
MAX_EXAMPLES = 10_000
MAX_BYTES = 2**30  # of all arrays
_MAX_DESCRIPTION_BYTES = 2**24
_MIN_INT8_SIZE = 4096  # entries; in smaller kernels int8 saves little for its error


def write_npz(out: Path, bundle: Bundle, dtype: Dtype = "float32") -> None:
    """Writes the model without the networks that only train it; the same model always gives the same bytes.

    Args:
      out: the file; folders on the way to it are made.
      bundle: whose `extras` are written too.
      dtype: of the parameters; floats among `bundle.extras` follow it, down to float16.

    Raises:
      UserError: if a value does not fit into float16, or the file would be too large to be read.
    """
    named = {name: np.asarray(v, np.float32) for name, v in _exported(bundle.model.variables).items()}
    stored = {k: v for name, values in (named | bundle.extras).items() for k, v in _encoded(name, values, dtype)}
    if (size := sum(values.nbytes for values in stored.values())) > MAX_BYTES:
        raise UserError(
            f"The model has {size / 1e6:,.0f} MB, but an export at most {MAX_BYTES / 1e6:,.0f}. Use a smaller dtype."
        )
    description = describe(bundle, "variables by name; a kernel stored as int8 is int8 * scale[..., None, :]")
    description["arrays"] = {name: {"shape": list(v.shape), "dtype": str(v.dtype)} for name, v in stored.items()}
    description["sha256"] = _checksum(description, stored)
    files = {DESCRIPTION_FILE: to_json(description)} | {f"{name}.npy": _npy(values) for name, values in stored.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():  # dated 1980, so that the bytes depend on nothing but the content
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue())


def read_npz(path: str | Path) -> Bundle:
    """Reads what `write_npz` wrote. Parameters come as float32.

    Raises:
      UserError: if it is no such file, is damaged, or has another format.
    """
    with _naming_damage(path):
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            signatures = npz_signatures(archive, MAX_BYTES)
            if (size := archive.getinfo(DESCRIPTION_FILE).file_size) > _MAX_DESCRIPTION_BYTES:
                raise ValueError(f"its {DESCRIPTION_FILE} has {size / 1e6:,.0f} MB")
            with archive.open(DESCRIPTION_FILE) as member:
                description = from_json(member.read(size))  # without `size`, more might be unpacked than it says
            info = parse_record(description["run"], path)
            module = build(info.config.model, info.image_shape, len(info.class_names), info.config.train.dtype)
            _check_signatures(signatures, module)  # before any array takes memory
            stored = {name: read_array(archive, name) for name in signatures}
        if _checksum({k: v for k, v in description.items() if k != "sha256"}, stored) != description["sha256"]:
            raise ValueError("its checksum does not match its content")
        arrays = {name: _decoded(name, stored) for name in stored if not name.endswith(_SCALE)}
        variables = {k: jnp.asarray(v) for k, v in arrays.items() if k.startswith(_COLLECTIONS)}
        if wrong := [name for name in variables if not np.isfinite(arrays[name]).all()]:
            raise ValueError(f"{wrong[0]} holds values that are infinite or not a number")
        extras = {name: values for name, values in arrays.items() if not name.startswith(_COLLECTIONS)}
        bank = _style_bank(extras, module)
        _check_examples(extras, module)
    variables = unflatten_dict(variables, sep="/")
    model = Model(module, variables, info, bank, description["step"])
    return Bundle(model, description["run"], extras, description["figures"])


@contextlib.contextmanager
def _naming_damage(path: str | Path) -> Iterator[None]:
    """Turns errors in the block into a `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damage shows in many ways
        kind = "a file of `infoae export --to npz`"
        raise UserError(f"{str(path)!r} is damaged, or not {kind} ({error}). Export it again.") from error


def _check_signatures(found: Mapping[str, Signature], module: InfoAutoencoder) -> None:
    """Raises `ValueError` unless the arrays are those that `write_npz` writes for this model."""
    shapes = {name: v.shape for name, v in _exported(variable_shapes(module)).items()}
    scaled = [name for name in shapes if name.endswith("/kernel") and f"{name}/scale" in found]
    shapes |= {f"{name}/scale": (*shapes[name][:-2], shapes[name][-1]) for name in scaled}
    given = {name: f.shape for name, f in found.items() if name not in _EXTRAS}
    if shapes != given:
        name = min(shapes.items() ^ given.items())[0]
        raise ValueError(f"{name} is {given.get(name)}, but must be {shapes.get(name)}")
    rows: dict[str, tuple[int, ...]] = {"styles/z": (module.bottleneck,), "examples/images": module.image_shape}
    for name, (shape, dtype) in found.items():
        dtypes = _EXTRAS.get(name, ("int8",) if f"{name}/scale" in found else _FLOATS)
        most = MAX_LATENTS if name.startswith("styles/") else MAX_EXAMPLES
        fits = name not in _EXTRAS or (shape[1:] == rows.get(name, ()) and shape[:1] <= (most,))
        if not fits or str(dtype) not in dtypes:
            raise ValueError(f"{name} are {dtype}{list(shape)}, which do not fit its model")


def _encoded(name: str, values: np.ndarray, dtype: Dtype) -> list[tuple[str, np.ndarray]]:
    """The arrays that stand for `values` in the file, with their names."""
    is_large_kernel = values.size >= _MIN_INT8_SIZE and name.startswith(_COLLECTIONS) and name.endswith("/kernel")
    if dtype == "int8" and is_large_kernel:
        largest = np.abs(values).max(axis=-2)
        scale = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
        return [(name, np.rint(values / scale[..., None, :]).astype(np.int8)), (f"{name}/scale", scale)]
    if dtype == "float32" or values.dtype != np.float32:
        return [(name, values)]
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UserError(f"{name} has values that float16 cannot hold. Export with --dtype=float32.")
    return [(name, halves)]


def _decoded(name: str, stored: Arrays) -> np.ndarray:
    values, scale = stored[name], stored.get(f"{name}/scale")
    if scale is not None:
        return values * scale[..., None, :]
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(values, order="C"), allow_pickle=False)
    return buffer.getvalue()


def _checksum(description: Json, stored: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(stored):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(stored[name]).data)
    return digest.hexdigest()


def _exported(variables: Variables) -> dict[str, Any]:
    """Variables by name, with slashes."""
    flat = flatten_dict(variables, sep="/")
    return {name: v for name, v in flat.items() if not any(part in name for part in _TRAINING_ONLY)}


def _style_bank(extras: Arrays, module: InfoAutoencoder) -> StyleBank | None:
    if not {"styles/z", "styles/labels"} <= extras.keys():
        return None
    return checked_bank(extras["styles/z"], extras["styles/labels"], module.bottleneck, module.num_classes)


def _check_examples(extras: Arrays, module: InfoAutoencoder) -> None:
    if {"examples/images", "examples/labels"} <= extras.keys():
        labels = extras["examples/labels"]
        if len(labels) != len(extras["examples/images"]) or not np.isin(labels, np.arange(module.num_classes)).all():
            raise ValueError("its examples have classes that do not fit its model")
