_base_ = './segformer_b2_ade_v1_2.py'
optim_wrapper = dict(
    optimizer=dict(lr=2e-5),
    clip_grad=dict(max_norm=2.0),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=3.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-7, by_epoch=True, begin=0, end=15, convert_to_iter_based=True),
    dict(type='PolyLR', power=1.0, begin=15, end=200, by_epoch=True, convert_to_iter_based=True),
]
