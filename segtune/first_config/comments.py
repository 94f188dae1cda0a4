"""The comments of a first config and a first study: what a value is for, when to change it."""

from __future__ import annotations

from collections.abc import Sequence

CONFIG_COMMENTS = {
    "data.train": "Lists that segtune init has written: an image and its mask in each line, "
    "relative to root.",
    "data.classes": "In the order of the labels. Rename them as you like; the order must stay.",
    "data.label_map": "The label of each value in the masks.",
    "data.palette": "The colour of each class in the masks. Colours of names that are no class are "
    "ignored.",
    "data.reduce_zero_label": "The value 0 in the masks is ignored, and the first class has the "
    "value 1.",
    "data.resize": "Long side and short side that images are scaled to fit into. Larger: small "
    "things are found better, and a step takes longer.",
    "data.crop": "Height and width of the part of an image that a training step sees.",
    "augment.ratio": "Each training image is scaled by a random factor of this range.",
    "augment.flip": "Probability of a horizontal flip. 0 if left and right differ, as in text.",
    "augment.photometric": "Random brightness, contrast, saturation and hue. false if colour alone "
    "tells classes apart.",
    "model.encoder": "mit_b0 is the smallest of the paper's encoders, mit_b5 the largest.",
    "model.weights": "ImageNet weights of the encoder: a file, a folder, or nvidia/mit-b0 of the "
    "Hugging Face hub (needs a network; NVIDIA's licence is for non-commercial use). null: random "
    "weights, which need more images and epochs. With weights, set optim.lr to 6e-5 and "
    "optim.head_lr_mult to 10.",
    "loss": "Cross-entropy alone. The study searches what focal loss and Dice add to it.",
    "optim.lr": "Learning rate at its peak. The study searches around it.",
    "optim.head_lr_mult": "Learning rate of the decode head divided by that of the encoder.",
    "schedule.epochs": "Passes over the training images.",
    "schedule.batch_size": "Images per step. If memory runs out, halve it, or raise "
    "schedule.accumulate.",
    "schedule.warmup_epochs": "The learning rate rises to its peak in this time.",
    "schedule.val_every": "Epochs between validations. A search decides at validations.",
    "checkpoint.every": "Epochs between checkpoints.",
    "health.stuck_steps": "This network begins to learn within two epochs, which are 80 steps.",
}
STUDY_COMMENTS = {
    "config": "Trial 0 is this config as it is. The best trial is compared with it.",
    "space": "What varies. The ranges are those of search_spaces/loss_weights.yaml. A prior is a "
    "value that is believed to be good: some trials are drawn near it.",
    "search.trials": "Stops after this number of trials. budget: {hours: 8} is another limit.",
}


def config_head(lines: Sequence[str], machine: str) -> str:
    """Return the comment at the top of a config: what was found, and for which machine it is."""
    first = f"Written by segtune init for a machine with {machine}. What it found:"
    return "\n".join([first, *(line.strip() for line in lines)])


def study_head(config: str) -> str:
    """Return the comment at the top of a study."""
    return f"Which loss and which learning rate suit {config}? Written by segtune init."
