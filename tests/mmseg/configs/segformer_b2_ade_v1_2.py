_base_ = './segformer_b2_ade_v1.py'
model = dict(
    decode_head=dict(
        loss_decode=[
            dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.5, loss_weight=0.5),
            dict(type='DiceLoss', loss_weight=1.0),
        ]))
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(lr=3e-5),
    clip_grad=dict(max_norm=10.0, norm_type=2))
