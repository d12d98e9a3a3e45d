"""What `genjax` says of itself, told without importing what its commands need."""

from importlib.metadata import entry_points

from genjax.run.shipped import own_families, to_list

HELP = ("-h", "--help")
# The first line of each command's docstring.
USAGE = """\
usage: genjax COMMAND ...

  train RECIPE     Train from the beginning.
  show RECIPE      Return the recipe as plain JSON values, every default spelled out.
  compile RECIPE   Compile the train step of a recipe, and estimate the memory and time that it needs.
  profile RECIPE   Run steps under jax's profiler, and time their operations.
  resume RUN       Continue a run from its last good checkpoint, as if it had never stopped.
  list             List the recipes that come with genjax, and the families.
  prepare DATA     Decode a data set once, into a file that streams several times as fast: `--data FILE`.
  sample RUN       Draw images from a trained run.
  reconstruct RUN  Encode and decode images of the test split; the decoder gets the encoder's mean.
  interpolate RUN  Draw images along paths in latent space.
  traverse RUN     Draw a test image with one latent changed at a time, the most active latents first.
  manipulate RUN   Move test images in latent space towards a class.
  manifold RUN     Draw images over the plane of two latents (Kingma and Welling 2014, figure 4).
  mix RUN          Draw images that mix two styles in different layers (Karras et al. 2019, figure 3).
  project RUN      Find the styles whose images are nearest to given ones (Karras et al. 2020, appendix D).
  inspect DATA     Read a whole data set, write a grid of its images by class, and report.
  evaluate RUN     Measure the quality of samples, and the likelihood of images of the run's `test_split`.
  fidelity SAMPLES Compare any two sets of images by the features of a network.
  compare RUNS     Compare runs of any family by their latest evaluations.
  tradeoff RUN     Measure fidelity and diversity of samples, and what they cost, over an option of theirs.
  score RUN        Compute the likelihood of each image, and list the least likely ones.
  encode RUN       Map images to their latents: a VAE's means of q(z|x), a flow's or diffusion's z.
  export RUN       Write a trained model to a file of its own, to keep, share, and draw from.
  import FAMILY    Turn the weights of another implementation into a model file, to draw from as from a run.
  classify RUN     Tell classes of test images by Bayes' rule, beside a classifier that was trained to do so.
  bench losses     Time every function of genjax.objectives and its gradient, compiled and eager.
  bench steps      Time compiled training steps of recipes with all metrics, and the loop around them.
  bench startup    Time `genjax train` from the command to the record of the first step.

RECIPE is a name from `genjax list`, or the path of your own .py file.
`genjax COMMAND --help` lists the options. Every command takes --recipe FILE too, for
runs of a family that this .py file registers; its code is run."""  # noqa: E501


def answer(arguments: list[str]) -> str | None:
    """Return what to print if a command line asks for the commands, or for genjax's own recipes."""
    if not arguments or arguments[0] in HELP:
        return USAGE
    # A package's families are listed once they are imported.
    if arguments == ["list"] and not entry_points(group="genjax.families"):
        return to_list(own_families())
    return None
