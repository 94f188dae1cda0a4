from mmengine.config import read_base
from mmengine.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LinearLR, PolyLR
from torch.optim.adamw import AdamW

with read_base():
    from .._base_.datasets.ade20k import *
    from .._base_.models.segformer_mit_b0 import *
    from .._base_.schedules.sgd_160k import *

checkpoint = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b0.pth'
data_preprocessor.update(dict(size=crop_size))
model.update(
    dict(
        data_preprocessor=data_preprocessor,
        backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
        decode_head=dict(num_classes=150)))
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=0.00006, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'pos_block': dict(decay_mult=0.0),
            'norm': dict(decay_mult=0.0),
            'head': dict(lr_mult=10.0)
        }))
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type=PolyLR, eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
train_dataloader.update(dict(batch_size=2, num_workers=2))
val_dataloader.update(dict(batch_size=1))
test_dataloader = val_dataloader
