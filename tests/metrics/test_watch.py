import dataclasses
import re

import pytest

from genjax.metrics.watch import PATIENCE, RULES, Watch, few_images
from genjax.models import FAMILIES
from genjax.models.dcgan import DcganConfig
from genjax.models.gan import GanConfig
from genjax.models.glow import GlowConfig
from genjax.models.wgan import WganConfig, WganGpConfig
from genjax.types import ImageSpec

HEALTHY = {"accuracy_real": 0.7, "accuracy_fake": 0.7, "d_fake": 0.4, "diversity": 0.95}
D_WINS = {"accuracy_real": 1.0, "accuracy_fake": 1.0, "d_fake": 0.001, "diversity": 0.95}
COLLAPSED = {**HEALTHY, "diversity": 0.1}


def _warnings(records, model=None):
    watch = Watch(model or GanConfig(), ImageSpec(16, 16, 1))
    return [alarm.warning for record in records for alarm in watch(record)]


def test_a_healthy_game_is_quiet():
    assert _warnings([HEALTHY] * 500) == []


def test_a_sign_must_hold_for_long():
    assert _warnings([D_WINS, HEALTHY] * 100) == []
    assert _warnings([D_WINS] * (PATIENCE - 1)) == []


def test_d_wins_is_said_once_an_episode():
    (warning,) = _warnings([D_WINS] * 5 * PATIENCE)
    assert "discriminator wins" in warning
    assert len(_warnings(([D_WINS] * PATIENCE + [HEALTHY]) * 2)) == 2


def test_collapse_is_said():
    (warning,) = _warnings([COLLAPSED] * 2 * PATIENCE)
    assert "mode collapse" in warning


def test_samples_at_the_edges_of_the_data_are_said():
    """Records are of 25 Gaussians from step 900 on, at ten times D's rate and at the plain one."""
    (warning,) = _warnings([{**HEALTHY, "diversity": d} for d in (1.32, 1.26, 1.33, 1.35) * 20])
    assert "wider than the data" in warning
    assert _warnings([{**HEALTHY, "diversity": d} for d in (1.04, 1.0, 0.98, 0.96) * 20]) == []


def test_a_discriminator_that_knows_its_images_by_heart_is_said():
    (warning,) = _warnings([{**HEALTHY, "real_sign": 0.97}] * 2 * PATIENCE, DcganConfig())
    assert "by heart" in warning and "--augment ada" in warning
    # StyleGAN2 on MNIST begins like this, and 0.6 is the target of adaptive augmentation.
    assert _warnings([{**HEALTHY, "real_sign": sign} for sign in (0.87, 0.77, 0.6) * 20]) == []


def test_a_slow_opening_is_no_collapse():
    """The diversity is that of the first records of WGAN-GP on MNIST, one in four."""
    opening = (
        0.12,
        0.2,
        0.33,
        0.39,
        0.43,
        0.46,
        0.49,
        0.5,
        0.52,
        0.55,
        0.59,
        0.64,
        0.7,
        0.77,
        0.81,
    )
    assert len(opening) * 4 > PATIENCE
    assert _warnings([{**HEALTHY, "diversity": d} for d in opening for _ in range(4)]) == []


def test_a_family_without_these_metrics_is_not_watched():
    assert _warnings([{"loss": 1.0}] * 100) == []


def test_samples_that_get_worse_are_said():
    records = [{"energy_distance": value} for value in (0.5, 0.1, 0.25, 0.35, 0.4)]
    assert _warnings(records) == []
    (warning,) = _warnings([*records, {"energy_distance": 0.5}, *[HEALTHY] * 9])
    assert "get worse" in warning


def test_the_frechet_distance_is_heard_before_that_of_pixels():
    """Records are of a GAN of ten times the rates on the digits, which is at its best early on."""
    distances = (40.1, 24.5, 19.6, 26.0, 37.4, 47.9, 61.8, 78.2)
    records = [{"frechet_distance": value, "energy_distance": 0.1} for value in distances]
    (warning,) = _warnings(records)
    assert "frechet_distance is over one and a half times its best" in warning
    assert _warnings(records[:-2]) == []
    # What the distance of pixels says beside it is not heard.
    noise = (0.001, 0.1, 0.2, 0.3, 0.4)
    assert _warnings([{"frechet_distance": 8.0, "energy_distance": each} for each in noise]) == []


def test_samples_that_stay_far_from_the_data_are_said():
    """Records are of DCGAN on the digits: its beginning, and with ten times the rates."""
    records = [{"pixel_memorization": value} for value in (2.3, 2.1, 1.9, 1.8, 1.7, 1.6, 1.5)]
    assert _warnings(records) == []
    rates = [{"pixel_memorization": each} for each in (2.8, 2.3, 2.0, 1.9, 1.85, 1.84, 1.84, 1.84)]
    (warning,) = _warnings(rates)
    assert "far from all training images" in warning and "larger --discriminator" in warning


def test_a_critic_that_runs_away_is_said():
    """Records are of WGAN-GP on the digits without its penalty."""
    healthy = [{"wasserstein_estimate": 19.0, "diversity": 0.95}] * 99
    assert _warnings(healthy, WganGpConfig()) == []
    runs_away = [{"wasserstein_estimate": 10.0 * i, "diversity": 0.95} for i in range(50)]
    (warning,) = _warnings(runs_away, WganGpConfig())
    assert "runs away" in warning and "--gradient-penalty-weight" in warning
    assert _warnings(runs_away, WganConfig()) == []  # whose estimate has a unit of its own


def test_few_images_are_said_at_the_start():
    (alarm,) = few_images(DcganConfig(), 36)
    assert alarm.warning.startswith("36 training images: ")
    assert alarm.warning.endswith("Try more images or --augment ada")
    assert few_images(DcganConfig(), 1437) == few_images(GlowConfig(), 36) == []


def test_a_collapse_that_ends_too_slowly_is_said():
    """The diversity is that of the paper's DCGAN with ten times D's rate."""
    slow = [{**HEALTHY, "diversity": 0.21 + 0.004 * i} for i in range(80)]
    (warning,) = _warnings(slow)
    assert "mode collapse" in warning


def test_copies_of_training_images_are_said():
    healthy = [{"pixel_memorization": value} for value in (1.4, 1.1, 1.0, 0.98)] * 3
    assert _warnings(healthy) == []
    (warning,) = _warnings([*healthy, *[{"pixel_memorization": 0.8}] * 5])
    assert "copies" in warning


@pytest.mark.parametrize("name", FAMILIES)
def test_each_warning_names_options_that_the_family_has(name):
    """Those after `Try`, with the player where it is of one."""
    model = FAMILIES[name].config()
    options = {"steps", "init", "temperature"}
    for field in dataclasses.fields(model):
        options.add(field.name.replace("_", "-"))
        if dataclasses.is_dataclass(own := getattr(model, field.name)):
            names = [each.name.replace("_", "-") for each in dataclasses.fields(own)]
            options |= {f"{field.name}.{each}" for each in names}
    for rule in RULES:
        is_game = {"d_fake", "diversity", "real_sign"} & set(rule.needs)
        if is_game and not hasattr(model, "generator"):
            continue
        of_some = ("posterior collapse", "not invertible", "overflow", "explosion", "by heart")
        if rule.name in (*of_some, "critic runs away"):
            continue
        _, advice = rule.warning(model).split(". Try ")
        named = re.findall(r"--([a-z0-9._-]+)", advice)
        assert named and {each.rstrip(".") for each in named} <= options, rule.name


def test_a_warning_advises_nothing_that_is_so_already():
    relativistic = dict(loss="relativistic", r1_gamma=1.0, r2_gamma=1.0)
    (wins,) = _warnings([D_WINS] * PATIENCE, DcganConfig())
    assert "Try --loss relativistic --r1-gamma 1 --r2-gamma 1 or a lower" in wins
    (wins,) = _warnings([D_WINS] * PATIENCE, DcganConfig(**relativistic | {"r2_gamma": 0.0}))
    assert "Try --r2-gamma 1 or a lower" in wins
    (wins,) = _warnings([D_WINS] * PATIENCE, DcganConfig(**relativistic))
    assert "Try a larger --r1-gamma and --r2-gamma or a lower --discriminator.learn" in wins
    copies = [{"pixel_memorization": 0.5}] * PATIENCE
    for model, advice in (
        (DcganConfig(), "more images, --augment ada or fewer --steps"),
        (DcganConfig(augment="ada"), "more images or fewer --steps"),
        (WganConfig(), "more images, --augment diff or fewer --steps"),
        (GanConfig(), "more images or fewer --steps"),
    ):
        assert _warnings(copies, model)[0].endswith(f"Try {advice}")


def test_thresholds_on_recorded_runs():
    """Rows are (diversity, accuracy_real, accuracy_fake, d_fake) as trainings logged them."""
    names = ("diversity", "accuracy_real", "accuracy_fake", "d_fake")

    def warnings(row):
        return _warnings([dict(zip(names, row, strict=True))] * PATIENCE)

    assert warnings((0.92, 0.87, 0.90, 0.36)) == []  # digits, end of the recipe
    assert warnings((0.95, 0.70, 0.76, 0.37)) == []  # MNIST, step 39,400
    assert len(warnings((0.65, 0.94, 0.97, 0.07))) == 2  # digits, D's learning rate times 10


def test_posterior_collapse_is_said_of_none_and_of_few_latents():
    for active, size in ((0, 4), (0, 50), (4, 50)):
        (warning,) = _warnings([{"active_units": active, "active_fraction": active / size}] * 99)
        assert "posterior collapse" in warning
    # All of two latents are active, or 17 of 50, as in Burda's VAE on MNIST.
    for active, size in ((2, 2), (1, 2), (17, 50)):
        assert _warnings([{"active_units": active, "active_fraction": active / size}] * 99) == []


def test_a_flow_that_cannot_be_inverted_is_said_at_once():
    assert _warnings([{"round_trip_error": 2e-5, "overflow_fraction": 0.0}] * 99) == []
    (warning,) = _warnings([{"round_trip_error": 0.05}], GlowConfig())
    assert "hardly be inverted" in warning


def test_samples_that_overflow_are_said_when_it_lasts():
    assert _warnings([{"overflow_fraction": 0.05}] * 2) == []
    (warning,) = _warnings([{"overflow_fraction": 0.05}] * 99)
    assert "overflow" in warning


def test_a_singular_value_that_explodes_is_said():
    grows = [{"g_max_singular_value": 1 + 0.02 * i} for i in range(200)]
    assert _warnings(grows) == []
    (warning,) = _warnings(grows + [{"g_max_singular_value": 12.0}] * 5)
    assert "singular value explodes" in warning
    # A spike of one record is none.
    assert _warnings([*grows, {"g_max_singular_value": 12.0}, *grows[-30:]]) == []
