_base_ = [
    './_base_/models/segformer_b2.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_200e.py', './_base_/runtime.py'
]
model = dict(
    decode_head=dict(
        num_classes=150,
        loss_decode=[
            dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.5, loss_weight=0.7),
            dict(type='DiceLoss', loss_weight=1.3),
        ]))
optim_wrapper = dict(optimizer=dict(lr=6e-6))
