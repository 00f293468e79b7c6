"""A trained model as files that need nothing of a run folder: plain arrays, or compiled-for-anything programs.

    infoae export runs/mnist --to npz          # model.npz: every parameter by name, and description.json inside
    infoae export runs/mnist --to stablehlo    # a folder: encode, decode, transfer, classify, and description.json

npz: an ordinary .npz file, with `description.json` as one more member of the zip archive. `infoae_jax.load` reads it,
and so does anything that reads NumPy's files. Parameters are float32, float16, or (`int8`) large kernels as int8 with
a scale for each output channel, and the rest float16: the value is `int8 * scale`.

stablehlo: each function by `jax.export`, parameters inside, for any batch size, on CPU, CUDA and TPU. JAX alone runs
it (`read_stablehlo`), without this package's model code.

Neither holds any Python object, and none is made from what is read: no pickle, no code. Both bear a checksum, which
finds damage; it is no signature.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from infoae_jax import runlog
from infoae_jax.errors import UserError
from infoae_jax.model import InfoAutoencoder, build

PLATFORMS = ("cpu", "cuda", "tpu")
FUNCTIONS = ("encode", "decode", "transfer", "classify")

_FORMAT = 1
_DESCRIPTION = "description.json"
_PARAMS = "params/"
_TRAINING_ONLY = "adversary"  # no function above uses it
_LARGE = 4096  # entries; smaller arrays are not worth int8's error
_MOST_DESCRIPTION = 1 << 24  # bytes
_HARMLESS_CALLS = ("shape_assertion",)  # what symbolic batches need; any other could call into the process


class Saved(NamedTuple):
    """What an .npz file holds: the model, what else was put in (by name), and the description."""

    model: InfoAutoencoder
    variables: dict[str, Any]
    info: runlog.RunInfo
    extras: dict[str, np.ndarray]
    description: dict[str, Any]


# --- Plain arrays -----------------------------------------------------------------------------------------------------


def write_npz(
    out: Path,
    model: InfoAutoencoder,
    variables: Mapping[str, Any],
    run: Mapping[str, Any],
    dtype: str = "float32",
    extras: Mapping[str, np.ndarray] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes parameters (without the adversary's) and `extras`; the same ones always give the same bytes.

    Args:
      run: the record of the run's config.json, which says how the model is built.
      dtype: 'float32', 'float16' or 'int8' (see the module). Floats among `extras` follow it, down to float16.
      extras: further arrays by name, for instance latents.
      about: more to put into the description.

    Raises:
      UserError: if a value does not fit into float16, or the file cannot be written.
    """
    plain = {k: v for k, v in variables["params"].items() if k != _TRAINING_ONLY}
    named = {_PARAMS + k: np.asarray(v, np.float32) for k, v in flatten_dict(plain, sep="/").items()}
    stored: dict[str, np.ndarray] = {}
    for name, values in (named | dict(extras or {})).items():
        large = values.size >= _LARGE and name.endswith("/kernel")
        if dtype == "int8" and large and name in named:
            stored[name], stored[f"{name}/scale"] = _quantised(values)
        elif dtype != "float32" and values.dtype == np.float32:
            with np.errstate(over="ignore"):
                stored[name] = values.astype(np.float16)
            if not np.isfinite(stored[name]).all():
                raise UserError(f"{name} has values that float16 cannot hold. Export with --dtype=float32.")
        else:
            stored[name] = values
    description = {
        "format": _FORMAT,
        "what": "infoae_jax: parameters by name; a kernel stored as int8 is int8 * scale",
        "images": _images(model),
        "classes": list(run["data"]["class_names"]),
        "latent": {"size": model.bottleneck, "kind": model.latent},
        "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in stored.items()},
        "run": _without_paths(run),
        "exported_by": runlog.environment(),
        **(about or {}),
    }
    description["sha256"] = _digest(description, stored)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in [(_DESCRIPTION, _as_json(description)), *((f"{n}.npy", _npy(a)) for n, a in stored.items())]:
            member = zipfile.ZipInfo(name)  # dated 1980, so that the bytes depend on nothing but the content
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data)
    _write(out, buffer.getvalue())


def read_npz(path: str | Path) -> Saved:
    """Reads what `write_npz` wrote. Parameters come as float32; the adversary's are not there.

    Raises:
      UserError: if it is no such file, is damaged, or was written by a newer version of this package.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            description = _read_description(archive, path)
            stored = {name: _read_array(archive, name, how) for name, how in description["arrays"].items()}
        if _digest({k: v for k, v in description.items() if k != "sha256"}, stored) != description["sha256"]:
            raise ValueError("its checksum is another one")
        info = runlog.parse_record(description["run"])
        model = build(info.config.model, info.image_shape, len(info.class_names), info.config.train.dtype)
        values = {name: _restored(name, stored) for name in stored if not name.endswith("/kernel/scale")}
        extras = {name: value for name, value in values.items() if not name.startswith(_PARAMS)}
        params = {tuple(n.split("/")[1:]): jnp.asarray(v) for n, v in values.items() if n.startswith(_PARAMS)}
        _check_parameters(model, params)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {str(path)!r}.") from error
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, RecursionError),
    ) as error:
        reason = "not a zip archive" if isinstance(error, zipfile.BadZipFile) and not _is_zip(path) else error
        raise UserError(
            f"{str(path)!r} is damaged, or not a file of `infoae export --to npz` ({reason}). Export it again."
        ) from error
    return Saved(model, {"params": unflatten_dict(params)}, info, extras, description)


def _quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8, and the float32 scale of each output channel (the last axis)."""
    axes = tuple(range(values.ndim - 1))
    scale = np.maximum(np.abs(values).max(axes) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _restored(name: str, stored: Mapping[str, np.ndarray]) -> np.ndarray:
    values = stored[name]
    if values.dtype == np.int8 and f"{name}/scale" in stored:
        return values * stored[f"{name}/scale"]
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def _read_description(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    if archive.getinfo(_DESCRIPTION).file_size > _MOST_DESCRIPTION:
        raise ValueError("its description is too long")
    description = json.loads(archive.read(_DESCRIPTION))
    _check_format(description, path)
    return description


def _read_array(archive: zipfile.ZipFile, name: str, how: Mapping[str, Any]) -> np.ndarray:
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > np.dtype(how["dtype"]).itemsize * int(np.prod(how["shape"], dtype=object)) + 1024:
        raise ValueError(f"{name} is longer than the description says")
    with archive.open(member) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # also makes the archive check its sum of the member
            raise ValueError(f"{name} is longer than its header says")
    if list(values.shape) != how["shape"] or str(values.dtype) != how["dtype"]:
        raise ValueError(f"{name} is {values.dtype}{list(values.shape)}, not what the description says")
    return values


def _check_parameters(model: InfoAutoencoder, params: Mapping[tuple[str, ...], Any]) -> None:
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, *model.image_shape)), jnp.zeros(1, jnp.int32))
    )
    wanted = {k: v.shape for k, v in flatten_dict(shapes["params"]).items() if k[0] != _TRAINING_ONLY}
    found = {k: v.shape for k, v in params.items()}
    if wanted != found:
        odd = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))[0]
        raise ValueError(f"{'/'.join(odd)} is {found.get(odd)}, but must be {wanted.get(odd)}")


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


# --- Programs ---------------------------------------------------------------------------------------------------------


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
        "format": _FORMAT,
        "what": "infoae_jax: functions by jax.export, parameters inside; jax.export.deserialize(bytes).call(...)",
        "platforms": PLATFORMS,
        "images": {**_images(model), "dtype": "float32"},
        "labels": f"int32, 0 .. {model.num_classes - 1}: index into classes",
        "classes": list(run["data"]["class_names"]),
        "latent": {"size": model.bottleneck, "kind": model.latent},
        "functions": functions,
        "run": _without_paths(run),
        "exported_by": runlog.environment(),
    }
    contents = {f"{name}.stablehlo": data for name, data in files.items()} | {_DESCRIPTION: _as_json(description)}
    _write_folder(out, contents, force)


def read_stablehlo(folder: str | Path) -> dict[str, Callable[..., jax.Array]]:
    """The functions of such a folder by name, jitted. Shapes and ranges are in its description.json.

    Raises:
      UserError: if it is no such folder, is damaged, or a program in it calls anything but XLA's own operations.
    """
    folder = Path(folder)
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        _check_format(description, folder)
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


# --- Descriptions and files -------------------------------------------------------------------------------------------


def _images(model: InfoAutoencoder) -> dict[str, Any]:
    height, width, channels = model.image_shape
    return {
        "shape": [height, width, channels],
        "range": "0 .. 1; what is decoded is not clipped to it",
        "channels": "grey" if channels == 1 else "RGB",
    }


def _without_paths(run: Mapping[str, Any]) -> dict[str, Any]:
    """The record of config.json without the folders of whoever trained."""
    config = {**run["config"], "data": {**run["config"]["data"], "cache_dir": ""}}
    config["data"]["dir"] = "images" if config["data"]["name"] == "folder" else ""  # a folder must have one
    return {**run, "config": config}


def _check_format(description: Mapping[str, Any], path: Path) -> None:
    if description["format"] > _FORMAT:
        raise UserError(f"{str(path)!r} was written by a newer version of this package. Use that one to read it.")


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _digest(description: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(stored):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(stored[name]).data)
    return digest.hexdigest()


def _write(out: Path, data: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        runlog.write_atomically(out, data)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error}). Choose another --out.") from error


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
