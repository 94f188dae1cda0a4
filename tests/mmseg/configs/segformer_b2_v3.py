# Fine-tuning from the best checkpoint of V2.
_base_ = './segformer_b2_v2_final.py'
load_from = 'work_dirs/segformer_b2_v2_final/best_mIoU_epoch_190.pth'
warmup = 20
optim_wrapper = dict(optimizer=dict(lr=6e-6))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-7, by_epoch=True, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type='PolyLR', power=1.0, begin=warmup, end=200, by_epoch=True, convert_to_iter_based=True),
]
randomness = dict(seed=42)
