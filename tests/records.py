"""An evaluation as its file has it, with made-up figures."""

from infoae_jax.evaluation.record import FORMAT

STROKES = ("slant", "thickness", "area", "length", "width", "height", "intensity")
RECORD = {
    "format": FORMAT,
    "protocol": {"name": "quick"},
    "step": 12,
    "data": {"name": "mnist", "train": 100, "test": 1500},
    "class_names": ["nought", "one"],
    "bottleneck": 16,
    "figures": {
        "leakage": {
            "probe_accuracy": 0.8123,
            "best_probe": "mlp_512",
            "protocol": "folds_at_random",
            "chance": 0.1135,
            "information_bits": 2.1,
            "training_codes_accuracy": 0.85,
            "entropy_bits": 3.3,
            **{
                kind: dict.fromkeys(("linear", "knn_10", "mlp_256", "mlp_512"), 0.5)
                for kind in ("fitted_on_training_codes", "folds_at_random", "split_of_training_codes")
            },
            "highest": {"fitted_on_training_codes": 0.5, "folds_at_random": 0.8123},
            "interval": {"fitted_on_training_codes": [0.4, 0.6], "folds_at_random": [0.79, 0.83]},
        },
        "reconstruction": {"mse": 0.01234, "psnr": 20.5, "ssim": 0.9, "mse_increase_with_other_latent": 0.02},
        "content": {"content_accuracy": 0.98},
        "transfer": {
            "transfer_accuracy": 0.97,
            "by_class": [0.9, 0.99],
            "judge_accuracy": [0.99] * 3,
            "judge_threshold": 0.993,
        },
        "style": {
            "correlation": {**dict.fromkeys(STROKES, 0.91), "width": None},
            "ceiling": {**dict.fromkeys(STROKES, 0.99), "width": 0.9},
            "swaps_without_stroke": 3,
        },
        "composition": {"l1_after_1": 8.7, "l1_after_10": 15.0, "accuracy_after_10": 0.97},
        "reversibility": {"mse": 0.02, "r2": 0.9, "blurred_mse": 0.03, "blurred_r2": None},
    },
    "left_out": {"counterfactual": "only for <rendered>"},
    "untrusted": ["transfer"],
    "environment": {"code": {"commit": "abc"}},
    "cost": {"encode_images_per_s": 1000.0, "decode_images_per_s": 900.0, "device": "2 x cpu", "parameters": 12345},
}
