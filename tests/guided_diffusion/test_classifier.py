import pytest
import torch

from guided_diffusion import NoisyClassifier
from tests.closed_form import fill, wave

T = torch.tensor([3, 977])


def small(**changes) -> NoisyClassifier:
    sizes = {
        "image_size": (8, 16),
        "num_classes": 3,
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_downsampling": (2,),
        "num_head_channels": 32,
    }
    return NoisyClassifier(**(sizes | changes))


@torch.no_grad()
@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (True, [-0.2408052, 0.3339391, -0.2746255, -0.2406136, 0.3337257, -0.2743908]),
        (False, [-0.2404440, 0.3334077, -0.2739253, -0.2406248, 0.3336090, -0.2741465]),
    ],
)
def test_figures_on_a_rectangle(published, expected):
    classifier = fill(small(use_scale_shift_norm=published, resblock_updown=published)).eval()
    logits = classifier(wave("image", 2, 3, 8, 16), T)
    assert logits.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_every_parameter_learns_and_checkpointing_changes_no_number():
    x, label = wave("image", 2, 3, 8, 16), torch.tensor([0, 2])
    plain, saving = fill(small()), fill(small(use_checkpoint=True))
    for classifier in (plain, saving):
        torch.nn.functional.cross_entropy(classifier(x, T), label).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert one.grad.abs().max() > 0, name
        assert torch.equal(one.grad, other.grad), name


def test_the_mean_is_the_other_pool():
    logits = small(pool="adaptive")(wave("image", 2, 3, 8, 16), T)
    assert logits.shape == (2, 3)
    assert logits.abs().max() == 0  # its projection starts at zero


def test_tokens_are_the_innermost_positions():
    assert small().out[2].positional_embedding.shape == (64, 4 * 8 + 1)
    assert small(image_size=8).out[2].positional_embedding.shape == (64, 4 * 4 + 1)


@pytest.mark.parametrize(
    ("changes", "said"), [({"pool": "spatial"}, "'spatial'"), ({"image_size": (8, 9)}, "8×9.*multiples of 2")]
)
def test_refuses_what_it_cannot_build(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)


def test_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(8, 16\)"):
        small()(torch.zeros(2, 3, 8, 8), T)
