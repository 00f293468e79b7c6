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

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.inference.description import (
    DESCRIPTION,
    FORMAT,
    TRAINING_ONLY,
    check_format,
    describe_images,
    digest,
    to_json,
    without_paths,
)
from infoae_jax.models.autoencoder import InfoAutoencoder, build
from infoae_jax.runs.folder import RunInfo, parse_record
from infoae_jax.runs.provenance import environment

_PARAMS = "params/"
_LARGE = 4096  # entries; smaller arrays are not worth int8's error
_MOST_DESCRIPTION = 1 << 24  # bytes


class NpzModel(NamedTuple):
    """What an .npz file holds: the model, what else was put in (by name), and the description."""

    model: InfoAutoencoder
    variables: dict[str, Any]
    info: RunInfo
    extras: dict[str, np.ndarray]
    description: dict[str, Any]


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
    plain = {k: v for k, v in variables["params"].items() if k != TRAINING_ONLY}
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
        "format": FORMAT,
        "what": "infoae_jax: parameters by name; a kernel stored as int8 is int8 * scale",
        "images": describe_images(model),
        "classes": list(run["data"]["class_names"]),
        "latent": {"size": model.bottleneck, "kind": model.latent},
        "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in stored.items()},
        "run": without_paths(run),
        "exported_by": environment(),
        **(about or {}),
    }
    description["sha256"] = digest(description, stored)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in [(DESCRIPTION, to_json(description)), *((f"{n}.npy", _npy(a)) for n, a in stored.items())]:
            member = zipfile.ZipInfo(name)  # dated 1980, so that the bytes depend on nothing but the content
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data)
    _write(out, buffer.getvalue())


def read_npz(path: str | Path) -> NpzModel:
    """Reads what `write_npz` wrote. Parameters come as float32; the adversary's are not there.

    Raises:
      UserError: if it is no such file, is damaged, or was written by a newer version of this package.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            description = _read_description(archive, path)
            stored = {name: _read_array(archive, name, how) for name, how in description["arrays"].items()}
        if digest({k: v for k, v in description.items() if k != "sha256"}, stored) != description["sha256"]:
            raise ValueError("its checksum is another one")
        info = parse_record(description["run"], path)
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
    return NpzModel(model, {"params": unflatten_dict(params)}, info, extras, description)


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
    if archive.getinfo(DESCRIPTION).file_size > _MOST_DESCRIPTION:
        raise ValueError("its description is too long")
    description = json.loads(archive.read(DESCRIPTION))
    check_format(description, path)
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
    wanted = {k: v.shape for k, v in flatten_dict(shapes["params"]).items() if k[0] != TRAINING_ONLY}
    found = {k: v.shape for k, v in params.items()}
    if wanted != found:
        odd = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))[0]
        raise ValueError(f"{'/'.join(odd)} is {found.get(odd)}, but must be {wanted.get(odd)}")


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _write(out: Path, data: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, data)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error}). Choose another --out.") from error
