"""The last steps of reading: classes as their names, and values of a kind that cannot be."""

from __future__ import annotations

import json

from segtune.mmseg.nodes import Node, Unresolved, reachable

# Variables that mmengine's runner or mmseg 0.x take as dicts only.
DICTS = (
    *("model", "data", "data_preprocessor", "train_dataloader", "val_dataloader"),
    *("test_dataloader", "optim_wrapper", "optimizer", "optimizer_config", "lr_config"),
    *("momentum_config", "runner", "train_cfg", "val_cfg", "test_cfg", "evaluation", "fp16"),
    *("checkpoint_config", "default_hooks", "env_cfg", "randomness", "auto_scale_lr"),
)
IN_LISTS = ("param_scheduler", "val_evaluator", "test_evaluator")  # a dict or a list of dicts
# Classes of torch under the names that mmcv registers them by.
# Source: mmcv/cnn/bricks/norm.py.
REGISTERED = {
    "SyncBatchNorm": "SyncBN",
    "BatchNorm2d": "BN",
    "GroupNorm": "GN",
    "LayerNorm": "LN",
}


def class_names_as_text(root: Node) -> None:
    """Replace every imported class at a key `type` by its name, as older configs write it."""
    for node in reachable(root):
        kind = node.value.get("type") if isinstance(node.value, dict) else None
        if kind and kind.unresolved and kind.unresolved.name:
            name = REGISTERED.get(kind.unresolved.name, kind.unresolved.name)
            node.value["type"] = Node(name, kind.place)


def wrong_kinds_as_unknown(root: Node) -> None:
    """Make a variable such as `train_dataloader = 5` Unresolved, with the expected kind."""
    for name in (*DICTS, *IN_LISTS):
        node = root.value.get(name)
        if node is None or node.value is None or node.unresolved:
            continue
        expected = dict | list if name in IN_LISTS else dict
        if not isinstance(node.value, expected):
            shown = "a list" if isinstance(node.value, list) else json.dumps(node.value)
            kinds = "a dict or a list of dicts" if name in IN_LISTS else "a dict"
            root.value[name] = Node(Unresolved(shown, f"expected {kinds}"), node.place)
