from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from realnet.config import (
    ClassifierConfig,
    DatasetConfig,
    DiffusionConfig,
    RealNetConfig,
    SampleConfig,
    dump,
    experiments,
    load,
    load_dataset,
    parse_yaml,
    paths,
)
from realnet.errors import UserError


@pytest.fixture
def read(tmp_path: Path):
    """Load a text as a stage's file."""

    def read(model, text: str = "", *overrides: str):
        path = tmp_path / "stage.yaml"
        path.write_text(text)
        return load(model, path, overrides)

    return read


@pytest.fixture
def refusal(read):
    """What the user is told of a text or of overrides."""

    def refusal(model, text: str = "", *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            read(model, text, *overrides)
        return str(caught.value)

    return refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("-3", -3),
        ("0", 0),
        ("01", "01"),
        ("1_0", "1_0"),
        ("0x10", "0x10"),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ("[01, 1e-2]", ["01", 0.01]),
    ],
)
def test_plain_scalars_are_read_as_people_mean_them(text, value):
    read = parse_yaml(f"key: {text}", "here")["key"]
    assert read == value and type(read) is type(value)


def test_a_file_lists_only_what_differs(read):
    config = read(RealNetConfig, "optimiser: {learning_rate: 5e-4}\ntrain:\n  batch_size: 8\n")
    assert (config.optimiser.learning_rate, config.train.batch_size, config.optimiser.betas) == (5e-4, 8, (0.9, 0.999))
    assert read(RealNetConfig) == read(RealNetConfig, "# nothing differs") == RealNetConfig()


def test_one_number_is_a_square_and_two_are_height_and_width(read):
    assert read(RealNetConfig, "image_size: 128").image_size == (128, 128)
    assert read(RealNetConfig, "image_size: [128, 64]").image_size == (128, 64)


def test_classes_named_like_numbers_and_words_of_yaml_keep_their_names(read):
    names = ("01", "02", "3", "1_0", "on", "1e3", "+7", "-0", "1.50", "true", "10²", "a b/c")
    listed = f"image_root: 2024\nclasses: [{', '.join(names)}]\nforeground: {{01: full, 1e3: {{close: 6}}}}"
    config = read(DatasetConfig, listed)
    assert config.image_root == "2024" and config.classes == names
    assert config.foreground_of("01") == "full" and config.foreground_of("02") == "auto"
    assert config.foreground_of("1e3").close == 6
    assert read(DatasetConfig, "image_root: x\nclasses: null").classes is None


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:\\x", "..\\x", '""'])
def test_a_class_is_a_folder_below_the_images(refusal, name):
    text = refusal(DatasetConfig, f"image_root: x\nclasses: [{name}]")
    assert "must not lead out of the folders above it" in text


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        (
            RealNetConfig,
            "train: {batch_sze: 3}",
            "train.batch_sze: unknown key (value 3); did you mean train.batch_size?",
        ),
        (RealNetConfig, "blocks: {b: {levels: {layer1: 3}, strid: 4}}", "did you mean blocks.b.stride?"),
        (RealNetConfig, "trian: {}", "trian: unknown key (value {}); did you mean train?"),
        (RealNetConfig, "train: {xyzzy: 1}", "did you mean batch_size, accumulation, "),
        (DatasetConfig, "image_root: x\nforeground: {a: {chanel: grey}}", "did you mean foreground.a.channel?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(refusal, model, text, message):
    told = refusal(model, text)
    assert "stage.yaml:" in told and message in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {batch_size: 0}", "train.batch_size: Input should be greater than 0 (got 0)"),
        ("train: {batch_size: many}", "train.batch_size: Input should be a valid integer"),
        ("train: {batch_size: true}", "train.batch_size: must not be true or false (got True)"),
        ("train: 3", "train: takes keys and values (got 3)"),
        ("train: {augment: maybe}", "train.augment: Input should be a valid boolean"),
        ("optimiser: {learning_rate: .inf}", "optimiser.learning_rate: Input should be a finite number (got inf)"),
        ("optimiser: {betas: [0.9, 1]}", "optimiser.betas.1: Input should be less than 1 (got 1)"),
        ("optimiser: {betas: 0.9}", "optimiser.betas: takes a list (got 0.9)"),
        ("image_size: [256]", "image_size.1: is missing"),
        ("blocks: {}", "blocks: Dictionary should have at least 1 item"),
        ("blocks: {a.b: {levels: {layer1: 3}}}", "blocks.a.b: String should match pattern"),
        ("blocks: {b: {levels: {layer1: al}}}", "blocks.b.levels.layer1: Input should be 'all' (got 'al')"),
        ("rrs: {modes: {median: 3}}", "rrs.modes.median: Input should be 'max' or 'mean'"),
        ("loss: {segmentation: dice}", "loss.segmentation: Input should be 'cross_entropy' or 'focal' (got 'dice')"),
        ("anomalies: {types: {normal: 1}}", "hold no anomaly source; give sdas, dtd, self or real a weight"),
        ("anomalies: {opacity: {sdas: [0.9, 0.5]}}", "a range starts with its smaller number, got 0.9 to 0.5"),
        ("anomalies: {opacity: {sdas: [0.5, 1.5]}}", "opacity lies within 0 and 1; that of sdas does not"),
        ("anomalies: {opacity: {dtd: [0.5, 1]}}", "opacity lacks a range for sdas"),
        ("anomalies: {min_perlin_scale: 6}", "perlin_scale 6 must exceed min_perlin_scale 6"),
        ("5: 3", "5: Keys should be strings"),
    ],
)
def test_a_wrong_or_impossible_value_is_named_with_its_key(refusal, text, message):
    told = refusal(RealNetConfig, text)
    assert "stage.yaml:\n  " in told and message in told


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        (DiffusionConfig, "image_size: 100", "image_size 100x100 must be a multiple of 32 for 6 levels"),
        (ClassifierConfig, "image_size: [64, 48]", "image_size 64x48 must be a multiple of 32"),
        (DiffusionConfig, "model: {channel_mult: []}", "model.channel_mult: Tuple should have at least 1 item"),
        (SampleConfig, "strength: [-0.1, 0.2]", "strength must be 0 (normal images) or more, got -0.1"),
        (SampleConfig, "sampler: dpm", "set respacing to snr10, not ddim20"),
        (DatasetConfig, "classes: [a]", "image_root: is missing"),
        (
            DatasetConfig,
            "image_root: x\nclasses: [a]\nforeground: {b: full}",
            "foreground names b, which classes does not list",
        ),
    ],
)
def test_values_that_contradict_each_other(refusal, model, text, message):
    assert message in refusal(model, text)


def test_of_a_choice_between_words_and_keys_only_the_one_that_was_meant_is_explained(refusal):
    keys = refusal(DatasetConfig, "image_root: x\nforeground: {a: {channel: gray}}")
    assert keys.splitlines()[1:] == [
        "  foreground.a.channel: Input should be 'grey', 'red', 'green' or 'blue' (got 'gray')"
    ]
    assert "foreground.a: Input should be 'full' or 'auto' (got 'fll')" in refusal(
        DatasetConfig, "image_root: x\nforeground: {a: fll}"
    )


def test_all_problems_of_a_file_come_in_one_message(refusal):
    assert len(refusal(RealNetConfig, "seed: x\ntrain: {batch_size: 0, num_epochs: 0}").splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "is not valid YAML"),
        ("seed: 1\ntrain: {}\nseed: 2", "the key 'seed' appears twice"),
        ("- 1", "must hold keys and values, got list"),
    ],
)
def test_what_is_no_mapping(refusal, text, message):
    assert message in refusal(RealNetConfig, text)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.yaml", "binary.yaml", "."):
        with pytest.raises(UserError, match="cannot read the config"):
            load(RealNetConfig, tmp_path / name)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.batch_size=8", "train.batch_size", 8),
        ("optimiser.learning_rate=1e-3", "optimiser.learning_rate", 1e-3),
        ("image_size=[128, 64]", "image_size", (128, 64)),
        ("blocks.block1.levels.layer1=all", "blocks.block1.levels.layer1", "all"),
        ("blocks.block9={levels: {layer2: 3}}", "blocks.block9.levels.layer2", 3),
        ("anomalies.types.dtd=0.2", "anomalies.types.dtd", 0.2),
        ("anomalies.opacity.sdas=[0.1, 0.2]", "anomalies.opacity.sdas.high", 0.2),
        ("train.num_steps=null", "train.num_steps", None),
        ("backbone.weights=a=b.pth", "backbone.weights", "a=b.pth"),
    ],
)
def test_overrides_reach_every_key(read, override, key, value):
    found = read(RealNetConfig, "train: {num_steps: 5}", override).model_dump()
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_the_last_override_wins_and_the_file_gives_the_rest(read):
    config = read(RealNetConfig, "seed: 3\ntrain: {batch_size: 2}", "train.batch_size=4", "train.batch_size=6")
    assert (config.seed, config.train.batch_size) == (3, 6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_sze=3", "--set:\n  train.batch_sze: unknown key (value 3); did you mean train.batch_size?"),
        ("trian.batch_size=3", "did you mean train?"),
        ("train.batch_size=0", "train.batch_size: Input should be greater than 0 (got 0)"),
        ("seed.x=3", "--set seed.x=3: seed holds a value, not keys"),
        ("seed", "--set takes key=value, such as train.batch_size=8, got 'seed'"),
        ("seed=[", "--set seed=[ is not valid YAML"),
    ],
)
def test_overrides_are_checked_as_the_file_is(refusal, override, message):
    assert message in refusal(RealNetConfig, "", override)


def test_a_mistake_in_the_file_is_the_files_even_where_an_override_would_hide_it(refusal):
    assert "stage.yaml" in refusal(RealNetConfig, "train: {batch_size: 0}", "train.batch_size=3")


@pytest.mark.parametrize("model", [RealNetConfig, DiffusionConfig, ClassifierConfig, SampleConfig])
def test_what_is_dumped_loads_as_the_same(read, model):
    text = "strength: [0, 0.3]" if model is SampleConfig else "image_size: [64, 128]\noptimiser: {learning_rate: 1e-5}"
    config = read(model, text)
    assert read(model, dump(config)) == config != model()


def test_a_datasets_dump_loads_as_the_same_by_any_yaml_reader(read):
    config = read(
        DatasetConfig, "image_root: x\nclasses: [01, on]\nforeground: {01: {channel: red, close: 3}, on: full}"
    )
    assert read(DatasetConfig, dump(config)) == config
    assert yaml.safe_load(dump(config))["classes"] == ["01", "on"]


def test_configs_are_frozen():
    config = RealNetConfig()
    for section, key in ((config, "seed"), (config.train, "batch_size"), (config.blocks["block1"], "stride")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)


def test_defaults_of_one_config_are_not_those_of_another():
    RealNetConfig().blocks.clear()
    assert len(RealNetConfig().blocks) == 4


def test_an_unknown_dataset_is_refused_with_those_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "EXPERIMENTS", tmp_path)
    with pytest.raises(UserError, match=r"no dataset 'mine': .*none in this folder.*prepare_data\.py add --name mine"):
        load_dataset("mine")
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.yaml").write_text("image_root: x")
    assert experiments() == ["a", "b"] and load_dataset("a").image_root == "x"
    with pytest.raises(UserError, match=r"\(datasets: a, b\)"):
        load_dataset("mine")


def test_a_preset_gives_the_defaults_below_the_file(tmp_path):
    path = tmp_path / "realnet.yaml"
    path.write_text("preset: cpu\ntrain: {num_steps: 7}\nblocks: {one: {levels: {layer1: all}}}\n")
    found = load(RealNetConfig, path)
    assert found.backbone.name == "tf_efficientnet_lite0" and found.features.normalise == "auto"
    assert found.train.num_steps == 7 and found.train.batch_size == 8  # a section is joined
    assert list(found.blocks) == ["one"]  # what has names of its own is replaced
    assert load(RealNetConfig, path, ["preset=published"]).backbone.name == "wide_resnet50_2.racm_in1k"
    path.write_text("{}")
    assert load(RealNetConfig, path, ['preset="cpu"', "seed=5"]).backbone.weights == "package"
    assert load(RealNetConfig, path) == RealNetConfig()
    with pytest.raises(UserError, match=r"preset: Input should be 'published' or 'cpu' \(got 'gpu'\)"):
        load(RealNetConfig, path, ["preset=gpu"])
