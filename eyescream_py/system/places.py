"""Where the project keeps pictures when nobody says otherwise."""

from pathlib import Path

AWS_FOLDER = "/mnt/datasets/out_aug_64x64"  # where the Lua program's --aws looked
_CHECKOUT = Path(__file__).resolve().parents[2]


def dataset_folder() -> Path:
    """`dataset/` of the checkout; of the working directory where the package is installed."""
    beside = _CHECKOUT / "dataset"
    return beside if (beside / "generate_dataset.py").is_file() else Path("dataset").absolute()
