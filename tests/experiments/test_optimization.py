"""The arguments of an optimizer, as flags and presets give them."""

from experiments import classify, detect, optimization, presets, segment
from experiments import options as flags


def test_another_optimizer_does_not_get_the_arguments_of_the_presets_own():
    """Muon's would be refused, and Nesterov's momentum would make Adam another one."""
    for verb, known in (
        (segment, presets.SEGMENTATION),
        (detect, presets.DETECTION),
        (classify, presets.CLASSIFICATION),
    ):
        for optimizer in ("adam", "rmsprop"):
            options = flags.parse(verb.Options, ["--optimizer", optimizer], known)
            assert options.optimizer.nesterov is None and not options.optimizer.optimizer_options
            assert options.optimizer.learning_rate == known["shapes"]["learning_rate"]
        same = flags.parse(
            verb.Options, ["--optimizer", known["shapes"].get("optimizer", "sgd")], known
        )
        assert same == flags.parse(verb.Options, [], known)
        assert same.optimizer.nesterov is True


def test_nesterov_is_the_optimizer_s_own_unless_it_is_given():
    def arguments(*argv):
        argv = ["--model", "resnet18", *argv]
        options = flags.parse(classify.Options, argv, presets.CLASSIFICATION, variant="model")
        return optimization.optimizer_options(options.optimizer)

    assert arguments("--optimizer", "muon") == {}  # optax's Muon has Nesterov's form
    assert arguments("--optimizer", "muon", "--no-nesterov") == {"nesterov": False}
    assert arguments("--optimizer", "sgd", "--no-nesterov")["nesterov"] is False
    assert arguments("--optimizer", "adam", "--nesterov") == {"nesterov": True}
    assert "nesterov" not in arguments("--optimizer", "adam")
