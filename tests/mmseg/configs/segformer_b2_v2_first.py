_base_ = './segformer_b2_v1_ce.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size={{_base_.crop_size}}, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=32),
    dict(type='PackSegInputs'),
]
dataset_train = {{_base_.dataset_train}}
dataset_train['pipeline'] = train_pipeline
dataset_aug = {{_base_.dataset_aug}}
dataset_aug.update(pipeline=train_pipeline)
train_dataloader = dict(
    dataset=dict(_delete_=True, type='ConcatDataset', datasets=[dataset_train, dataset_aug]))
model = dict(
    decode_head=dict(
        loss_decode=dict(_delete_=True, type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.5, loss_weight=1.0)))
