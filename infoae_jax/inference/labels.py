"""Classes as people give them, by number or name, as labels."""

import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from infoae_jax.errors import UserError

ClassesLike: TypeAlias = object  # a class by number or name, or a list or array of several


def as_labels(content: ClassesLike, class_names: Sequence[str], what: str) -> Int[np.ndarray, " n"] | None:
    """Labels of the classes given, or None for anything else, which may be images; `what` is its name in errors.

    Raises:
      UserError: for a number or name that is neither a class nor a file, or a list with both classes and images.
    """
    known = f"Classes: {', '.join(class_names[:20])}" + (", ..." if len(class_names) > 20 else "")
    if isinstance(content, str):
        if content in class_names:
            return np.array([class_names.index(content)], np.int32)
        if content and os.path.exists(content):
            return None
        raise UserError(f"{what} is {content!r}, which is neither a class nor a file. {known}.")
    if isinstance(content, int | np.integer) and not isinstance(content, bool):
        if not 0 <= content < len(class_names):
            raise UserError(f"{what} is {content}, but classes are numbered 0 to {len(class_names) - 1}. {known}.")
        return np.array([content], np.int32)
    if getattr(content, "ndim", 2) <= 1 and np.asarray(content).dtype.kind in "iuU":
        content = np.atleast_1d(np.asarray(content)).tolist()
    if isinstance(content, list | tuple):
        each = [as_labels(item, class_names, f"{what}[{i}]") for i, item in enumerate(content)]
        labels = [found for found in each if found is not None]
        if labels and len(labels) < len(each):
            raise UserError(f"{what} holds both classes and images. Give only one kind.")
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
