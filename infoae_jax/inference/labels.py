"""Classes as people give them, by number or name, as labels: positions in the list of classes."""

import os
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from infoae_jax.errors import UserError
from infoae_jax.images.pixels import is_float

ClassesLike: TypeAlias = object  # a class by number or name, or a list or array of several


def as_labels(content: ClassesLike, class_names: Sequence[str], what: str) -> Int[np.ndarray, " n"] | None:
    """Labels of the classes given, or None for anything else, which may be images; `what` is its name in errors.

    A number, also as text, is the class of that name. It is a position only where no class has another number for a
    name.

    Raises:
      UserError: for a number or name that is neither a class nor a file, a list with both classes and images, one-hot
        rows, or a row or column of anything but numbers and names.
    """
    known = f"Classes: {', '.join(class_names[:20])}" + (", ..." if len(class_names) > 20 else "")
    if isinstance(content, str) and content not in class_names:
        if content.isdecimal() and len(content) < 16:
            content = int(content)
        elif content and os.path.exists(content):
            return None
        else:
            raise UserError(f"{what} is {content!r}, which is neither a class nor a file. {known}.")
    if isinstance(content, str):
        return np.array([class_names.index(content)], np.int32)
    if isinstance(content, int | np.integer) and not isinstance(content, bool):
        return np.array([_position(int(content), class_names, what, known)], np.int32)
    if hasattr(content, "__array__") and hasattr(content, "dtype"):
        array = np.asarray(content)
        if _is_one_hot(array, len(class_names)):
            raise UserError(f"{what} has a column for each class, but must be classes. Give its argmax(axis=1).")
        if array.ndim <= 1 or array.shape[1:] == (1,):
            if array.dtype.kind not in "iuUTO":
                raise UserError(f"{what} is {array.dtype}{list(array.shape)}, but classes are whole numbers or names.")
            content = array.ravel().tolist()
    if isinstance(content, list | tuple | range):
        each = [as_labels(item, class_names, f"{what}[{i}]") for i, item in enumerate(content)]
        labels = [found for found in each if found is not None]
        if labels and len(labels) < len(each):
            raise UserError(f"{what} holds both classes and images. Give only one kind.")
        for i, found in enumerate(labels):
            if len(found) != 1:
                raise UserError(
                    f"{what}[{i}] holds {len(found)} numbers, but must be one class: of one-hot, the argmax."
                )
        return np.concatenate(labels) if labels else None
    return None


def labels_for(
    count: int, classes: ClassesLike, class_names: Sequence[str], what: str, items: str
) -> Int[np.ndarray, " {count}"]:
    """As `as_labels`, of a class for each of `count` items or one for all; anything else is an error."""
    labels = as_labels(classes, class_names, what)
    if labels is None or len(labels) not in (1, count):
        raise UserError(f"{what} must be one class for each of the {count} {items}, or one for all.")
    return np.resize(labels, count)


def _position(number: int, class_names: Sequence[str], what: str, known: str) -> int:
    if str(number) in class_names:
        return class_names.index(str(number))
    last = len(class_names) - 1
    numbers = [(i, int(name)) for i, name in enumerate(class_names) if re.fullmatch(r"-?\d{1,15}", name)]
    if any(i != named for i, named in numbers):
        found = [i for i, named in numbers if named == number]  # 7 may be called "07"
        if len(found) != 1:
            raise UserError(f"{what} is {number}, but {len(found) or 'no'} classes have this name. {known}.")
        return found[0]
    if not 0 <= number <= last:
        raise UserError(f"{what} is {number}, but classes are numbered 0 to {last}. {known}.")
    return number


def _is_one_hot(array: np.ndarray, num_classes: int) -> bool:
    """Whether rows are one-hot or probabilities. Of an image, all rows of pixels would add up to 1."""
    if array.ndim != 2 or array.shape[1] != num_classes or not (array.dtype.kind in "biu" or is_float(array.dtype)):
        return False
    rows = array.astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-2))
