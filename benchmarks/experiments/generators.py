"""NAM Fig. 4: the same street digits, mapped with generators of different kinds under one budget."""

from pathlib import Path
from typing import Any

from namap.generators import find_family, train_generator
from namap.mapping import VAENAM
from namap.settings import make_settings

from ..judging import label_judge
from ..methods import samples_of
from ..scene import QUICK_IMAGES, Answer, Experiment, Row, Scene
from .digits import HEADLINE, STREET2DIGITS

GENERATOR_IMAGES, MAPPING_IMAGES = 150_000, 100_000
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dcgan": ("DCGAN", {"arch": "dcgan"}),
    "sn-gan": ("SN-GAN", {"arch": "dcgan", "spectral_norm": True}),
    "vae-h": ("VAE-h", {"arch": "vae", "beta": 5e-3}),
    "vae-l": ("VAE-l", {"arch": "vae", "beta": 2e-4}),
    "glo": ("GLO", {"arch": "glo"}),
}


def with_generator(kind: str) -> Row:
    """A generator of this kind, and VAE-NAM's mapping under the appearance-invariant loss with it."""
    title, own = KINDS[kind]

    def settings(scene: Scene) -> dict[str, Any]:
        budgets = {"images": GENERATOR_IMAGES, "mapping_images": MAPPING_IMAGES}
        return {"latent_dim": 32, **(dict.fromkeys(budgets, QUICK_IMAGES) if scene.quick else budgets), **own}

    def run(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
        values = settings(scene)
        arch, mapping_images = values.pop("arch"), values.pop("mapping_images")
        recipe = make_settings(find_family(arch), {**values, "seed": seed}, arch)
        g = train_generator(scene.x_train, recipe, home / "generator")
        mapping = VAENAM(g, images=mapping_images, seed=seed).fit(scene.y_train, home / "mapping")
        found = mapping.translate(scene.y_test, scene.experiment.solutions, seed=seed)
        losses = found.losses[:, 0]
        evidence, seen = {"loss": float(losses.mean())}, values["images"] + mapping_images
        return Answer(found.x, "y_test", seen, evidence, settings(scene), losses, samples=samples_of(g))

    return Row(run, title, settings)


GENERATORS = Experiment(
    name="generators",
    what="house numbers to handwritten digits with generators of five kinds and one small budget; digit kept",
    sources=STREET2DIGITS.sources,
    judge=label_judge,
    headline=HEADLINE | {"confidence_on_samples": "judge's confidence on samples of G"},
    rows={kind: with_generator(kind) for kind in KINDS},
    published="DCGAN and SN-GAN far above VAE and GLO (NAM, Fig. 4)",
)
