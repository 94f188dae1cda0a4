_base_ = [
    './_base_/models/upernet_r50.py', './_base_/datasets/voc12.py',
    './_base_/schedules/sgd_200e.py', './_base_/runtime.py'
]
train_dataloader = dict(batch_size=16)
