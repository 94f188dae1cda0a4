# The collapse: smaller crops and ten times the learning rate on a trained checkpoint.
_base_ = './segformer_b2_ade_v1.py'
crop_size = (480, 480)
load_from = 'work_dirs/segformer_b2_ade_v1/epoch_120.pth'
model = dict(data_preprocessor=dict(size=crop_size))
train_pipeline = _base_.train_pipeline
train_pipeline[3]['crop_size'] = crop_size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=6e-5))
