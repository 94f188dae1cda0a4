"""Laws of one optimiser step: what changes the weights, and what happens if memory runs out."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import Batch
from segtune.losses.segmentation import build_loss
from segtune.models.build import build_model, head_parameters
from segtune.training.distributed import Ranks
from segtune.training.optimizer import build_optimizer, set_learning_rate
from segtune.training.train_step import (
    LAG,
    OutOfMemory,
    PendingStep,
    StepResult,
    TrainStep,
    with_lag,
)

NUM_CLASSES = 4
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def make_train_step(config: ExperimentConfig) -> TrainStep:
    torch.manual_seed(0)
    model = build_model(config.model, NUM_CLASSES).train()
    return TrainStep(
        config.optim,
        model,
        build_loss(config.loss, NUM_CLASSES),
        build_optimizer(model, config.optim, head_parameters(model)),
        torch.amp.GradScaler("cpu", enabled=False),
        torch.float32,
        Ranks(),
    )


def random_batch(seed: int = 0, num_images: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (num_images, 3, 64, 64), dtype=torch.uint8, generator=generator)
    masks = torch.randint(NUM_CLASSES, (num_images, 64, 64), dtype=torch.uint8, generator=generator)
    return Batch(images, masks)


def run(train_step: TrainStep, *batches: Batch, cancel: bool = False) -> StepResult:
    outcome = train_step.run(batches, step=1, lr=0.1, cancel=cancel)
    assert isinstance(outcome, PendingStep)
    return outcome.read()


def copy_of_weights(train_step: TrainStep) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in train_step.model.parameters()]


def copy_of_moments(train_step: TrainStep, name: str) -> list[Tensor]:
    """Return the moments of all parameters; zeros if the optimiser has none yet."""
    states = train_step.optimizer.state
    return [
        states.get(parameter, {}).get(name, torch.zeros_like(parameter)).clone()
        for parameter in train_step.model.parameters()
    ]


def all_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


class MemoryFor:
    """A forward hook that refuses batches of more than `num_images`, as the allocator would."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > self.num_images:
            raise RuntimeError(f"{NO_MEMORY}\nand a second line")


class FailOnce:
    """A gradient hook that breaks off the first backward pass."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.num_calls = 0

    def __call__(self, gradient: Tensor) -> None:
        self.num_calls += 1
        if self.num_calls == 1:
            raise RuntimeError(self.message)


def test_finite_step_updates_weights_and_moments(tiny_config: ExperimentConfig) -> None:
    train_step = make_train_step(tiny_config)
    weights = copy_of_weights(train_step)
    result = run(train_step, random_batch())
    assert result.finite
    assert (result.step, result.lr, result.cancelled, result.gradient_left) == (1, 0.1, False, None)
    assert not any(map(torch.equal, weights, copy_of_weights(train_step)))
    assert all(moment.any() for moment in copy_of_moments(train_step, "exp_avg"))


@pytest.mark.parametrize("num_earlier", [0, 1])
@pytest.mark.parametrize(
    ("optimizer", "moment"), [("adamw", "exp_avg"), ("sgd", "momentum_buffer")]
)
# With 1e30 the loss is finite in float32, and the sum of the squared gradients is not.
@pytest.mark.parametrize("class_weight", [math.nan, 1e30])
def test_step_that_is_not_finite_leaves_weights_and_moments_alone(
    tiny_config: ExperimentConfig,
    optimizer: str,
    moment: str,
    num_earlier: int,
    class_weight: float,
) -> None:
    train_step = make_train_step(tiny_config.override({"optim.name": optimizer}))
    for _ in range(num_earlier):
        run(train_step, random_batch())
    weights = copy_of_weights(train_step)
    moments = copy_of_moments(train_step, moment)
    for class_weights in train_step.loss.buffers():
        class_weights.fill_(class_weight)

    result = run(train_step, random_batch())

    assert result.finite is False
    assert math.isfinite(result.losses["loss"]) == math.isfinite(class_weight)
    assert (
        math.isnan(result.grad_norm) if math.isnan(class_weight) else math.isinf(result.grad_norm)
    )
    assert all_equal(weights, copy_of_weights(train_step))
    assert all_equal(moments, copy_of_moments(train_step, moment))

    # Nor does a later step: the trainer ends the training run up to LAG steps later.
    for class_weights in train_step.loss.buffers():
        class_weights.fill_(1.0)
    assert run(train_step, random_batch()).finite
    assert all_equal(weights, copy_of_weights(train_step))
    assert all_equal(moments, copy_of_moments(train_step, moment))


@pytest.mark.parametrize(
    "build",
    [
        partial(torch.optim.AdamW, fused=False),
        partial(torch.optim.SGD, lr=0.1, fused=False),
        torch.optim.RMSprop,  # has no fused form
    ],
)
def test_optimiser_that_cannot_skip_a_step_on_the_device_is_refused(
    tiny_config: ExperimentConfig, build: Callable[..., torch.optim.Optimizer]
) -> None:
    train_step = make_train_step(tiny_config)
    train_step.optimizer = build(train_step.model.parameters())
    weights = copy_of_weights(train_step)
    with pytest.raises(AssertionError):
        run(train_step, random_batch())
    assert all_equal(weights, copy_of_weights(train_step))


def test_losses_are_means_over_the_micro_batches(tiny_config: ExperimentConfig) -> None:
    train_step = make_train_step(tiny_config)
    set_learning_rate(train_step.optimizer, 0.0)
    first, second = random_batch(1), random_batch(2)
    torch.manual_seed(1)  # dropout
    alone = [run(train_step, batch).losses for batch in (first, second)]
    torch.manual_seed(1)
    together = run(train_step, first, second).losses
    assert together == pytest.approx(
        {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}, rel=1e-5
    )


def test_cancelled_step_says_so_and_still_updates_the_weights(
    tiny_config: ExperimentConfig,
) -> None:
    train_step = make_train_step(tiny_config)
    weights = copy_of_weights(train_step)
    assert run(train_step, random_batch(), cancel=True).cancelled
    assert not all_equal(weights, copy_of_weights(train_step))
    assert not run(train_step, random_batch()).cancelled


def test_gradient_left_is_measured_if_asked(tiny_config: ExperimentConfig) -> None:
    focal = {"loss.dice.weight": 0.0, "loss.focal.gamma": 2.0}
    train_step = make_train_step(tiny_config.override(focal))
    outcome = train_step.run([random_batch()], step=1, lr=0.1, probe=True)
    assert isinstance(outcome, PendingStep)
    gradient_left = outcome.read().gradient_left
    assert gradient_left is not None
    assert 0 < gradient_left < 1


def mixed_batch(first_share: float, num_images: int = 8) -> Batch:
    """Return `random_batch`, mixed with the labels of another one."""
    batch = random_batch(0, num_images)
    second = random_batch(1, num_images).masks
    return Batch(batch.images, batch.masks, second, torch.full((num_images,), first_share))


class TwoHeads(nn.Module):
    """A model with an auxiliary head, of one convolution each."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(3, NUM_CLASSES, 4, 4) for _ in range(2))

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> tuple[Tensor, Tensor]:
        assert with_auxiliary
        logits, auxiliary = (head(images) for head in self.heads)
        return logits, auxiliary


def losses_of_two_heads(config: ExperimentConfig, batch: Batch) -> dict[str, float]:
    torch.manual_seed(0)
    model = TwoHeads()
    loss = build_loss(config.loss, NUM_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return run(
        TrainStep(config.optim, model, loss, optimizer, scaler, torch.float32, Ranks()), batch
    ).losses


def test_both_heads_of_a_mixed_batch_have_the_mixture_of_two_losses(
    tiny_config: ExperimentConfig,
) -> None:
    config = tiny_config.override({"loss.ce.weight": 1.0})
    images, first, second = random_batch(0).images, random_batch(0).masks, random_batch(1).masks
    of_first = losses_of_two_heads(config, Batch(images, first))
    of_second = losses_of_two_heads(config, Batch(images, second))
    mixed = losses_of_two_heads(config, mixed_batch(0.25))
    assert set(mixed) == {"loss", "focal", "dice", "ce"}
    assert mixed["loss"] > 1.1 * (mixed["focal"] + mixed["dice"] + mixed["ce"])  # two heads
    for name, value in mixed.items():
        expected = 0.25 * of_first[name] + 0.75 * of_second[name]
        assert value == pytest.approx(expected, rel=1e-5)
        assert value != pytest.approx(of_first[name], rel=1e-5)


def test_gradient_left_of_a_mixed_batch_uses_both_masks(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"loss.dice.weight": 0.0, "loss.focal.gamma": 2.0})

    def left(batch: Batch) -> float | None:
        torch.manual_seed(1)
        outcome = make_train_step(config).run([batch], step=1, lr=0.1, probe=True)
        assert isinstance(outcome, PendingStep)
        return outcome.read().gradient_left

    plain = left(random_batch())
    assert left(mixed_batch(1.0)) == pytest.approx(plain, rel=1e-5)
    assert left(mixed_batch(0.5)) != pytest.approx(plain, rel=1e-5)


def test_a_mixed_batch_that_does_not_fit_halves_its_images(tiny_config: ExperimentConfig) -> None:
    train_step = make_train_step(tiny_config)
    train_step.model.register_forward_pre_hook(MemoryFor(3))
    outcome = train_step.run([mixed_batch(0.3)], step=1, lr=0.1)
    assert outcome == OutOfMemory(num_images=8, num_fitting=2, message=NO_MEMORY)


@pytest.mark.parametrize(("memory", "num_fitting"), [(7, 4), (3, 2), (1, 1), (0, 0)])
def test_step_that_does_not_fit_halves_its_images_until_they_do(
    tiny_config: ExperimentConfig, memory: int, num_fitting: int
) -> None:
    train_step = make_train_step(tiny_config)
    weights = copy_of_weights(train_step)
    train_step.model.register_forward_pre_hook(MemoryFor(memory))
    outcome = train_step.run([random_batch(num_images=8)], step=1, lr=0.1)
    assert outcome == OutOfMemory(num_images=8, num_fitting=num_fitting, message=NO_MEMORY)
    assert all_equal(weights, copy_of_weights(train_step))


def test_error_that_is_not_out_of_memory_is_raised(tiny_config: ExperimentConfig) -> None:
    train_step = make_train_step(tiny_config)
    next(train_step.model.parameters()).register_hook(FailOnce("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run(train_step, random_batch())


@pytest.mark.filterwarnings("ignore:Grad strides do not match")
def test_what_fits_is_measured_on_one_rank_after_a_backward_that_broke_off(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        train_step = make_train_step(tiny_config)
        # The gradient of the first layer is the last one of a backward pass.
        next(train_step.model.parameters()).register_hook(FailOnce(NO_MEMORY))
        train_step.model = nn.parallel.DistributedDataParallel(train_step.model)
        outcome = train_step.run([random_batch(num_images=8)], step=1, lr=0.1)
        assert outcome == OutOfMemory(num_images=8, num_fitting=4, message=NO_MEMORY)
    finally:
        torch.distributed.destroy_process_group()


def test_outcomes_come_in_order_and_after_later_steps_are_under_way() -> None:
    outcomes = [OutOfMemory(number, 0, "") for number in range(2 * LAG + 3)]
    num_started = 0

    def start_steps() -> Iterator[OutOfMemory]:
        nonlocal num_started
        for outcome in outcomes:
            num_started += 1
            yield outcome

    lagged = with_lag(start_steps())
    assert next(lagged) is outcomes[0]
    assert num_started == 1 + LAG
    assert list(lagged) == outcomes[1:]
