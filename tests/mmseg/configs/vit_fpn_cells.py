_base_ = ['./_base_/datasets/cells.py', './_base_/runtime.py']
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='pretrain/vit_base_patch16_224.pth',
    backbone=dict(
        type='VisionTransformer', img_size=(480, 480), patch_size=16, in_channels=3, embed_dims=768,
        num_layers=12, num_heads=12, mlp_ratio=4, out_indices=(2, 5, 8, 11), qkv_bias=True,
        drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.1, with_cls_token=True,
        norm_cfg=dict(type='LN', eps=1e-6), act_cfg=dict(type='GELU'), norm_eval=False,
        interpolate_mode='bicubic'),
    neck=dict(type='MultiLevelNeck', in_channels=[768, 768, 768, 768], out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(
        type='FCNHead', in_channels=768, in_index=0, channels=256, num_convs=1, concat_input=False,
        dropout_ratio=0.1, num_classes=2, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.5, loss_weight=1.0)),
    test_cfg=dict(mode='slide', crop_size=(96, 96), stride=(42, 42)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.01))
param_scheduler = dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=100, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=5)
val_cfg = dict()
test_cfg = dict()
