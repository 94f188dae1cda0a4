_base_ = './segformer_b2_v2_first.py'
model = dict(
    decode_head=dict(
        loss_decode=[
            dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.5, loss_weight=1.0, loss_name='loss_focal'),
            dict(type='DiceLoss', loss_weight=1.0, loss_name='loss_dice'),
        ]))
