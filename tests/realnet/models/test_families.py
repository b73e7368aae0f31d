"""A small member of each of timm's families trains for a step, is saved and loaded, or is refused in one sentence.

A choice of kinds always runs; REALNET_SWEEP=1 runs them all (minutes).
"""

import os
import re

import pytest
import torch

from realnet import Detector
from realnet.config import RealNetConfig
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.build import build_detector, settle
from realnet.models.checkpoint import Checkpoint
from realnet.models.losses import cross_entropy_loss, reconstruction_loss
from realnet.models.realnet import RealNet
from realnet.training.pairs import detect_joined

FAMILIES = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla60x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mnasnet_small",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet18",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""Module of timm.models: one of its smallest members (timm 1.0.31)."""
KINDS = {
    "resnet": "resnet18",
    "efficientnet": "mnasnet_small",
    "regnet": "regnetx_002",
    "convnext": "convnext_atto_rms",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "mambaout": "test_mambaout",
    "vision_transformer": "test_vit",
    "dinov2": "vit_small_patch14_dinov2",
    "davit": "davit_tiny",
    "xcit": "xcit_nano_12_p8_224",
    "levit": "levit_128s",
}
REFUSED = {"tresnet": r"timm's tresnet_m gives no feature levels \(Return layers .*; choose another one"}
"""Families that give no feature levels: what the refusal says."""
IS_SWEEP = bool(os.environ.get("REALNET_SWEEP"))


def built(name: str, side: int = 64) -> tuple[RealNetConfig, RealNet]:
    """A small detector on a backbone with random weights, at an image size that the model takes, or asks for."""
    values = {"backbone": {"name": name, "weights": "none"}, "size": "small", "evaluation": {"score_pool": 4}}
    values["reconstruction"] = {"num_res_blocks": 1, "hidden_ratio": 0.25}
    torch.manual_seed(0)
    try:
        config = settle(RealNetConfig.model_validate({**values, "image_size": side}))
        return config, build_detector(config)
    except UserError as refusal:
        other = re.search(r"set image_size to (\d+)x(\d+)", str(refusal))
        if other is None:
            raise
    config = settle(RealNetConfig.model_validate({**values, "image_size": [int(n) for n in other.groups()]}))
    return config, build_detector(config)


def train_a_step(model: RealNet, images: torch.Tensor) -> None:
    """Train on two clean images; the third image is the second one with an anomaly."""
    optimiser = torch.optim.Adam([*model.recon.parameters(), *model.rrs.parameters()], lr=1e-3)
    detection, clean = detect_joined(model.train(), images, torch.tensor([1]))
    mask = torch.zeros(2, 1, *images.shape[2:])
    loss = cross_entropy_loss(detection.logits, mask) + reconstruction_loss(detection.reconstructed, clean)
    loss.backward()
    optimiser.step()


@pytest.mark.parametrize("family", FAMILIES if IS_SWEEP else KINDS)
def test_a_family(family, tmp_path):
    name = (FAMILIES if IS_SWEEP else KINDS)[family]
    if family in REFUSED:
        with pytest.raises(UserError, match=REFUSED[family]) as refusal:
            built(name)
        assert "\n" not in str(refusal.value)
        return
    config, model = built(name)
    images = torch.randn(3, 3, *config.image_size)
    train_a_step(model, images)
    saved = Checkpoint(
        kind="realnet",
        state_dict=model.trainable_state(),
        config=config.model_dump(mode="json"),
        facts={"backbone": model.backbone.facts()},
    )
    checkpoint.save(tmp_path / "detector.pth", saved)
    loaded = Detector.load(tmp_path / "detector.pth", device="cpu")
    with torch.no_grad():
        found, expected = loaded.model(images[:1]), model.eval()(images[:1])
    assert found.logits.isfinite().all()
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=1e-3, atol=1e-5)
