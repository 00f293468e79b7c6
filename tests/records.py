"""An evaluation as its file has it, with made-up figures."""

RECORD = {
    "protocol": {"name": "quick"},
    "step": 12,
    "data": {"name": "mnist", "train": 100, "test": 1500},
    "bottleneck": 16,
    "figures": {
        "leakage": {
            "probe_accuracy": 0.8123,
            "probe": "mlp_512",
            "fitted_on": "held_out",
            "chance": 0.1135,
            "bits": 2.1,
            "training_codes_accuracy": 0.85,
            "entropy_bits": 3.3,
            **{kind: {"linear": 0.5} for kind in ("train_fitted", "held_out", "training_codes")},
        },
        "reconstruction": {"mse": 0.01234, "psnr": 20.5, "ssim": 0.9, "z_used_gap": 0.02},
        "transfer": {
            "transfer_accuracy": 0.97,
            "by_class": [0.9, 0.99],
            "judge_accuracy": [0.99] * 3,
            "judge_threshold": 0.993,
        },
        "style": {"r": {"slant": 0.91, "width": None}, "ceiling": {"slant": 0.99, "width": 0.9}, "without_stroke": 3},
    },
    "left_out": {"counterfactual": "only for <rendered>"},
    "untrusted": ["transfer"],
    "environment": {"code": {"commit": "abc"}},
    "cost": {"encode_images_per_s": 1000.0, "decode_images_per_s": 900.0, "device": "2 x cpu", "parameters": 12345},
}
