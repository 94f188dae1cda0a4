# Two GPUs with four images each: the learning rate falls with the batch.
_base_ = [
    './_base_/models/upernet_r50.py', './_base_/datasets/voc12_aug.py',
    './_base_/schedules/sgd_200e.py', './_base_/runtime.py'
]
batch = 2 * 4
optim_wrapper = dict(optimizer=dict(lr=0.01 * batch / 16))
train_cfg = dict(val_interval=1)
