"""Export local anomalies: images, masks, the normal images they came from, and a manifest."""

from collections.abc import Sequence

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import RealNetConfig, dump

EPILOG = """\
reads    the normal training images, and what anomalies.types of realnet.yaml asks for: SDAS images, DTD textures,
         photographs of real defects, or the images themselves (--set 'anomalies.types={self: 1}')
writes   DIR/image/00000.png …, DIR/mask/… and DIR/source/… with the same file names, and DIR/manifest.csv; with
         several classes, DIR holds one folder per class

The same code makes the training items of train_realnet.py, but here every image has an anomaly. For normal images, run
`sample.py --strength 0 0`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Export local anomalies of the classes that the flags name."""
    parser = cli.parser(__doc__, class_name=True, epilog=EPILOG)
    parser.add_argument("--num_samples", type=int, default=1000, metavar="N", help="images per class (default: 1000)")
    parser.add_argument(
        "--output", type=location, required=True, metavar="DIR", help="a folder without earlier results"
    )
    flags = parser.parse_args(arguments)
    config = cli.load_config(RealNetConfig, "realnet", flags)

    from realnet.anomalies.product import anomalous_only, check_request, export_anomalies
    from realnet.anomalies.synthesis import AnomalySynthesizer, build_synthesizer
    from realnet.data.registry import open_dataset
    from realnet.data.tiles import tiling_of
    from realnet.errors import for_each
    from realnet.inspection.check import require_sound

    dataset = open_dataset(flags.dataset)
    classes = cli.choose_classes(flags.class_name, dataset.classes, flags.dataset)
    folders = {name: flags.output / name if len(classes) > 1 else flags.output for name in classes}
    check_request(folders.values(), flags.num_samples)

    def synthesizer_of(class_name: str) -> AnomalySynthesizer:
        return build_synthesizer(
            anomalous_only(config.anomalies),
            dataset,
            class_name,
            image_size=config.image_size,
            tiling=tiling_of(config),
        )

    synthesizers = dict(zip(classes, for_each(synthesizer_of, classes), strict=True))
    sources = (file for made in synthesizers.values() for file in made.source_files)
    uses_real = config.anomalies.types.get("real", 0) > 0  # none may stand in the test split
    require_sound(dataset, classes, with_test=uses_real, sources=sources)
    entries = {name: dataset.index(name, write=not flags.dry_run).train for name in classes}
    if flags.dry_run:
        print(dump(config.anomalies))
    for name in classes:
        numbers = f"{flags.num_samples} anomalies on {len(entries[name])} normal images of {name}"
        if flags.dry_run:
            print(f"would write {numbers} to {folders[name]}")
            continue
        export_anomalies(
            entries[name],
            dataset.image_root,
            synthesizer=synthesizers[name],
            num_samples=flags.num_samples,
            seed=config.seed,
            output=folders[name],
            image_bits=dataset.config.image_bits,
            draws=config.draws,
        )
        print(f"written    {numbers} to {folders[name]}")
