import pytest

from realnet.config import ClassifierConfig
from realnet.errors import UserError
from realnet.training.batches import require_batches


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "num_processes", "advice"),
    [
        (8, 1, 1, "add images, or lower the batch with --set train.batch_size=N:"),
        (1, 8, 1, "add images, or lower --set train.accumulation=N:"),
        (1, 1, 8, "add images, or start fewer processes:"),
        (2, 2, 2, "N, or lower --set train.accumulation=N, or start fewer processes:"),
        (1, 1, 1, "; add images:"),
    ],
)
def test_what_is_advised_against_too_few_images_can_be_done(batch_size, accumulation, num_processes, advice):
    config = ClassifierConfig().train.model_copy(update={"batch_size": batch_size, "accumulation": accumulation})
    needed = batch_size * accumulation * num_processes
    require_batches({"nut": needed}, config, num_processes)
    with pytest.raises(UserError) as refusal:
        require_batches({"nut": needed - 1, "bolt": needed}, config, num_processes)
    assert f"too few images for a batch of {needed} " in str(refusal.value) and advice in str(refusal.value)
    assert str(refusal.value).endswith(f"\n  nut: {needed - 1} training images")
