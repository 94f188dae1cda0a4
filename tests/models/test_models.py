"""Laws of the models: sizes, weights of every naming, and errors that say what to get."""

import shutil
import socket

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from segtune.config.schema import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models.bilinear import resize, resize_by_matmul
from segtune.models.build import build_model, check_batch, sync_norms


def config(**changes):
    return ModelConfig.parse({"encoder": "mit_nano", **changes})


def upernet(encoder="convnext_atto", **changes):
    return config(name="upernet", encoder=encoder, decoder_channels=16, **changes)


@pytest.mark.parametrize(
    "model_config",
    [config(), upernet(), upernet("resnet18")],
    ids=["segformer", "convnext", "resnet"],
)
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (33, 47), (70, 90)])
def test_logits_are_a_quarter_of_the_image(model_config, size):
    model = build_model(model_config, 7).eval()
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape[:2] == (2, 7)
    assert all(abs(a - b / 4) <= 1 for a, b in zip(logits.shape[2:], size, strict=True))


def test_swin_takes_crops_of_any_size():
    model = build_model(upernet("swin_tiny_patch4_window7_224"), 3).eval()
    assert model(torch.randn(1, 3, 96, 112)).shape == (1, 3, 24, 28)
    assert model(torch.randn(1, 3, 33, 47)).shape == (1, 3, 9, 12)


@pytest.mark.parametrize("encoder", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_height_and_width_are_not_confused_where_they_equal_the_channels(encoder):
    model = build_model(upernet(encoder), 3).eval()
    side = 4 * model.channels[0]  # the map at 1/4 is as wide as it has channels
    for size in [(64, side), (side, 64)]:
        assert model(torch.randn(1, 3, *size)).shape == (1, 3, size[0] // 4, size[1] // 4)


def test_models_are_built_without_a_network(monkeypatch):
    opened = []

    def refuse(*target):
        opened.append(target)
        pytest.fail("building a model opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for model_config in (config(), upernet(), upernet("resnet18")):
        build_model(model_config, 3)
    assert opened == []


@pytest.mark.parametrize("training", [False, True])
def test_turned_round_head_equals_the_one_that_transformers_writes(training):
    model = (
        build_model(ModelConfig.parse({"encoder": "mit_nano", "drop_path": 0.0}), 5)
        .double()
        .train(training)
    )
    model.net.decode_head.dropout.p = 0.0  # type: ignore[union-attr]
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    found = {}
    for name, run in (("ours", model), ("plain", lambda x: model.net(pixel_values=x).logits)):  # type: ignore[union-attr]
        model.zero_grad()
        logits = run(images)
        logits.square().sum().backward()
        found[name] = [
            logits.detach(),
            *(p.grad.clone() for p in model.parameters() if p.grad is not None),
        ]
    assert len(found["ours"]) == len(list(model.parameters())) + 1
    for ours, plain in zip(found["ours"], found["plain"], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(48, 64), (12, 100), (6, 5)])
def test_matrices_resize_as_torch_does(size):
    maps = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    for way in (resize, resize_by_matmul):
        torch.testing.assert_close(
            way(maps.permute(0, 2, 3, 1), size).permute(0, 3, 1, 2), expected
        )


def test_attention_is_computed_in_one_fused_call():
    assert build_model(config(), 3).net.config._attn_implementation == "sdpa"


def test_gradient_reaches_every_parameter_through_both_heads():
    for model in (build_model(config(), 3), build_model(upernet(), 3)):
        logits, auxiliary = model(torch.randn(2, 3, 64, 64), with_auxiliary=True)
        (
            logits.square().mean() + (auxiliary.square().mean() if auxiliary is not None else 0)
        ).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


# Millions of parameters with the head for ADE20K's 150 classes, as published with the paper.
PUBLISHED_SIZES = {
    "mit_b0": 3.8,
    "mit_b1": 13.7,
    "mit_b2": 27.5,
    "mit_b3": 47.3,
    "mit_b4": 64.1,
    "mit_b5": 84.7,
}


@pytest.mark.parametrize("name", list(PUBLISHED_SIZES))
def test_every_mit_is_as_large_as_the_paper_says(name):
    with torch.device("meta"):
        model = build_model(config(encoder=name), 150)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        PUBLISHED_SIZES[name], abs=0.055
    )
    assert model.net.config.num_attention_heads == [
        1,
        2,
        5,
        8,
    ]  # the count of parameters does not show them


def test_width_of_the_head_is_the_papers_unless_it_is_given():
    widths = {"mit_b0": 256, "mit_b1": 256, "mit_b2": 768, "mit_b5": 768}
    with torch.device("meta"):
        found = {
            name: build_model(config(encoder=name), 3).net.config.decoder_hidden_size
            for name in widths
        }
        assert build_model(config(decoder_channels=24), 3).net.config.decoder_hidden_size == 24
    assert found == widths


def test_drop_path_reaches_the_encoder():
    for model_config in (config(drop_path=0.3), upernet(drop_path=0.3)):
        rates = [getattr(m, "drop_prob", 0) for m in build_model(model_config, 3).modules()]
        assert max(r for r in rates if isinstance(r, float)) == pytest.approx(0.3)


def test_encoder_without_drop_path_is_refused_with_a_way_out_and_taken_at_zero():
    with pytest.raises(ConfigError, match=r"model\.drop_path: 0"):
        build_model(upernet("vgg11"), 3)
    assert build_model(upernet("vgg11", drop_path=0.0), 3).eval()(
        torch.randn(1, 3, 64, 64)
    ).shape == (1, 3, 16, 16)


def to_mmseg(weights):
    """Renames transformers' MiT to mmseg's names, the other way than segtune.weights does."""
    names = {
        "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "attn.attn.out_proj",
        "attention.sequence_reduction.sequence_reduction": "attn.sr", "attention.sequence_reduction.layer_norm": "attn.norm",
        "mlp.fc1": "ffn.layers.0", "mlp.dwconv.dwconv": "ffn.layers.1", "mlp.fc2": "ffn.layers.4",
    }  # fmt: skip
    found = {}
    for name, value in weights.items():
        _, stage, part, rest = name.split(".", 3)
        if part == "patch_embeddings":
            found[
                f"layers.{stage}.0."
                + rest.replace("proj", "projection").replace("layer_norm", "norm")
            ] = value
        elif part == "layer_norm":
            found[f"layers.{stage}.2.{rest}"] = value
        else:
            block, rest = rest.split(".", 1)
            base, kind = rest.rsplit(".", 1)
            prefix = f"layers.{stage}.1.{block}."
            if base == "attention.q_proj":
                joined = [weights[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                found[f"{prefix}attn.attn.in_proj_{kind}"] = torch.cat(joined)
            elif base not in ("attention.k_proj", "attention.v_proj"):
                is_linear = base in ("mlp.fc1", "mlp.fc2") and kind == "weight"
                found[f"{prefix}{names[base]}.{kind}"] = (
                    value[:, :, None, None] if is_linear else value
                )
    return found


def to_original(mmseg):
    """Renames mmseg's MiT to the names of the paper's authors: q and kv apart, linear layers as such, stages from 1."""
    names = {
        "attn.attn.out_proj": "attn.proj",
        "ffn.layers.0": "mlp.fc1",
        "ffn.layers.1": "mlp.dwconv.dwconv",
        "ffn.layers.4": "mlp.fc2",
    }
    found = {}
    for name, value in mmseg.items():
        _, stage, part, rest = name.split(".", 3)
        number = int(stage) + 1
        if part != "1":
            found[
                (f"patch_embed{number}." if part == "0" else f"norm{number}.")
                + rest.replace("projection", "proj")
            ] = value
            continue
        block, rest = rest.split(".", 1)
        if "in_proj_" in rest:
            kind, size = rest.rpartition("in_proj_")[2], len(value) // 3
            found |= {
                f"block{number}.{block}.attn.q.{kind}": value[:size],
                f"block{number}.{block}.attn.kv.{kind}": value[size:],
            }
            continue
        base, kind = rest.rsplit(".", 1)
        is_linear = base in ("ffn.layers.0", "ffn.layers.4") and kind == "weight"
        found[f"block{number}.{block}.{names.get(base, base)}.{kind}"] = (
            value[..., 0, 0] if is_linear else value
        )
    return found | {"head.weight": torch.zeros(10, 96), "head.bias": torch.zeros(10)}


def save_in_every_naming(encoder, folder):
    """Writes the weights of a SegformerModel in the ways that users have them; returns the paths."""
    encoder.save_pretrained(folder / "hf")
    mmseg = to_mmseg(encoder.state_dict())
    torch.save(mmseg, folder / "mit.pth")
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in mmseg.items()}}, folder / "whole.pth")
    torch.save(to_original(mmseg), folder / "original.pth")
    save_file(
        {k: v.contiguous() for k, v in encoder.state_dict().items()}, folder / "plain.safetensors"
    )
    # The hub's own folders: pickled, under `segformer.`, with the classifier of the pretraining.
    (folder / "bin").mkdir()
    shutil.copy(folder / "hf/config.json", folder / "bin")
    saved = {f"segformer.{k}": v for k, v in load_file(folder / "hf/model.safetensors").items()}
    torch.save(saved | {"classifier.weight": torch.zeros(10, 96)}, folder / "bin/pytorch_model.bin")
    names = [
        "hf",
        "mit.pth",
        "whole.pth",
        "original.pth",
        "plain.safetensors",
        "hf/model.safetensors",
        "bin",
        "bin/pytorch_model.bin",
    ]
    return [str(folder / name) for name in names]


def test_same_weights_in_every_naming_give_the_same_logits(tmp_path):
    source = build_model(config(), 5).net.segformer
    with torch.no_grad():  # norms and biases start as ones and zeros: swapped ones would not show
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    image = torch.randn(1, 3, 64, 64)
    expected = source.eval()(pixel_values=image).last_hidden_state
    logits = []
    for path in save_in_every_naming(source, tmp_path):
        torch.manual_seed(1)  # the head is random
        model = build_model(config(weights=path), 5).eval()
        assert torch.equal(model.net.segformer(pixel_values=image).last_hidden_state, expected), (
            path
        )
        logits.append(model(image))
        assert torch.equal(logits[-1], logits[0]), path


def test_folder_whose_keys_do_not_fit_is_refused_and_not_left_random(tmp_path):
    build_model(config(), 5).net.segformer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k.replace("block", "layer"): v for k, v in weights.items()},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(WeightsError, match=r"blocks\.0\.\S+ is missing"):
        build_model(config(weights=str(tmp_path)), 5)


@pytest.mark.parametrize("content", [{}, {"config.json": "{}"}, {"config.json": "no json"}])
def test_folder_that_is_no_model_says_what_it_should_hold(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=r"expected config\.json and model\.safetensors"):
        build_model(config(weights=str(tmp_path)), 5)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (
            lambda w: w | {"layers.0.1.0.attn.extra.weight": torch.zeros(1)},
            r"attn\.extra\.weight is unknown",
        ),
        (
            lambda w: {k: v for k, v in w.items() if k != "layers.3.2.bias"},
            r"stages\.3\.layer_norm\.bias is missing",
        ),
        (
            lambda w: w | {"layers.3.2.bias": torch.zeros(5)},
            r"stages\.3\.layer_norm\.bias is \[5\], expected \[96\]",
        ),
    ],
    ids=["unknown", "missing", "shape"],
)
def test_each_key_that_does_not_fit_is_named(tmp_path, change, law):
    torch.save(
        change(to_mmseg(build_model(config(), 5).net.segformer.state_dict())), tmp_path / "mit.pth"
    )
    with pytest.raises(WeightsError, match=law):
        build_model(config(weights=str(tmp_path / "mit.pth")), 5)


def test_weights_of_another_encoder_are_refused_by_name(tmp_path):
    torch.save(to_mmseg(build_model(config(), 5).net.segformer.state_dict()), tmp_path / "nano.pth")
    with pytest.raises(WeightsError, match=r"not the weights of this encoder: stages\.0"):
        build_model(config(encoder="mit_b0", weights=str(tmp_path / "nano.pth")), 5)


@pytest.mark.parametrize("encoder", ["convnext_atto", "resnet18", "mobilenetv3_small_100"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_weights_load_from_a_file_of_the_whole_model(tmp_path, encoder, suffix):
    whole = timm.create_model(encoder, pretrained=False).eval()
    path = tmp_path / f"w{suffix}"
    (torch.save if suffix == ".pth" else save_file)(whole.state_dict(), path)
    model = build_model(upernet(encoder, weights=str(path)), 3).eval()
    values = [v for k, v in whole.state_dict().items() if not k.endswith("num_batches_tracked")]
    own = {
        k: v for k, v in model.encoder.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    assert [
        k
        for k, v in own.items()
        if not any(v.shape == w.shape and torch.equal(v, w) for w in values)
    ] == []


def test_timm_weights_of_another_encoder_are_refused(tmp_path):
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not the weights of this encoder"):
        build_model(upernet("convnext_atto", weights=str(tmp_path / "w.pth")), 3)


@pytest.mark.parametrize("given", ["nvidia/mit-b0", "nowhere/mit.pth", "mit-b2"])
def test_absent_weights_say_what_to_get_and_where_to_put_it(given, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"set model\.weights to its path"):
        build_model(config(encoder="mit_b0", weights=given), 3)


def test_unknown_encoders_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'mit_b2'"):
        build_model(config(encoder="mit-b2"), 3)
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        build_model(upernet("resnet_50"), 3)


def test_upernet_refuses_one_image_per_worker():
    with pytest.raises(ConfigError, match="2 or more images per worker"):
        check_batch(upernet(), 1)
    check_batch(config(), 1)


def test_pickled_code_in_weights_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"x": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds more than plain tensors"):
        build_model(config(weights=str(tmp_path / "w.pth")), 3)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "encoder"), [("segformer", "mit_nano"), ("upernet", "mobilenetv3_small_050")]
)
def test_synchronised_norms_are_the_same_weights_under_the_same_names(name, encoder):
    model = build_model(
        ModelConfig.parse({"name": name, "encoder": encoder, "drop_path": 0.0}), 3
    ).eval()
    images, names = torch.randn(2, 3, 64, 64), list(model.state_dict())
    before = model(images)
    synced = sync_norms(model)
    assert not any(type(module).__name__.startswith("BatchNorm") for module in synced.modules())
    assert list(synced.state_dict()) == names
    assert torch.equal(synced(images), before)
