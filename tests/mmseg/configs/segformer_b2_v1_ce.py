_base_ = [
    './_base_/models/segformer_b2.py', './_base_/datasets/voc12_aug.py',
    './_base_/schedules/adamw_200e.py', './_base_/runtime.py'
]
train_dataloader = dict(batch_size=3 * 6)
