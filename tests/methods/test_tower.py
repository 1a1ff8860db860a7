"""The image size of a tower inside a checkpoint that nothing beside it describes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmsieve.methods.tower import Tower, inside_tower


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tensors that tell the geometry of so400m: 27 x 27 patches of 14 pixels."""
    file = tmp_path_factory.mktemp("tower") / "model.safetensors"
    shapes = {
        "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "embeddings.position_embedding.weight": (729, 1152),
        "encoder.layers.0.mlp.fc1.weight": (4304, 1152),
    }
    made = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(made, file)
    return file


GRID = [[384 * a, 384 * b] for a in (1, 2) for b in (1, 2)]


@pytest.mark.parametrize(
    ("config", "source", "size", "said"),
    [
        ({}, "google/siglip-so400m-patch14-384", 384, ""),
        ({}, "models/siglip-so400m-patch14-384-copy/", 384, ""),
        ({}, "models/siglip-so400m-patch14-378", 378, ""),
        ({}, "models/siglip-so400m", 384, "384 pixels by the published towers of its width"),
        ({}, "", 384, "384 pixels by the published towers of its width"),
        ({"pesudo_img_size": 384}, "models/siglip", 384, "384 pixels by pesudo_img_size"),
        ({"pesudo_img_size": 380}, "models/siglip-384", 380, "380 pixels by pesudo_img_size"),
        ({"pesudo_img_size": 512}, "models/siglip-384", 384, ""),
        ({"image_grid_pinpoints": GRID}, "vision", 384, "384 pixels by image_grid_pinpoints"),
        ({"image_grid_pinpoints": "(1x1),...,(6x6)"}, "vision", 384, "384 pixels by the publi"),
    ],
)
def test_a_name_is_not_all_that_tells_the_image_size(config, source, size, said, tensors):
    names = ("embeddings.patch_embedding.weight", "embeddings.position_embedding.weight")
    places = {n: (tensors, n) for n in (*names, "encoder.layers.0.mlp.fc1.weight")}
    tower = inside_tower(tensors.parent / "model", config, source, places)
    assert isinstance(tower, Tower)
    assert (tower.image.size, tower.config["image_size"], tower.patches) == (size, size, 729)
    assert said in tower.note and ("images of" in tower.note) is bool(said)
