"""Recipes of `experiments.translate`."""

from typing import Any

TRANSLATION: dict[str, dict[str, Any]] = {
    # The built-in dates: above 99 % exact match within three minutes of two CPU cores.
    "dates": {
        "vocabulary": "char",
        "embedding_size": 32,
        "hidden_size": 64,
        "max_length": 40,
        "buckets": 2,
        "batch_size": 64,
        "eval_batch_size": 256,
        "steps": 1000,
        "eval_every": 250,
        "optimizer": "adam",
        "learning_rate": 5e-3,
        "warmup": 50,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    },
    # Bahdanau et al. 2015, appendix B: RNNsearch-50. Five days on the English-French of WMT'14.
    "rnnsearch50": {
        "encoder": "bigru",
        "embedding_size": 620,
        "hidden_size": 1000,
        "attention_size": 1000,
        "output_size": 500,
        "initialization": "paper",
        "max_vocabulary": 30_000,
        "max_length": 51,
        "batch_size": 80,
        "epochs": 5.0,
        "optimizer": "adadelta",
        "optimizer_options": ("rho=0.95", "eps=1e-6"),
        "learning_rate": 1.0,
        "schedule": "constant",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "loss_per": "sentence",
        "beam": 12,
    },
    # Multi30k's 29,000 captions, German to English: words seen twice, Adam, dropout, smoothing.
    "multi30k": {
        "encoder": "bigru",
        "embedding_size": 256,
        "hidden_size": 512,
        "dropout_rate": 0.5,
        "lowercase": True,
        "min_count": 2,
        "max_length": 50,
        "batch_size": 128,
        "epochs": 15.0,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
    },
}
