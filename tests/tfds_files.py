"""Data sets as TFDS prepares them, written without TensorFlow: small, random, and with structure where it matters."""

import io
import json
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_proto
from tensorflow_datasets.proto import tf_feature_generated_pb2 as feature_proto


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, name: str, version: str, shape: tuple, splits: dict, extra_features=(), num_classes=10) -> Path:
    """Prepares `splits` (name -> (images or encoded bytes, labels)) under `root`; returns the data set's folder."""
    folder = root / name / version
    folder.mkdir(parents=True)
    infos = []
    for split, (images, labels) in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        size = 0
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = image if isinstance(image, bytes) else png(image)
            values = {
                "image": feature_proto.Feature(bytes_list=feature_proto.BytesList(value=[encoded])),
                "label": feature_proto.Feature(int64_list=feature_proto.Int64List(value=[int(label)])),
            }
            if "id" in extra_features:
                text = f"{split}_{i:06d}".encode()
                values["id"] = feature_proto.Feature(bytes_list=feature_proto.BytesList(value=[text]))
            record = example_proto.Example(features=feature_proto.Features(feature=values)).SerializeToString()
            size += len(record)
            writer.write(record)
        writer.close()
        infos.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(size),
                "shardLengths": [str(len(labels))],
            }
        )
    package = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "pythonClassName": f"{package}.image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": [str(side) for side in shape]}},
        },
        "label": {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(num_classes)},
        },
    }
    if "id" in extra_features:
        features["id"] = {"pythonClassName": f"{package}.text_feature.Text", "text": {}}
    info = {
        "name": name,
        "version": version,
        "fileFormat": "array_record",
        "splits": infos,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": f"{package}.features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    return folder


def random_split(shape: tuple, count: int, seed: int, num_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % num_classes
