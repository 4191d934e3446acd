"""Pictures to begin with, rendered with the masks of their objects."""

from tempfile import TemporaryDirectory

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.demo.scene import Scene
from amodal_pipeline.scenes.config import ScenesConfig
from amodal_pipeline.scenes.dataset import render_split

CHOSEN = ((3, 1), (2, 0), (11, 1))  # seeds, and which of the pictures of each


def rendered(side: int = 512, count: int = len(CHOSEN)) -> list[Scene]:
    """Render ``count`` scenes of ``side`` pixels, about a second each; return them."""
    found = []
    for seed, index in CHOSEN[:count]:
        config = ScenesConfig(
            image_size=side,
            minimum_objects=3,
            maximum_objects=6,
            crowding=1.0,
            elevation=(10.0, 22.0),
            max_occlusion_rate=0.6,
            minimum_amodal_pixels=int(0.015 * side**2),
            minimum_visible_pixels=int(0.004 * side**2),
            seed=seed,
        )
        with TemporaryDirectory() as folder:
            table = render_split(config, "demo", index + 1, folder)
            row = table.images.set_index("image_id").loc[index]
            picture = read_image(table.metadata.image_root, row["file_name"])
        own = table.instances[table.instances["image_id"] == index]
        masks = rle.decode(own["visible_rle"].tolist(), picture.shape[:2]).astype(bool)
        names = {category.id: category.name for category in table.metadata.categories}
        empty = Scene(picture, picture.shape[:2])
        found.append(empty.with_objects(list(masks), [names[c] for c in own["category_id"]]))
    return found
