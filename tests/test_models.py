"""Laws of the models: sizes, weights of every naming, and errors that say what to get."""

import pytest
import torch

from segtune.config import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models import MIT, build_model, check_batch


def config(**changes):
    return ModelConfig.parse({"encoder": "mit_nano", **changes})


def upernet(encoder="convnext_atto", **changes):
    return config(name="upernet", encoder=encoder, decoder_channels=16, **changes)


@pytest.mark.parametrize("model_config", [config(), upernet(), upernet("resnet18")], ids=["segformer", "convnext", "resnet"])
@pytest.mark.parametrize("size", [(64, 64), (70, 90)])
def test_logits_are_a_quarter_of_the_image(model_config, size):
    model = build_model(model_config, 7).eval()
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape[:2] == (2, 7)
    assert all(abs(a - b / 4) <= 1 for a, b in zip(logits.shape[2:], size, strict=True))


def test_swin_takes_crops_of_any_size():
    model = build_model(upernet("swin_tiny_patch4_window7_224"), 3).eval()
    assert model(torch.randn(1, 3, 96, 112)).shape == (1, 3, 24, 28)


def test_gradient_reaches_every_parameter_through_both_heads():
    for model in (build_model(config(), 3), build_model(upernet(), 3)):
        logits, auxiliary = model(torch.randn(2, 3, 64, 64), with_auxiliary=True)
        (logits.square().mean() + (auxiliary.square().mean() if auxiliary is not None else 0)).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", list(MIT))
def test_every_mit_is_built_as_the_paper_says(name):
    sizes, depths, width = MIT[name]
    with torch.device("meta"):
        model = build_model(config(encoder=name), 21)
    found = model.net.config
    assert (found.hidden_sizes, found.depths, found.decoder_hidden_size) == (sizes, depths, width)


def test_drop_path_reaches_the_encoder():
    for model_config in (config(drop_path=0.3), upernet(drop_path=0.3)):
        rates = [getattr(m, "drop_prob", 0) for m in build_model(model_config, 3).modules()]
        assert max(r for r in rates if isinstance(r, float)) == pytest.approx(0.3)


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
            found[f"layers.{stage}.0." + rest.replace("proj", "projection").replace("layer_norm", "norm")] = value
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
                found[f"{prefix}{names[base]}.{kind}"] = value[:, :, None, None] if is_linear else value
    return found


def test_same_weights_in_every_naming_give_the_same_logits(tmp_path):
    encoder = build_model(config(), 5).net.segformer
    encoder.save_pretrained(tmp_path / "hf")
    mmseg = to_mmseg(encoder.state_dict())
    torch.save(mmseg, tmp_path / "mit.pth")
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in mmseg.items()}}, tmp_path / "whole.pth")
    image = torch.randn(1, 3, 64, 64)
    logits = []
    for source in ("hf", "mit.pth", "whole.pth"):
        torch.manual_seed(1)  # the head is random
        logits.append(build_model(config(weights=str(tmp_path / source)), 5).eval()(image))
    torch.manual_seed(1)
    untrained = build_model(config(), 5).eval()(image)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert not torch.allclose(logits[0], untrained)


def test_weights_of_another_encoder_are_refused_by_name(tmp_path):
    torch.save(to_mmseg(build_model(config(), 5).net.segformer.state_dict()), tmp_path / "nano.pth")
    with pytest.raises(WeightsError, match=r"not the weights of this encoder: stages\.0"):
        build_model(config(encoder="mit_b0", weights=str(tmp_path / "nano.pth")), 5)


def test_timm_weights_load_from_a_file(tmp_path):
    import timm

    whole = timm.create_model("convnext_atto", pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    model = build_model(upernet(weights=str(tmp_path / "w.pth")), 3)
    assert torch.equal(model.encoder.state_dict()["stem_0.weight"], whole.state_dict()["stem.0.weight"])


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
